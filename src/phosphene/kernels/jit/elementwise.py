"""What is done to each value of a channel by itself, as kernels read it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phosphene.kernels.elementwise import Activation

_LARGE = 2.0**60


@dataclass(frozen=True)
class Elementwise:
    """What is done to each value by itself: times scale, plus shift, rounded once, then cut.

    Args:
        scale: (C,).
        shift: (C,).
        activation: None cuts nothing.
    """

    scale: Tensor
    shift: Tensor
    activation: Activation | None = None

    @classmethod
    def of(
        cls, channels: int, norm: nn.BatchNorm2d | None, activation: Activation | None, bias: Tensor | None = None
    ) -> Elementwise:
        """What a bias, a norm in eval mode and an activation do one after the other; each may be missing."""
        scale = torch.ones(channels, dtype=torch.float32, device="cpu")  # whatever the default is
        shift = torch.zeros_like(scale)
        if norm is not None:
            # As the norm itself has them, rounded like its own: what it makes of 0 and of a large power of 2 says so.
            none, large = (value[None, :, None, None] for value in (shift, scale * _LARGE))
            shift = nn.BatchNorm2d.forward(norm, none).flatten()
            scale = nn.BatchNorm2d.forward(norm, large).flatten() / _LARGE
        if bias is not None:
            shift = shift + scale * bias
        return cls(scale.contiguous(), shift.contiguous(), activation)

    @property
    def limits(self) -> Tensor:
        """(2,) the lowest and the highest value; no number where there is none, which no value is beyond."""
        low, high = (None, None) if self.activation is None else (self.activation.low, self.activation.high)
        bounds = [math.nan if bound is None else bound for bound in (low, high)]
        return torch.tensor(bounds, dtype=torch.float32, device="cpu")
