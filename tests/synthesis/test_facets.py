"""Facets: clusters of activations, their exemplars and weights."""

from __future__ import annotations

import pytest
import torch
from tests.oracles import features as oracle

from phosphene.errors import InputError, NumericalError, OptionError
from phosphene.synthesis.facets import (
    channel_mask,
    exemplar_weights,
    find_facets,
    strongest_channels,
    weighted_sum,
)


def kinds(*counts: int, channels: int = 12) -> torch.Tensor:
    """Images of several kinds, far from each other."""
    generator = torch.Generator().manual_seed(1)
    groups = [
        torch.randn(count, channels, generator=generator) + 12 * torch.randn(channels, generator=generator)
        for count in counts
    ]
    return torch.cat(groups)


def test_the_weights_are_equation_1() -> None:
    distances = [0.31, 0.4, 0.9, 2.5, 30.0]
    expected = torch.tensor(oracle.exemplar_weights(distances), dtype=torch.float64)
    torch.testing.assert_close(exemplar_weights(torch.tensor(distances, dtype=torch.float64)), expected)


def test_an_exemplar_at_the_center_takes_all_the_weight_without_overflow() -> None:
    assert exemplar_weights(torch.tensor([0.0, 1.0])).tolist() == [1.0, 0.0]
    assert exemplar_weights(torch.zeros(4)).tolist() == [0.25] * 4


def test_the_weighted_sum_is_equation_1() -> None:
    values, weights = torch.rand(4, 3, 5, 5, dtype=torch.float64), [0.1, 0.2, 0.3, 0.4]
    made = weighted_sum(values, torch.tensor(weights, dtype=torch.float64))
    torch.testing.assert_close(made, oracle.weighted_sum(list(values), weights))


def test_kinds_of_images_become_facets_the_largest_first() -> None:
    activations = kinds(12, 30, 20)
    found = find_facets(activations, 3, exemplars=5)
    assert [len(facet.members) for facet in found.facets] == [30, 20, 12]
    assert [set(facet.members) for facet in found.facets] == [
        set(range(12, 42)),
        set(range(42, 62)),
        set(range(12)),
    ]
    assert found.labels[:12].tolist() == [2] * 12
    assert found.notes == ()


def test_exemplars_are_the_nearest_to_the_center_of_their_own_cluster() -> None:
    found = find_facets(kinds(25, 25), 2, exemplars=6)
    for number, facet in enumerate(found.facets):
        distances = (found.points - found.centers[number]).norm(dim=1)
        inside = sorted(facet.members, key=lambda image: distances[image].item())
        assert list(facet.exemplars) == inside[:6]
        torch.testing.assert_close(facet.distances, distances[list(facet.exemplars)], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            facet.weights.double(),
            torch.tensor(oracle.exemplar_weights(facet.distances.tolist()), dtype=torch.float64),
            rtol=1e-3,
            atol=1e-5,
        )


def test_the_target_of_a_facet_is_the_weighted_sum_of_its_exemplars() -> None:
    activations = kinds(20, 20)
    facet = find_facets(activations, 2, exemplars=4).facets[1]
    expected = oracle.weighted_sum([activations[row] for row in facet.exemplars], facet.weights.tolist())
    torch.testing.assert_close(facet.mean(activations).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_facets() -> None:
    first, again = (find_facets(kinds(15, 15), 2, exemplars=5, seed=3) for _ in range(2))
    assert torch.equal(first.points, again.points)
    assert [facet.exemplars for facet in first.facets] == [facet.exemplars for facet in again.facets]


def test_a_small_cluster_is_said_aloud() -> None:
    found = find_facets(kinds(30, 12), 2, exemplars=20)
    assert len(found.facets[1].exemplars) == 12
    assert found.facets[1].weights.sum().item() == pytest.approx(1)
    assert "facet 1 has 12 of the 42 images" in found.notes[0]


@pytest.mark.parametrize(("count", "channels"), [(1, 5), (2, 5), (3, 1), (4, 5), (5, 1), (8, 2)])
def test_few_images_and_few_channels_are_no_trouble(count: int, channels: int) -> None:
    facets = min(2, count)
    found = find_facets(kinds(count, channels=channels), facets, exemplars=1)
    assert found.points.shape == (count, 2)
    assert bool(torch.isfinite(found.points).all())
    assert sum(len(facet.members) for facet in found.facets) == count


def test_too_few_images_are_refused() -> None:
    with pytest.raises(OptionError, match="5 readable images are too few for 2 facets of 10 exemplars"):
        find_facets(torch.rand(5, 4), 2)
    with pytest.raises(OptionError, match="give at least 7 images"):
        find_facets(torch.rand(5, 4), 7, exemplars=2)
    with pytest.raises(OptionError, match="at least 1 of each"):
        find_facets(torch.rand(5, 4), 0, exemplars=2)


def test_activations_that_say_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="all 5 images give the same activations"):
        find_facets(torch.ones(5, 4), 1, exemplars=2)
    with pytest.raises(NumericalError, match="NaN"):
        find_facets(torch.full((5, 4), float("nan")), 1, exemplars=2)
    copies = torch.cat([torch.zeros(6, 4), torch.ones(6, 4)])
    with pytest.raises(OptionError, match="only 2 of the 3 images differ"):
        find_facets(copies[[0, 6, 6]], 3, exemplars=1)


def test_every_facet_has_channels_of_its_own() -> None:
    target = torch.tensor([[0.0, 5.0, 1.0, 2.0], [9.0, -7.0, 3.0, 0.0]])
    top = strongest_channels(target, 2)
    assert top.tolist() == [[1, 3], [0, 2]]
    assert channel_mask(top, 4).tolist() == [[0, 1, 0, 1], [1, 0, 1, 0]]
    assert strongest_channels(target, 50).shape == (2, 4)
    with pytest.raises(OptionError, match="top-k 0"):
        strongest_channels(target, 0)


def test_a_long_seed_is_taken() -> None:
    """scikit-learn takes 32 bits of it."""
    found = find_facets(kinds(12, 9), 2, exemplars=3, seed=2**62 + 5)
    assert torch.equal(found.points, find_facets(kinds(12, 9), 2, exemplars=3, seed=5).points)
