"""Activations that cut values to an interval."""

from __future__ import annotations

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
