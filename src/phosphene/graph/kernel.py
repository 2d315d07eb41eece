"""Where convolution and pooling layers look: the geometry of their kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from phosphene.graph.plain import is_plain, pads_same

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
    """The geometry of a convolution, or None where it is not plainly one of its weight and bias (`is_plain`)."""
    weight = convolution._parameters.get("weight")
    if not is_plain(convolution) or convolution.padding_mode != "zeros" or weight is None:
        return None
    size, stride = _pair(convolution.kernel_size), _pair(convolution.stride)
    dilation = _pair(convolution.dilation)
    if weight.shape != (convolution.out_channels, convolution.in_channels // convolution.groups, *size):
        return None
    if pads_same(convolution):
        return Kernel(size, stride, dilation, None)
    if convolution.padding == "valid":
        return Kernel(size, stride, dilation)
    if convolution.padding == "same":
        reach = [step * (taps - 1) for step, taps in zip(dilation, size, strict=True)]
        if any(value % 2 for value in reach):
            return None
        return Kernel(size, stride, dilation, (reach[0] // 2, reach[1] // 2))
    return Kernel(size, stride, dilation, _pair(convolution.padding))  # type: ignore[arg-type]


def pooling_kernel(module: nn.Module) -> Kernel | None:
    """The geometry of a pooling layer with windows of its own, or None for another module.

    Where padding takes part in the mean, or outputs are added at an incomplete edge, the geometry does not say all.
    """
    if not isinstance(module, nn.MaxPool2d | nn.AvgPool2d) or not is_plain(module):
        return None
    padding, size, stride = _pair(module.padding), _pair(module.kernel_size), _pair(module.stride)
    if isinstance(module, nn.MaxPool2d):
        whole = not module.ceil_mode and not module.return_indices
        return Kernel(size, stride, _pair(module.dilation), padding) if whole else None
    plain = module.divisor_override is None and (module.count_include_pad or padding == (0, 0))
    return Kernel(size, stride, padding=padding) if plain and not module.ceil_mode else None


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
