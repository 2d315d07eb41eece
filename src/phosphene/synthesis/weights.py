"""Maps of step sizes from the gradient's own history: equations 2-4 of saliency-driven class impressions.

Equation 2 as printed multiplies the old value by the iteration and never divides, so that it grows like a factorial
and keeps only the first gradients. Our reading is the running mean it would be if divided:
``cumulative_i = (cumulative_{i-1} * i + C * g / ||g||) / (i + 1)``, the norm over the whole image, start 0.1, i counted
from 1, so that the start value counts as one step's.
Equation 4 as printed, a signed product, pushes against the gradient where its history is negative. Reading A takes
'saliency map' at its word and uses magnitudes; reading B moves only where the gradient agrees with its history.
"printed" is both equations to the letter, kept as a warning: no recipe offers it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from phosphene.errors import OptionError
from phosphene.maps import blur
from phosphene.synthesis.step_rules import StepRule, StepState

WeightKind = Literal["A", "B", "none"]

_START = 0.1


def share_of_direction(step: int, *, steps: int, late: float = 4.0, turn: int = 150) -> float:
    """C of equations 2 and 3: C1 = C2 * steps / t before step t, C2 from then on.

    A run of fewer than t steps never gets to C2; there C1 = C2 (our reading).

    Example:
        >>> share_of_direction(0, steps=300), share_of_direction(150, steps=300), share_of_direction(0, steps=100)
        (8.0, 4.0, 4.0)
    """
    return late * steps / turn if step < turn <= steps else late


def running_mean(previous: Tensor, current: Tensor, step: int, share: float) -> Tensor:
    """Equation 2 in our reading: the mean over steps of C * current / ||current||, and of the start value.

    Args:
        previous: the mean so far, the start value before the first step.
        current: of this step.
        step: which it is, from 0; the start value counts as one before it.
        share: C.

    Example:
        >>> running_mean(torch.full((1, 1, 1, 1), 0.1), torch.ones(1, 1, 1, 1), 0, 0.3).item()
        0.2...
    """
    return as_printed(previous, current, step, share) / (step + 2)


def as_printed(previous: Tensor, current: Tensor, step: int, share: float) -> Tensor:
    """Equation 2 to the letter: the old value times the iteration, from 1, and C * current / ||current||.

    It grows like a factorial: what the first step gave is all that counts after a few, and after 34 nothing holds it.

    Example:
        >>> value = torch.full((1, 1, 1, 1), 0.1)
        >>> for step in range(40):
        ...     value = as_printed(value, torch.ones(1, 1, 1, 1), step, 4.0)
        >>> value.item()
        inf
    """
    norm = current.square().flatten(1).sum(dim=1).sqrt().clamp(min=1e-30).reshape(-1, *([1] * (current.ndim - 1)))
    return previous * (step + 1) + share * current / norm


def saliency_weight(
    reading: WeightKind | Literal["printed"] = "A",
    mask: Callable[[StepState], Tensor] | None = None,
    *,
    limit: float = 10.0,
    smooth: float = 0.0,
    room: float = 0.0,
    late: float = 4.0,
    turn: int = 150,
) -> StepRule:
    """The direction times a weight per place that favours what has been salient all along (equations 2-4).

    Reading A: ``M = max over channels |g|``, ``W_i = A_{i-1} * M_i`` with A the running mean of C * M / ||M||.
    Reading B: ``W_i = relu(cum_{i-1} * g_i)`` per channel, cum the running mean of C * g / ||g||.
    W is scaled to mean 1 inside the mask and cut at `limit` (ours). g is what the rule gets: put it after the
    preconditioning to weigh by the smooth gradient. "printed": ``W_i = cum_{i-1} * g_i`` with its sign, cum as
    printed, neither scaled nor cut: a warning, see below.

    Args:
        reading: A, B, none for no weight, or printed.
        mask: where the mean is taken; None for everywhere.
        limit: largest weight.
        smooth: sigma of the Gaussian by which the weight is blurred, as a fraction of the shorter side; single pixels
            that get ten times the step of their neighbors turn into speckles.
        room: for pixels: from so far before black and white on, a step towards it shrinks in proportion to what is left
            (ours), as places that are favored all along would else end in flat white; 0 for whole steps.
        late: C2 of equation 3.
        turn: t of equations 2 and 3.

    Example:
        Where the history is negative the letter of equation 4 goes down the gradient, by ever larger steps:

        >>> state = StepState(0, 9, torch.zeros(1), torch.zeros(1), None)
        >>> printed, moves = saliency_weight("printed"), []
        >>> for state.step, gradient in enumerate([-1.0, 0.5, 0.5, 0.5]):
        ...     moves.append(printed(torch.full((1, 1, 1, 1), gradient), state).item())
        >>> [f"{move:.1f}" for move in moves]
        ['0.1', '-1.0', '-1.0', '-1.9']

    References:
        addepalli2020, equations 2-4.
    """
    if reading not in ("A", "B", "none", "printed"):
        raise OptionError(f"weight '{reading}' is unknown; choose A, B or none")
    if reading == "none":  # (nothing is enlarged then)
        return lambda value, _state: value

    def weighed(value: Tensor, state: StepState) -> Tensor:
        current = value.abs().amax(dim=1, keepdim=True) if reading == "A" else value
        key = f"saliency_weight.{reading}"
        previous = state.memory.get(key)
        previous = torch.full_like(current, _START) if previous is None else previous
        share = share_of_direction(state.step, steps=state.steps, late=late, turn=turn)
        if reading == "printed":
            state.memory[key] = as_printed(previous, current, state.step, share)
            return value * previous * current
        state.memory[key] = running_mean(previous, current, state.step, share)
        weight = (previous * current).clamp(min=0)
        if smooth > 0:
            weight = blur(weight.flatten(0, 1), smooth * min(weight.shape[-2:])).reshape(weight.shape)
        where = torch.ones_like(weight[:, :1]) if mask is None else mask(state).to(weight)
        moved = value * _mean_one(weight, where).clamp(max=limit)
        return moved * room_left(state.parameters, moved, room) if room > 0 else moved

    return weighed


def room_left(images: Tensor, direction: Tensor, room: float) -> Tensor:
    """What is left between values in [0, 1] and the end that each is moved to, as a share of `room`, at most 1.

    Example:
        >>> room_left(torch.tensor([0.5, 0.94, 0.94, 1.0]), torch.tensor([1.0, 1.0, -1.0, 1.0]), 0.3)
        tensor([1.0000, 0.2000, 1.0000, 0.0000])
    """
    return (torch.where(direction > 0, 1 - images, images) / room).clamp(0, 1)


def _mean_one(weight: Tensor, where: Tensor) -> Tensor:
    """The weight scaled so that its mean inside the mask is 1."""
    where = where.expand_as(weight)
    mean = (weight * where).flatten(1).sum(dim=1) / where.flatten(1).sum(dim=1).clamp(min=1e-30)
    return weight / mean.clamp(min=1e-30).reshape(-1, 1, 1, 1)
