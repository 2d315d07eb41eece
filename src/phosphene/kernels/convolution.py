"""A convolution with the norm and activation behind it as one oneDNN operation, and its own way back.

ATen sends most float32 convolutions of one batch to a plain matrix product and runs norm and activation as passes
of their own over memory. oneDNN does all three in one pass, in the layout of the images (channels last), and the
gradient for the input of a convolution of stride 1 is again a convolution, of the turned kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.graph import Kernel
from phosphene.kernels.elementwise import Activation, scale_and_shift

_MK = torch.ops.mkldnn
_LAST = torch.channels_last
_FEW_CHANNELS = 4
_FEW_PLACES = 4
_MANY_CHANNELS = 256
# From so many channels on a larger kernel adds up in plain layout: blocks of 16 channels, where in channels last all of
# them are one sum, two to five times as far from the exact one. Both take as long.
_CHANNELS_IN_BLOCKS = 64


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """(weight, bias) of the convolution that does what convolution and norm do in eval mode."""
    weight, bias = convolution.weight.detach(), convolution.bias
    if norm is None:
        return weight, None if bias is None else bias.detach()
    scale, shift = scale_and_shift(norm)
    shift = shift if bias is None else shift + scale * bias.detach().double()
    return (weight.double() * scale[:, None, None, None]).to(weight.dtype), shift.to(weight.dtype)


def normed_(norm: nn.BatchNorm2d, values: Tensor) -> Tensor:
    """The values themselves, normed in place: the same operation that the norm runs, without a second copy."""
    unused = values.new_empty(0)
    torch.native_batch_norm(
        values, norm.weight, norm.bias, norm.running_mean, norm.running_var, False, 0.0, norm.eps,
        out=(values, unused, unused.clone()),
    )  # fmt: skip
    return values


def is_ordinary(inputs: Tensor, dtype: torch.dtype) -> bool:
    """Whether an input is a plain tensor on the processor, of float32 or of `dtype`."""
    return bool(
        type(inputs) in (Tensor, nn.Parameter)
        and not torch._C._functorch.is_functorch_wrapped_tensor(inputs)
        and inputs.numel() > 0
        and inputs.device.type == "cpu"
        and inputs.dtype in (torch.float32, dtype)
        and torch.backends.mkldnn.enabled
    )


def refuse_second_derivatives() -> None:
    """On the way back: refuse one that is recorded, as in networks that take gradients of their own in the forward.

    PyTorch's `once_differentiable` would leave out what follows from it without a word. Refused, such a network is not
    run this way at all, as it is tried out first.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("the faster ways to run a network have first derivatives alone")


class Convolution:
    """One folded convolution, ready to run: forward in one operation, backward down to the input.

    Args:
        weight: (out, in / groups, kh, kw).
        bias: (out,) or None.
        kernel: stride, dilation and padding.
        groups: of channels.
        activation: cut off behind it, or None.
        dtype: what it computes in and returns.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        kernel: Kernel,
        groups: int,
        activation: Activation | None,
        dtype: torch.dtype,
    ) -> None:
        self.kernel, self.groups, self.activation, self.dtype = kernel, groups, activation, dtype
        self.layout = torch.contiguous_format if _adds_in_blocks(weight, groups, dtype) else _LAST
        self.weight = weight.to(dtype).contiguous(memory_format=self.layout)
        self.bias = None if bias is None else bias.to(dtype)
        self._packed: dict[tuple[object, ...], Tensor] = {}
        self._back: dict[tuple[int, ...], list[Tensor]] = {}
        self._found: dict[tuple[int, int], tuple[list[Tensor], list[int], tuple[Any, ...]]] = {}

    def run(self, inputs: Tensor, *, padded: bool = False) -> Tensor:
        """The output, without a graph.

        Args:
            inputs: (N, in, H, W).
            padded: whether they hold their padding already.
        """
        inputs = inputs.to(self.dtype)
        inputs, weight, padding = (inputs, self.weight, [0, 0]) if padded else self._padded(inputs)
        inputs, weight = inputs.contiguous(memory_format=self.layout), self._pack(weight, padding, inputs.shape)
        attributes = ("none", [], "") if self.activation is None else self.activation.attributes
        return _MK._convolution_pointwise(  # type: ignore[no-any-return]
            inputs, weight, self.bias, padding, self.kernel.stride, self.kernel.dilation, self.groups, *attributes
        )

    @property
    def sums_in_blocks(self) -> bool:
        """Whether it has so many channels to add up that the way in which it does shows in the result."""
        return self.kernel == Kernel((1, 1)) and self.groups == 1 and self.weight.shape[1] >= _MANY_CHANNELS

    def run_in_blocks(self, inputs: Tensor) -> Tensor:
        """The output of a 1 x 1 convolution as a product of matrices, without its activation.

        oneDNN adds up all channels one after the other; the product adds blocks of them, and ends at half the distance
        from the exact sums.
        """
        inputs = inputs.to(self.dtype).contiguous(memory_format=_LAST)
        rows = inputs.permute(0, 2, 3, 1).flatten(0, 2)
        weight = self.weight[:, :, 0, 0].T
        size = (len(inputs), weight.shape[1], *inputs.shape[2:])
        output = torch.empty(size, dtype=self.dtype, device="cpu", memory_format=_LAST)
        torch.mm(rows, weight, out=output.permute(0, 2, 3, 1).view(len(rows), -1))
        return output if self.bias is None else output.add_(self.bias[:, None, None])

    def input_gradient(self, gradient: Tensor, size: torch.Size) -> Tensor:
        """The gradient for an input of `size`, from the one before the activation.

        Convolutions of stride 1 give the places of each cell of strides, which are then laid out: one whose channels
        are all places of a cell, or with groups one for each place.
        """
        gradient = gradient.to(self.dtype).contiguous(memory_format=self.layout)
        if not self._has_cells:
            return self._strided_gradient(gradient, size)
        (count, channels, rows, columns), (sy, sx) = size, self.kernel.stride
        weights, padding, where = self._cells(rows, columns)
        found = [
            _MK._convolution_pointwise(
                gradient, self._pack(weight, padding, gradient.shape, back=True), None, padding, (1, 1),
                self.kernel.dilation, self.groups, "none", [], "",
            )[where]
            for weight in weights
        ]  # fmt: skip
        if (sy, sx) == (1, 1):
            back: Tensor = found[0].contiguous(memory_format=self.layout)
            return back
        cells = (-(-rows // sy), -(-columns // sx))
        laid = gradient.new_empty(count, cells[0], sy, cells[1], sx, channels)
        to = laid.permute(2, 4, 0, 5, 1, 3)  # (sy, sx, N, C, h, w)
        if self.groups == 1:  # (in one: the places of a row lie together, there and here)
            to.copy_(found[0].view(count, sy, sx, channels, *cells).permute(1, 2, 0, 3, 4, 5))
        else:
            for (y, x), values in zip(product(range(sy), range(sx)), found, strict=True):
                to[y, x] = values
        laid = laid.view(count, cells[0] * sy, cells[1] * sx, channels)
        return laid.permute(0, 3, 1, 2)[..., :rows, :columns].contiguous(memory_format=_LAST)

    def _padded(self, inputs: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """(input, weight, padding): uneven padding is moved into the kernel of a depthwise one, else into the input."""
        (top, bottom), (left, right) = self.kernel.pads(inputs.shape[-2:])
        if (top, left) == (bottom, right):
            return inputs, self.weight, [top, left]
        extra = (bottom - top, right - left)
        if self.groups > 1 and self.kernel.dilation == (1, 1) and set(extra) <= {0, 1}:
            return inputs, self._grown(extra), [bottom, right]
        return F.pad(inputs, (left, right, top, bottom)), self.weight, [0, 0]

    def _grown(self, extra: tuple[int, int]) -> Tensor:
        """The kernel with a row or column of zeros before it: what starts one place later, padded alike all round."""
        key = ("grown", extra)
        if key not in self._packed:
            grown = F.pad(self.weight, (extra[1], 0, extra[0], 0))
            self._packed[key] = grown.contiguous(memory_format=_LAST)
        return self._packed[key]

    def _pack(self, weight: Tensor, padding: list[int], size: torch.Size, *, back: bool = False) -> Tensor:
        """The weight in oneDNN's own order for inputs of this size; of each weight the last three sizes are kept.

        The number of images belongs to it: a kernel with AMX wants another order for one image than for eight, and in
        the wrong one puts it right at each call, which takes longer than the convolution. In plain layout it is left as
        it is: packed, oneDNN would choose the kernel for channels last.
        """
        if self.layout == torch.contiguous_format:
            return weight
        stride = (1, 1) if back else self.kernel.stride
        key = (back, id(weight), *padding, size[0], *size[-2:])
        found = self._packed.get(key)
        if found is None:
            older = [known for known in list(self._packed) if known[:2] == (back, id(weight))]
            for known in older[:-2]:
                self._packed.pop(known, None)
            found = _MK._reorder_convolution_weight(
                weight, padding, stride, self.kernel.dilation, self.groups, list(size)
            )
            self._packed[key] = found
        return found

    @property
    def _has_cells(self) -> bool:
        """Whether its way back is fastest by the cells of its strides.

        So it is without strides, from few channels, such as colors, and from each channel by itself in bfloat16.
        """
        few = self.groups == 1 and self.weight.shape[1] <= _FEW_CHANNELS
        alone = self.groups > 1 and self.weight.shape[:2] == (self.groups, 1) and self.dtype == torch.bfloat16
        places = math.prod(self.kernel.stride)
        return places == 1 or (self.kernel.dilation == (1, 1) and (few or (alone and places <= _FEW_PLACES)))

    def _cells(self, rows: int, columns: int) -> tuple[list[Tensor], list[int], tuple[Any, ...]]:
        """(kernels of stride 1, their padding, where in what they give cells lie), by the size of the input."""
        size = (rows, columns)
        if size not in self._found:
            pads = tuple(before for before, _ in self.kernel.pads(size))
            cells, starts = cell_kernel(self.weight, self.kernel.stride, pads)
            if pads not in self._back:
                places = cells.reshape(-1, self.groups, len(self.weight) // self.groups, *cells.shape[3:])
                places = places.transpose(2, 3).flatten(1, 2)
                weights = [places.flatten(0, 1)] if self.groups == 1 else places  # (in, out / groups, h, w) each
                self._back[pads] = [weight.contiguous(memory_format=self.layout) for weight in weights]
            padding, where = [], []
            axes = (size, self.kernel.outputs(size), self.kernel.stride, self.kernel.dilation, cells.shape[-2:], starts)
            for length, given, stride, dilation, taps, start in zip(*axes, strict=True):
                count, first = -(-length // stride), start - (dilation - 1) * (taps - 1)
                # As many places before and behind as the first and the last cell look at.
                padding.append(max(0, -first, count + first + dilation * (taps - 1) - given))
                where.append(slice(padding[-1] + first, padding[-1] + first + count))
            self._found[size] = self._back[pads], padding, (..., *where)
        return self._found[size]

    def _strided_gradient(self, gradient: Tensor, size: torch.Size) -> Tensor:
        # bfloat16 has no fast way back through strided groups of channels: float32 is ten times faster there.
        dtype = torch.float32 if self.groups > 1 else self.dtype
        rows, columns = size[-2:]
        blank = torch.empty(size, dtype=dtype, device="cpu", memory_format=self.layout)
        (top, _), (left, _) = self.kernel.pads((rows, columns))
        padded, weight, padding = self._padded(blank)
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient.to(dtype), padded, weight.to(dtype), None, self.kernel.stride, padding, self.kernel.dilation,
            False, [0, 0], self.groups, [True, False, False],
        )[0]  # fmt: skip
        if found.shape != size:
            found = found[..., top : top + rows, left : left + columns].contiguous(memory_format=self.layout)
        return found.to(self.dtype)


def _adds_in_blocks(weight: Tensor, groups: int, dtype: torch.dtype) -> bool:
    """Whether a convolution runs in plain layout, for the sake of its sums."""
    large = weight.shape[2:] != (1, 1) and weight.shape[1] >= _CHANNELS_IN_BLOCKS
    return large and groups == 1 and dtype == torch.float32


def cell_kernel(weight: Tensor, stride: Sequence[int], pads: Sequence[int]) -> tuple[Tensor, list[int]]:
    """The way back through strides: which outputs each place of a cell of strides reads, and how.

    Args:
        weight: (out, in, kh, kw) of the convolution.
        stride: (sy, sx).
        pads: places that it adds (above, left).

    Returns:
        ((sy, sx, out, in, h, w) the weights of the h x w outputs that a place reads, (row, column) of the first of them
        relative to the output of the cell's own number).

    Example:
        >>> cells, first = cell_kernel(torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3), (1, 2), (0, 1))
        >>> cells.flatten().tolist(), first  # the first place by the middle tap of its own output, the next by two
        ([2.0, 0.0, 3.0, 1.0], [0, 0])
    """
    axes = []
    for side, step, pad in zip(weight.shape[2:], stride, pads, strict=True):
        before = -pad % step  # so that taps that read the same place of cells lie together
        taps = -(-(side + before) // step)
        axes.append((before, taps * step - side - before, taps, (pad + before) // step - taps + 1))
    (above, below, rows, y), (left, right, columns, x) = axes
    grown = F.pad(weight, (left, right, above, below))
    split = grown.reshape(*weight.shape[:2], rows, stride[0], columns, stride[1])  # (out, in, h, sy, w, sx)
    return split.flip(2, 4).permute(3, 5, 0, 1, 2, 4), [y, x]


Kept = tuple[Tensor | None, Tensor | None]
"""What a passage needs of its way forward for its way back."""


@dataclass(frozen=True)
class Link:
    """One convolution of a sequence, for inputs of one size: any way forward, and the fast way back."""

    run: Callable[[Tensor], Tensor]
    back: Convolution
    size: torch.Size

    @property
    def is_linear(self) -> bool:
        """Whether it cuts nothing."""
        return self.back.activation is None

    def forward(self, inputs: Tensor, *, keep: bool) -> tuple[Tensor, Kept]:
        """The output, and if asked for itself again, where an activation let values through."""
        output = self.run(inputs)
        return output, (None if self.is_linear or not keep else output.to(self.back.dtype), None)

    def backward(self, gradient: Tensor, kept: Kept, *, own: bool) -> Tensor:
        """The gradient for the inputs from the one for the output, which may be overwritten if `own`."""
        output, _ = kept
        if output is not None and self.back.activation is not None:
            given = gradient.to(output.dtype)
            gradient = self.back.activation.gradient(given, output, own=own or given is not gradient)
        return self.back.input_gradient(gradient, self.size)
