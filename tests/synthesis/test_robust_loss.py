"""The adaptive robust distance against its published formula and numerical integration."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import k1
from tests.oracles import features as oracle

from phosphene.errors import OptionError
from phosphene.synthesis.robust_loss import (
    AdaptiveDistance,
    general_loss,
    log_partition,
    negative_log_likelihood,
)

SHAPES = [2.0, 0.0, -2.0, -math.inf, 1.0, 0.5, 1.7, 0.001, 1.999]


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_is_barrons(shape: float) -> None:
    distances = (0.0, 0.01, 0.7, 3.0, 40.0)
    for scale in (0.3, 1.0, 5.0):
        expected = tensor(*(oracle.general_loss(m, shape, scale) for m in distances))
        torch.testing.assert_close(general_loss(tensor(*distances), shape, scale), expected, rtol=1e-10, atol=1e-12)


def test_the_branches_are_the_limits_of_the_general_formula() -> None:
    distances = tensor(0.1, 1.0, 4.0)
    for limit, near in ((2.0, 2 - 1e-7), (0.0, 1e-7), (-math.inf, -1e7)):
        torch.testing.assert_close(general_loss(distances, near), general_loss(distances, limit), rtol=1e-5, atol=1e-6)


def test_the_printed_last_branch_would_not_be_zero_at_zero() -> None:
    assert general_loss(tensor(0.0), 1.0).item() == 0
    printed = abs(1.0 - 2) / 1.0 * ((0.0 / abs(1.0 - 2)) ** 2 + 1) ** 0.5 + 1
    assert printed == 2


@pytest.mark.parametrize("shape", [0.001, 0.05, 0.3, 1.0, 1.5, 1.9, 1.999])
def test_the_partition_is_the_integral(shape: float) -> None:
    assert log_partition(tensor(shape)).item() == pytest.approx(math.log(oracle.partition(shape)), abs=1e-8)


def test_the_partition_in_closed_form() -> None:
    assert log_partition(tensor(1.0)).exp().item() == pytest.approx(2 * math.e * k1(1.0), rel=1e-12)
    assert log_partition(tensor(2 - 1e-9)).exp().item() == pytest.approx(math.sqrt(2 * math.pi), rel=1e-7)
    assert log_partition(tensor(1e-9)).exp().item() == pytest.approx(math.pi * math.sqrt(2), rel=1e-5)


@pytest.mark.parametrize(("distance", "shape", "scale"), [(0.3, 0.4, 1.0), (2.0, 1.2, 0.5), (7.0, 1.9, 3.0)])
def test_value_and_gradients_of_the_likelihood(distance: float, shape: float, scale: float) -> None:
    given = [tensor(value).requires_grad_() for value in (distance, shape, scale)]
    value = negative_log_likelihood(*given)
    assert value.item() == pytest.approx(oracle.negative_log_likelihood(distance, shape, scale), abs=1e-8)
    gradients = torch.autograd.grad(value.sum(), given)
    for index, gradient in enumerate(gradients):
        step = 1e-4
        ends = []
        for sign in (1, -1):
            moved = [distance, shape, scale]
            moved[index] += sign * step
            ends.append(oracle.negative_log_likelihood(*moved))
        assert gradient.item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6)


def test_the_loss_alone_falls_with_the_scale_and_the_likelihood_does_not() -> None:
    scales = tensor(*(2.0**power for power in range(-3, 12)))
    distance, shape = tensor(5.0), tensor(1.0)
    alone = general_loss(distance, shape, scales)
    likely = negative_log_likelihood(distance, shape, scales)
    assert bool((alone.diff() < 0).all())
    assert 2 <= scales[likely.argmin()].item() <= 8


def test_the_scale_finds_the_distance_and_keeps_shape_in_bounds() -> None:
    adaptive = AdaptiveDistance((2,), rate=0.1)
    for _ in range(500):
        adaptive.fit(tensor(20.0, 0.01))
    assert bool(((adaptive.shape > 0) & (adaptive.shape < 2)).all())
    torch.testing.assert_close(adaptive.scale, tensor(20.0, 0.01), rtol=0.2, atol=0)
    for _ in range(500):
        adaptive.fit(tensor(0.0, 0.0))
    assert bool((adaptive.scale >= 1e-5).all())


def test_shape_and_scale_live_from_step_to_step_and_rows_do_not_meet() -> None:
    together, alone = AdaptiveDistance((2,)), AdaptiveDistance((1,))
    values = []
    for step in range(5):
        together.fit(tensor(3.0, 100.0 + step))
        alone.fit(tensor(3.0))
        values.append(alone.scale.item())
    assert len(set(values)) == 5
    torch.testing.assert_close(together.scale[:1], alone.scale, rtol=0, atol=0)
    torch.testing.assert_close(together.shape[:1], alone.shape, rtol=0, atol=0)


def test_a_shape_and_scale_per_channel() -> None:
    adaptive = AdaptiveDistance((2, 3))
    adaptive.fit(torch.rand(2, 3))
    rows = adaptive.loss(torch.ones(1, 3, requires_grad=True), slice(1, 2))
    assert rows.shape == (1, 3)
    assert rows.requires_grad


def test_it_fits_inside_no_grad_and_inference_mode() -> None:
    with torch.inference_mode():
        adaptive = AdaptiveDistance((1,))
        adaptive.fit(torch.tensor([4.0]))
    with torch.no_grad():
        adaptive.fit(torch.tensor([4.0]))
    assert adaptive.scale.item() != 1.0


def test_a_first_scale_that_is_no_number_is_refused() -> None:
    with pytest.raises(OptionError, match="finite"):
        AdaptiveDistance((1,), scale=math.nan)
