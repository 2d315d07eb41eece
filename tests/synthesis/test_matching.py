"""The terms of equation 4 against slow literal versions, and the layers they can look at."""

from __future__ import annotations

import pytest
import torch
from tests.oracles import features as oracle
from torch import Tensor

from phosphene.errors import ModelError, OptionError
from phosphene.synthesis.matching import FacetLoss, Match, channel_values, mismatch, previous_norm
from phosphene.synthesis.objectives import StepOutputs
from phosphene.synthesis.robust_loss import AdaptiveDistance
from phosphene.synthesis.schedules import linear
from phosphene.synthesis.step_rules import StepState
from phosphene.synthesis.streams import Streams
from phosphene.types import Layout

FACETS, CHANNELS = 2, 6
TOP = [[0, 2, 5], [1, 3, 4]]


LAYOUTS: dict[str, Layout | None] = {"layer": "NCHW", "below": "NCHW"}


def reading(step: int = 0, steps: int = 1, size: int = 4) -> StepOutputs:
    generator = torch.Generator().manual_seed(4)
    draw = {"generator": generator, "dtype": torch.float64}
    found = {
        "layer": torch.randn(FACETS, CHANNELS, size, size, **draw),  # type: ignore[arg-type]
        "below": torch.randn(FACETS, 3, 8, 8, **draw),  # type: ignore[arg-type]
    }
    return StepOutputs(torch.zeros(FACETS, 2), found, torch.zeros(FACETS, 3, 16, 16), 0, step, steps, LAYOUTS)


def targets(places: int) -> Tensor:
    return torch.randn(FACETS, CHANNELS, places, generator=torch.Generator().manual_seed(5))


def mask() -> Tensor:
    return torch.zeros(FACETS, CHANNELS).scatter(1, torch.tensor(TOP), 1.0)


def activation(look: StepOutputs, row: int, places: int) -> Tensor:
    values = look.activations["layer"].float()[row].flatten(1)  # (k, h w)
    return values if places > 1 else values.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("places", [1, 16])
def test_dot_and_distance_are_equations_2_and_3(places: int) -> None:
    look, target = reading(), targets(places)
    match = Match("layer", target, mask())
    for row in range(FACETS):
        own = activation(look, row, places)
        assert match.dot(look)[row].item() == pytest.approx(oracle.dot(own, target[row], TOP[row]), rel=1e-4)
        assert match.distance(look)[row].item() == pytest.approx(oracle.mdist(own, target[row], TOP[row]), rel=1e-4)


def test_relative_distances_are_in_units_of_the_target() -> None:
    look, target = reading(), targets(1)
    plain, relative = (Match("layer", target, mask(), 2, relative) for relative in (False, True))
    length = (target[..., 0] * mask()).norm(dim=1)
    torch.testing.assert_close(relative.distance(look), plain.distance(look) / length)
    torch.testing.assert_close(relative.dot(look), plain.dot(look) / length.square())
    torch.testing.assert_close(mismatch(relative)(look), relative.distance(look))


def test_the_loss_is_equation_4_with_its_schedule() -> None:
    target, decay = targets(1), linear(1e-3, 1e-4)
    match = Match("layer", target, mask())
    loss = FacetLoss(match, match, AdaptiveDistance((FACETS,)), previous_norm("below"), decay=decay)
    for step in (0, 7, 20):
        look = reading(step, 21)
        value = loss.objective(look)
        for row in range(FACETS):
            own = activation(look, row, 1)
            shape, scale = loss.adaptive.shape[row].item(), loss.adaptive.scale[row].item()
            expected = oracle.loss(
                oracle.negative_log_likelihood(oracle.mdist(own, target[row], TOP[row]), shape, scale),
                oracle.dot(own, target[row], TOP[row]),
                oracle.schedule(1e-3, 1e-4, step + 1, 21),
                oracle.previous(look.activations["below"][row].flatten(1)),
            )
            assert -value[row].item() == pytest.approx(expected, rel=1e-4)
            kept = loss.terms
            assert (kept["distance"] - kept["dot"] + kept["previous"])[row].item() == pytest.approx(expected, rel=1e-4)
        loss.fit(look.images, _state(step))


def test_the_loss_of_each_channel_is_summed_over_those_that_count() -> None:
    look, target = reading(), targets(1)
    match = Match("layer", target, mask())
    loss = FacetLoss(match, match, AdaptiveDistance((FACETS, CHANNELS)), weights=(1.0, 0.0))
    loss.objective(look)
    loss.fit(look.images, _state(0))
    value = loss.objective(look)
    for row in range(FACETS):
        own = activation(look, row, 1)
        terms = [
            oracle.negative_log_likelihood(
                abs(float(own[j]) - float(target[row, j])),
                loss.adaptive.shape[row, j].item(),
                loss.adaptive.scale[row, j].item(),
            )
            for j in TOP[row]
        ]
        assert -value[row].item() == pytest.approx(sum(terms), rel=1e-4)


def test_a_term_of_weight_zero_has_no_gradient() -> None:
    look, target = reading(), targets(1)
    look.activations["layer"].requires_grad_()
    match = Match("layer", target, mask())
    dot_alone = FacetLoss(match, match, AdaptiveDistance((FACETS,)), weights=(0.0, 1.0))
    (gradient,) = torch.autograd.grad(dot_alone.objective(look).sum(), look.activations["layer"])
    expected = (target[..., 0] * mask() / 16)[:, :, None, None].expand_as(gradient)
    torch.testing.assert_close(gradient, expected.double(), rtol=1e-5, atol=1e-7)


def test_micro_batches_find_their_rows() -> None:
    whole, target = reading(), targets(1)
    match = Match("layer", target, mask())
    loss = FacetLoss(match, match, AdaptiveDistance((FACETS,), scale=torch.tensor([0.5, 4.0])), previous_norm("below"))
    together = loss.objective(whole)
    for row in range(FACETS):
        found = {name: values[row : row + 1] for name, values in whole.activations.items()}
        part = StepOutputs(whole.logits[row : row + 1], found, whole.images[row : row + 1], row, layouts=LAYOUTS)
        torch.testing.assert_close(loss.objective(part), together[row : row + 1])


def test_channels_of_every_kind_of_layer() -> None:
    images = torch.zeros(2, 3, 32, 32)
    maps = torch.rand(2, 5, 4, 4)
    expected = maps.mean(dim=(2, 3))[..., None]
    torch.testing.assert_close(channel_values(maps, images, layout="NCHW"), expected)
    torch.testing.assert_close(channel_values(maps.permute(0, 2, 3, 1), images, layout="NHWC"), expected)
    with pytest.raises(ModelError, match="nothing says which axes"):
        channel_values(maps, images)
    tokens = torch.cat([torch.full((2, 1, 5), 9.0), maps.flatten(2).transpose(1, 2)], dim=1)  # a class token first
    torch.testing.assert_close(channel_values(tokens, images), expected)
    torch.testing.assert_close(channel_values(tokens, images, maps=True), maps.flatten(2))
    assert channel_values(torch.rand(2, 5), images).shape == (2, 5, 1)
    odd = torch.rand(2, 23, 5)  # tokens that are no patches
    torch.testing.assert_close(channel_values(odd, images), odd.mean(dim=1)[..., None])


def test_places_of_a_layer_without_places_are_refused() -> None:
    with pytest.raises(ModelError, match="layer fc has no places"):
        channel_values(torch.rand(2, 5), torch.zeros(2, 3, 32, 32), "layer fc", maps=True)


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(OptionError, match="images of another size need pooled targets"):
        Match("layer", targets(9), mask()).distance(reading())


def _state(step: int) -> StepState:
    value = torch.zeros(FACETS, 3, 2, 2)
    return StepState(step, 21, value, value, Streams.of(0, range(FACETS)).at(step))
