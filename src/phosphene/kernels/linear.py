"""Linear layers by oneDNN, and global pooling of bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.graph import is_swapped
from phosphene.kernels.convolution import is_ordinary, refuse_second_derivatives


@dataclass(frozen=True)
class Linear:
    """A linear layer that stays in float32 where it takes vectors, also under autocast.

    Scores of 8 bits are too coarse to rank what a small window changes, and casting the weights costs more than the
    product of a few vectors. oneDNN's product of few rows is twice as fast as PyTorch's on many processors.
    """

    module: nn.Linear

    def __call__(self, input: Tensor) -> Tensor:
        inputs = input  # (the name that callers may use)
        autocast = torch.is_autocast_enabled("cpu")
        if (autocast and inputs.ndim > 2) or is_swapped(self.module):
            return nn.Linear.forward(self.module, inputs)
        with torch.autocast("cpu", enabled=False):
            inputs = inputs.float() if inputs.dtype == torch.bfloat16 else inputs
            if inputs.ndim < 2 or inputs.shape[-1] != self.module.in_features or not is_ordinary(inputs, torch.float32):
                return nn.Linear.forward(self.module, inputs)
            if inputs.requires_grad and torch.is_grad_enabled():
                return _Linear.apply(inputs, self.module)  # type: ignore[no-any-return, no-untyped-call]
            return _product(inputs, self.module.weight, self.module.bias)


class _Linear(torch.autograd.Function):
    """A linear layer of frozen weights, and its way back."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: nn.Linear) -> Tensor:
        ctx.layer, ctx.linear = layer, True
        return _product(inputs, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivatives()
        with torch.autocast("cpu", enabled=False):
            return _product(gradient, ctx.layer.weight.T, None), None


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs.contiguous(), weight, bias, "none", [], "")
    return product


@dataclass(frozen=True)
class GlobalPool:
    """The mean over all positions: PyTorch's own takes that of bfloat16 by way of a float32 copy of the map."""

    module: nn.AdaptiveAvgPool2d

    def __call__(self, input: Tensor) -> Tensor:
        pays = input.dtype == torch.bfloat16 and input.ndim == 4 and not input.requires_grad
        return F.avg_pool2d(input, input.shape[-2:]) if pays else nn.AdaptiveAvgPool2d.forward(self.module, input)
