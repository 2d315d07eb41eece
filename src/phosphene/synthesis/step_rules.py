"""Rules that a step of an image's ascent follows: what turns the gradient into a direction, and what comes after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from phosphene.errors import OptionError
from phosphene.synthesis.parametrization import precondition
from phosphene.synthesis.priors import total_variation_gradient, total_variation_step
from phosphene.synthesis.streams import Draws


@dataclass
class StepState:
    """Where a run stands: what its rules may look at, and what they remember.

    Args:
        step: the step that is being made, from 0.
        steps: how many there are.
        parameters: (N, ...) before the step's change; with pixels the images.
        gradient: (N, ...) the objective's own gradient, before any rule.
        draws: the images' random numbers at this step.
        memory: what rules keep from step to step, by a name of their own.
    """

    step: int
    steps: int
    parameters: Tensor
    gradient: Tensor
    draws: Draws
    memory: dict[str, Tensor] = field(default_factory=dict)


StepRule = Callable[[Tensor, StepState], Tensor]


def clip(images: Tensor, _state: StepState) -> Tensor:
    """Every value brought back into [0, 1]; for pixels."""
    return images.clamp(0, 1)


def every(interval: int, rule: StepRule, offset: int = 0) -> StepRule:
    """A rule that is applied at every `interval`-th step only, first at step `offset`."""
    if interval < 1:
        raise OptionError(f"interval={interval}; give 1 or more")
    return lambda value, state: rule(value, state) if (state.step - offset) % interval == 0 else value


def carried(rule: StepRule, memory: dict[str, Tensor], before: int, steps: int) -> StepRule:
    """A rule of one run after another that goes on where it left off.

    Args:
        rule: which.
        memory: what it remembers, kept by who makes the runs.
        before: steps of earlier runs.
        steps: of all runs together.
    """
    return lambda value, state: rule(value, replace(state, step=before + state.step, steps=steps, memory=memory))


def calmed(size: Callable[[int], float], interval: int, *, literal: bool) -> list[StepRule]:
    """A step down the total variation, apart from the one up the objective (addepalli2020, equation 1).

    Args:
        size: of the step, in [0, 1] units, by the step's number.
        interval: once in so many steps; 0 never.
        literal: along the subgradient itself, as the paper; else never beyond where neighbors meet.
    """
    if interval == 0:
        return []

    def step(images: Tensor, state: StepState) -> Tensor:
        far = size(state.step)
        return images - far * total_variation_gradient(images) if literal else total_variation_step(images, far)

    return [every(interval, step)]


def within(mask: Tensor | Callable[[StepState], Tensor], rule: StepRule) -> StepRule:
    """A rule whose result counts inside a mask (N or 1, 1, H, W) in [0, 1] only, blended at its soft edge."""

    def masked(value: Tensor, state: StepState) -> Tensor:
        where = mask(state) if callable(mask) else mask
        return torch.lerp(value, rule(value, state), where.to(value).expand_as(value))

    return masked


def multiply(mask: Tensor | Callable[[StepState], Tensor]) -> StepRule:
    """The direction times a mask, or a map of step sizes."""

    def masked(value: Tensor, state: StepState) -> Tensor:
        return value * (mask(state) if callable(mask) else mask).to(value)

    return masked


def unit_rms(mask: Tensor | Callable[[StepState], Tensor] | None = None) -> StepRule:
    """The direction with a root mean square of 1 in every image, or inside a mask; so the rate is a step of pixels."""

    def scaled(value: Tensor, state: StepState) -> Tensor:
        where = torch.ones_like(value[:, :1]) if mask is None else mask(state) if callable(mask) else mask
        where = where.to(value).expand_as(value).flatten(1)
        mean = (value.flatten(1).square() * where).sum(dim=1) / where.sum(dim=1).clamp(min=1e-30)
        return value / per_image(mean.sqrt().clamp(min=1e-30), value)

    return scaled


def preconditioned(power: float, color: float = 1.0, lowest: float = 1.0) -> StepRule:
    """The gradient with the spectrum 1/f^power and the colors of natural images; power 0 leaves it as it is."""
    return lambda gradient, _state: precondition(gradient, power, color, lowest) if power > 0 else gradient


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Values (N,) shaped so that they multiply what is like (N, ...)."""
    return values.reshape(-1, *([1] * (like.ndim - 1)))
