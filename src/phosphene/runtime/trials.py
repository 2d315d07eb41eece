"""How a network is tried out: as it was written, in whole float32, whatever context the caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from phosphene.devices import own_random_state
from phosphene.hooks import ValueHooks
from phosphene.runtime.norms import right_norms
from phosphene.runtime.precision import uncompiled, whole_float32

# Of the largest score: by no more do scores differ that are no others.
ROUNDED = {"exact": 1e-4, "fast": 0.1}


@contextmanager
def plain_mode(device: torch.device, *, gradients: bool) -> Iterator[None]:
    """Whatever context the caller is in: no autocast, no inference mode, gradients as said."""
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(gradients),
        torch.autocast(device.type, enabled=False),
    ):
        yield


@contextmanager
def trial(device: torch.device, *, gradients: bool = False) -> Iterator[None]:
    """Whatever context the caller is in: the network runs as it was written, in whole float32."""
    with (
        plain_mode(device, gradients=gradients),
        whole_float32("exact"),
        uncompiled(),
        own_random_state(),
        nullcontext() if gradients else ValueHooks(),
    ):
        yield


def near(found: Tensor, expected: Tensor, room: float, least: float = 1e-12) -> bool:
    """Whether values differ from those expected by no more than a part of these, in the root mean square.

    Args:
        found: of any shape.
        expected: of the same.
        room: which part.
        least: of the values, where rounding has another measure than they have.
    """
    alike, one, other = finite_pairs(found, expected)
    difference = (one - other).float().square().mean().sqrt()
    return bool(alike & (difference <= room * other.float().square().mean().sqrt().clamp(min=least)))


def within(found: Tensor, expected: Tensor, room: float) -> bool:
    """Whether values differ from those expected by no more than a part of the largest of these."""
    alike, one, other = finite_pairs(found, expected)
    return bool(alike & ((one - other).abs().amax() <= room * other.abs().amax().clamp(min=1e-6)))


def finite_pairs(found: Tensor, expected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(whether NaN and infinity are where they are expected, found and expected with 0 in their place).

    Classes that are ruled out have minus infinity, and whoever compares with it compares nothing. On the device: nobody
    waits for it here.

    Example:
        >>> finite_pairs(torch.tensor([1.0, -torch.inf]), torch.tensor([2.0, -torch.inf]))
        (tensor(True), tensor([1., 0.]), tensor([2., 0.]))
        >>> finite_pairs(torch.tensor([1.0, 0.0]), torch.tensor([2.0, torch.nan]))[0]
        tensor(False)
    """
    finite = expected.isfinite()
    alike = (finite | (found == expected) | (found.isnan() & expected.isnan())).all()
    return alike, found.masked_fill(~finite, 0), expected.masked_fill(~finite, 0)


def gradients_of(value: Tensor, at: list[Tensor], *, again: bool = False) -> tuple[Tensor | None, ...]:
    """The gradient at each tensor; none of a network whose way back fails, which the pass itself will say better.

    Args:
        value: that is differentiated.
        at: the tensors.
        again: keep the graph for another way back.
    """
    try:
        with right_norms(value):
            return torch.autograd.grad(value, at, allow_unused=True, retain_graph=again)
    except Exception:  # code of the network's own runs on the way back
        return (None,) * len(at)
