"""What is done to each value of a channel by itself: norms, and activations that cut values to an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Activation:
    """What follows a convolution: cutting its values to [low, high]; high is None for a plain ReLU."""

    low: float = 0.0
    high: float | None = None

    @classmethod
    def of(cls, module: nn.Module) -> Activation | None:
        """The activation a module computes, or None if it is another one."""
        if type(module) is nn.ReLU:
            return cls()
        if type(module) in (nn.ReLU6, nn.Hardtanh):
            return cls(float(module.min_val), float(module.max_val))  # type: ignore[arg-type]
        return None

    @property
    def attributes(self) -> tuple[str, list[float], str]:
        """Name and numbers as oneDNN's operations take them."""
        return ("relu", [], "") if self.high is None else ("hardtanh", [self.low, self.high], "")

    def cut_(self, values: Tensor) -> Tensor:
        """The values themselves, cut in place."""
        return values.clamp_(self.low, self.high)

    def gradient(self, gradient: Tensor, output: Tensor, *, own: bool = False) -> Tensor:
        """The gradient before the activation, from the one behind it, overwritten if `own`, and the output."""
        into = {"grad_input": gradient} if own else {}
        if self.high is None:
            overload = torch.ops.aten.threshold_backward
            return (overload.grad_input if own else overload)(gradient, output, 0.0, **into)  # type: ignore[no-any-return]
        backward = torch.ops.aten.hardtanh_backward
        return (backward.grad_input if own else backward)(gradient, output, self.low, self.high, **into)  # type: ignore[no-any-return]


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(C,) float64 each: what a norm multiplies by and adds in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


@dataclass(frozen=True)
class Elementwise:
    """What is done to each value by itself: times `scale` (C,), plus `shift` (C,), rounded once, then cut."""

    scale: Tensor
    shift: Tensor
    activation: Activation | None = None

    @classmethod
    def of(
        cls,
        channels: int,
        norm: nn.BatchNorm2d | None = None,
        activation: Activation | None = None,
        bias: Tensor | None = None,
    ) -> Elementwise:
        """What a bias, a norm in eval mode and an activation do one after the other; each may be missing."""
        scale = torch.ones(channels, dtype=torch.float64, device="cpu")
        scale, shift = (scale, torch.zeros_like(scale)) if norm is None else scale_and_shift(norm)
        if bias is not None:
            shift = shift + scale * bias.detach()
        return cls(scale.float().contiguous(), shift.float().contiguous(), activation)

    @property
    def limits(self) -> Tensor:
        """(2,) the lowest and the highest value; no number where there is none, which no value is beyond."""
        low, high = (None, None) if self.activation is None else (self.activation.low, self.activation.high)
        bounds = [math.nan if bound is None else bound for bound in (low, high)]
        return torch.tensor(bounds, dtype=torch.float32, device="cpu")
