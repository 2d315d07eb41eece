"""Where convolution and pooling layers look: the geometry of their kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pads = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Kernel:
    """Where a convolution or pooling layer looks: everything about it but the weights.

    Args:
        size: (height, width) of the kernel.
        stride: places between neighbouring windows.
        dilation: places between neighbouring taps.
        padding: places added on both sides, (vertical, horizontal); None for TensorFlow's SAME, which pads as
            little as the stride allows, the odd place right and below.

    Example:
        >>> Kernel((3, 3), (2, 2), padding=None).pads((224, 224))
        ((0, 1), (0, 1))
        >>> Kernel((3, 3), (2, 2), padding=(1, 1)).outputs((7, 224))
        (4, 112)
    """

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | None = (0, 0)

    def pads(self, size: Sequence[int]) -> Pads:
        """((above, below), (left, right)) for an input of `size` (height, width)."""
        (above, below), (left, right) = (self._pads(axis, size[axis]) for axis in (0, 1))
        return (above, below), (left, right)

    def _pads(self, axis: int, length: int) -> tuple[int, int]:
        if self.padding is not None:
            return self.padding[axis], self.padding[axis]
        stride, reach = self.stride[axis], self.dilation[axis] * (self.size[axis] - 1)
        total = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
        return total // 2, total - total // 2

    def outputs(self, size: Sequence[int]) -> tuple[int, int]:
        """(height, width) of the output for an input of `size`."""
        rows, columns = (
            (length + sum(pads) - step * (taps - 1) - 1) // stride + 1
            for length, pads, step, taps, stride in zip(
                size, self.pads(size), self.dilation, self.size, self.stride, strict=True
            )
        )
        return rows, columns


def convolution_kernel(convolution: nn.Conv2d) -> Kernel | None:
    """The geometry of a convolution, or None where it is not plainly one of its weight and bias.

    A subclass with a forward of its own is tried out on a few inputs: it counts as a convolution if it gives what
    its own padding or SAME padding gives.
    """
    if convolution.padding_mode != "zeros" or not isinstance(convolution._parameters.get("weight"), nn.Parameter):
        return None
    size, stride = _pair(convolution.kernel_size), _pair(convolution.stride)
    dilation = _pair(convolution.dilation)
    if convolution.padding == "valid":
        padding = (0, 0)
    elif isinstance(convolution.padding, str):
        reach = [step * (taps - 1) for step, taps in zip(dilation, size, strict=True)]
        if any(value % 2 for value in reach):
            return None
        padding = (reach[0] // 2, reach[1] // 2)
    else:
        padding = _pair(convolution.padding)
    kernel = Kernel(size, stride, dilation, padding)
    if type(convolution).forward is nn.Conv2d.forward:
        return kernel
    return next((found for found in (kernel, replace(kernel, padding=None)) if _behaves(convolution, found)), None)


def pooling_kernel(module: nn.Module) -> Kernel | None:
    """The geometry of a pooling layer with windows of its own, or None for another module.

    Where padding takes part in the mean, or outputs are added at an incomplete edge, the geometry does not say all.
    """
    if not isinstance(module, nn.MaxPool2d | nn.AvgPool2d) or type(module) not in (nn.MaxPool2d, nn.AvgPool2d):
        return None
    padding, size, stride = _pair(module.padding), _pair(module.kernel_size), _pair(module.stride)
    if isinstance(module, nn.MaxPool2d):
        whole = not module.ceil_mode and not module.return_indices
        return Kernel(size, stride, _pair(module.dilation), padding) if whole else None
    plain = module.divisor_override is None and (module.count_include_pad or padding == (0, 0))
    return Kernel(size, stride, padding=padding) if plain and not module.ceil_mode else None


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _behaves(convolution: nn.Conv2d, kernel: Kernel) -> bool:
    """Whether the module gives what a convolution of this geometry gives, on an odd and an even size."""
    weight, bias = convolution.weight, convolution.bias
    with torch.no_grad():
        for extra in (5, 8):
            sides = [step * (taps - 1) + extra for step, taps in zip(kernel.dilation, kernel.size, strict=True)]
            count = convolution.in_channels * sides[0] * sides[1]
            inputs = torch.linspace(-20, 20, count, device=weight.device, dtype=weight.dtype).sin()
            inputs = inputs.view(1, -1, sides[0], sides[1])
            (above, below), (left, right) = kernel.pads(sides)
            padded = F.pad(inputs, (left, right, above, below))
            wanted = F.conv2d(padded, weight, bias, kernel.stride, 0, kernel.dilation, convolution.groups)
            try:
                got = convolution(inputs)
            except Exception:  # the forward of a subclass may refuse anything
                return False
            if not isinstance(got, Tensor) or got.shape != wanted.shape or not torch.allclose(got, wanted, 1e-4, 1e-5):
                return False
    return True
