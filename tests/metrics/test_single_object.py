"""Single-object index, object count and entropy on images whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from phosphene.errors import OptionError
from phosphene.metrics.single_object import (
    coverage,
    entropy,
    object_count,
    positive_evidence,
    salient_discs,
    single_object_index,
)


def spots(*places: tuple[int, int], side: int = 60) -> Tensor:
    """An image (1, 1, side, side) with bright squares of 5 x 5 at places."""
    image = torch.zeros(1, 1, side, side)
    for row, column in places:
        image[..., row - 2 : row + 3, column - 2 : column + 3] = 1.0
    return image


def seen_spots(images: Tensor) -> Tensor:
    """A network that is sure as soon as it sees one spot."""
    return (images.sum(dim=(1, 2, 3)) >= 20).float()


@pytest.mark.parametrize(("places", "index"), [([(20, 20)], 1.0), ([(15, 15), (48, 48)], 0.0)])
def test_one_object_gives_one_and_a_spare_gives_less(places: list[tuple[int, int]], index: float) -> None:
    image = spots(*places)
    assert single_object_index(image, image[:, 0], torch.zeros(1, 1, 1), seen_spots).tolist() == [index]


def test_a_network_that_needs_both_objects_gives_zero() -> None:
    image = spots((15, 15), (48, 48))

    def both(images: Tensor) -> Tensor:
        return (images.sum(dim=(1, 2, 3)) >= 45).float()

    assert single_object_index(image, image[:, 0], torch.zeros(1, 1, 1), both).tolist() == [0.0]


def test_the_disc_has_the_published_size_and_lies_inside() -> None:
    evidence = torch.zeros(1, 224, 224)
    evidence[0, 0, 0] = 1.0
    mask = salient_discs(evidence)[0, 0]
    rows = mask.any(dim=1).nonzero()
    assert (int(rows.min()), int(rows.max())) == (0, 128)
    assert float(mask.sum()) == pytest.approx(math.pi * 64**2, rel=0.01)


@pytest.mark.parametrize("places", [[(30, 30)], [(12, 12), (45, 45)], [(10, 10), (10, 48), (48, 30)]])
def test_the_count_is_the_number_of_separate_spots(places: list[tuple[int, int]]) -> None:
    assert object_count(spots(*places)[:, 0]).tolist() == [len(places)]


def test_weak_spots_and_empty_maps_do_not_count() -> None:
    evidence = spots((12, 12))[:, 0] + 0.3 * spots((45, 45))[:, 0]
    assert object_count(torch.cat([evidence, torch.zeros_like(evidence)])).tolist() == [1, 0]


def test_evidence_is_the_positive_part_before_the_channels_are_summed() -> None:
    images, gradient = torch.tensor([[[[0.5]], [[0.9]], [[0.1]]]]), torch.tensor([[[[2.0]], [[-5.0]], [[-1.0]]]])
    fill = torch.full((3, 1, 1), 0.4)
    expected = 2.0 * 0.1 + 0.0 + 1.0 * 0.3
    torch.testing.assert_close(positive_evidence(images, gradient, fill), torch.tensor([[[expected]]]))


def test_maps_that_do_not_fit_the_images_are_refused() -> None:
    with pytest.raises(OptionError, match="evidence of shape"):
        single_object_index(spots((20, 20)), torch.zeros(1, 4, 4), torch.zeros(1, 1, 1), seen_spots)


def test_entropy_is_the_logarithm_of_equal_shares() -> None:
    shares = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(entropy(shares), torch.tensor([math.log(4), 0.0]))


def test_coverage_is_the_share_of_places_above_a_part_of_the_maximum() -> None:
    evidence = torch.zeros(3, 10, 10)
    evidence[0, :5] = 2.0
    evidence[0, 5] = 0.7  # below .4 of the maximum
    evidence[1, 3, 3] = 1e-3
    assert coverage(evidence).tolist() == pytest.approx([0.5, 0.01, 0.0])
    assert float(coverage(evidence, level=0.3)[0]) == pytest.approx(0.6)
