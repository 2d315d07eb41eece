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
from typing import Any, Protocol

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
        pointwise = (self.kernel.size, self.kernel.stride, self.kernel.padding) == ((1, 1), (1, 1), (0, 0))
        return pointwise and self.groups == 1 and self.weight.shape[1] >= _MANY_CHANNELS

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
        """The gradient for an input of `size`, from the one before the activation."""
        gradient = gradient.to(self.dtype).contiguous(memory_format=self.layout)
        turned = self._turned_padding(size)
        if turned is not None:
            weight = self._pack(self._turned, turned, gradient.shape, back=True)
            return _MK._convolution_pointwise(  # type: ignore[no-any-return]
                gradient, weight, None, turned, (1, 1), self.kernel.dilation, self.groups, "none", [], ""
            )
        if self._is_stem:
            return self._stem_gradient(gradient, size)
        if self._is_depthwise and self.dtype == torch.bfloat16 and math.prod(self.kernel.stride) <= _FEW_PLACES:
            return self._depthwise_gradient(gradient, size)
        return self._strided_gradient(gradient, size)

    def _padded(self, inputs: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """(input, weight, padding): uneven padding is moved into the kernel of a depthwise one, else into the input."""
        (top, bottom), (left, right) = self.kernel.pads(inputs.shape[-2:])
        if (top, left) == (bottom, right):
            return inputs, self.weight, [top, left]
        extra = (bottom - top, right - left)
        if self.groups > 1 and self.kernel.dilation == (1, 1) and set(extra) <= {0, 1}:
            return inputs, self._grown(extra), [bottom, right]
        return _framed(inputs, (top, bottom), (left, right)), self.weight, [0, 0]

    def _grown(self, extra: tuple[int, int]) -> Tensor:
        """The kernel with a row or column of zeros before it: what starts one place later, padded alike all round."""
        key = ("grown", extra)
        if key not in self._packed:
            grown = F.pad(self.weight, (extra[1], 0, extra[0], 0))
            self._packed[key] = grown.contiguous(memory_format=_LAST)
        return self._packed[key]

    def _pack(self, weight: Tensor, padding: list[int], size: torch.Size, *, back: bool = False) -> Tensor:
        """The weight in oneDNN's own order for inputs of this size; of each weight the last three sizes are kept.

        In plain layout it is left as it is: packed, oneDNN would choose the kernel for channels last.
        """
        if self.layout == torch.contiguous_format:
            return weight
        stride = (1, 1) if back else self.kernel.stride
        key = (back, id(weight), *padding, *size[-2:])
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
    def _turned(self) -> Tensor:
        """The kernel upside down, inputs and outputs exchanged within each group."""
        key = ("turned",)
        if key not in self._packed:
            outputs, inputs, rows, columns = self.weight.shape
            split = self.weight.reshape(self.groups, outputs // self.groups, inputs, rows, columns)
            turned = split.transpose(1, 2).reshape(inputs * self.groups, outputs // self.groups, rows, columns)
            self._packed[key] = turned.flip(2, 3).contiguous(memory_format=self.layout)
        return self._packed[key]

    def _turned_padding(self, size: torch.Size) -> list[int] | None:
        """Padding of the convolution that goes back, or None where it is not one."""
        pads = self.kernel.pads(size[-2:])
        if self.kernel.stride != (1, 1) or any(before != after for before, after in pads):
            return None
        reach = [step * (side - 1) for step, side in zip(self.kernel.dilation, self.kernel.size, strict=True)]
        turned = [far - before for far, (before, _) in zip(reach, pads, strict=True)]
        return turned if min(turned) >= 0 else None

    @property
    def _is_stem(self) -> bool:
        """Whether it takes large strides from a few channels, such as colors."""
        return self.groups == 1 and self.weight.shape[1] <= _FEW_CHANNELS and self.kernel.dilation == (1, 1)

    @property
    def _is_depthwise(self) -> bool:
        return self.groups > 1 and self.weight.shape[:2] == (self.groups, 1) and self.kernel.dilation == (1, 1)

    def _stem_gradient(self, gradient: Tensor, size: torch.Size) -> Tensor:
        """One convolution of stride 1 gives the places of each cell of a stride as channels, then they are laid out."""
        rows, columns = size[-2:]
        stride, ((top, _), (left, _)) = self.kernel.stride, self.kernel.pads((rows, columns))
        weight, first = self._cell_kernel((top, left))
        counts = self._cell_counts((rows, columns))
        cells = self._in_cells(gradient, weight, first, counts)
        cells = cells.reshape(len(gradient), *stride, -1, *counts)  # (N, sy, sx, C, h, w)
        laid = cells.permute(0, 4, 1, 5, 2, 3).reshape(len(gradient), counts[0] * stride[0], counts[1] * stride[1], -1)
        return laid.permute(0, 3, 1, 2)[..., :rows, :columns].contiguous(memory_format=_LAST)

    def _cell_counts(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of cells as large as the stride that cover an input."""
        rows, columns = (-(-side // step) for side, step in zip(size, self.kernel.stride, strict=True))
        return rows, columns

    def _in_cells(self, gradient: Tensor, weight: Tensor, first: tuple[int, int], counts: tuple[int, int]) -> Tensor:
        """(N, channels, *counts) at each cell what a kernel makes of the outputs from `first` on."""
        # As many places before and behind as the first and the last cell look at.
        padding = [
            max(0, -start, count + start + taps - 1 - given)
            for start, count, taps, given in zip(first, counts, weight.shape[-2:], gradient.shape[-2:], strict=True)
        ]
        weight = self._pack(weight, padding, gradient.shape, back=True)
        cells: Tensor = _MK._convolution_pointwise(
            gradient, weight, None, padding, (1, 1), (1, 1), self.groups, "none", [], ""
        )
        y, x = (pad + start for pad, start in zip(padding, first, strict=True))
        return cells[..., y : y + counts[0], x : x + counts[1]]

    def _depthwise_gradient(self, gradient: Tensor, size: torch.Size) -> Tensor:
        """Each place of a stride's cell by a convolution of its own, of stride 1; bfloat16 has no other fast way."""
        rows, columns = size[-2:]
        stride, ((top, _), (left, _)) = self.kernel.stride, self.kernel.pads((rows, columns))
        counts = self._cell_counts((rows, columns))
        # A kernel smaller than the stride leaves places out that no output has seen.
        seen = all(side >= step for side, step in zip(self.kernel.size, stride, strict=True))
        blank = gradient.new_empty if seen else gradient.new_zeros
        laid = blank(len(gradient), counts[0], stride[0], counts[1], stride[1], size[1])
        for (y, x), weight, first in self._place_kernels((top, left)):
            laid[:, :, y, :, x] = self._in_cells(gradient, weight, first, counts).permute(0, 2, 3, 1)
        laid = laid.view(len(gradient), counts[0] * stride[0], counts[1] * stride[1], size[1])
        return laid.permute(0, 3, 1, 2)[..., :rows, :columns].contiguous(memory_format=_LAST)

    def _cell_kernel(self, padding: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """(kernel (sy sx in, out, h, w), first output it looks at relative to the cell), per axis by `_taps`."""
        key = ("cell", padding)
        rows, columns = self._cell_taps(padding)
        (top, height), (left, width) = _span(rows), _span(columns)
        if key not in self._packed:
            outputs, inputs = self.weight.shape[:2]
            cell = self.weight.new_zeros(*self.kernel.stride, inputs, outputs, height, width)
            for ry, ky, oy in rows:
                for rx, kx, ox in columns:
                    cell[ry, rx, :, :, oy - top, ox - left] = self.weight[:, :, ky, kx].T
            self._packed[key] = cell.flatten(0, 2).contiguous(memory_format=_LAST)
        return self._packed[key], (top, left)

    def _place_kernels(self, padding: tuple[int, int]) -> list[tuple[tuple[int, int], Tensor, tuple[int, int]]]:
        """(place, kernel (channels, 1, h, w), first output it looks at) of each place in a cell that a tap reaches."""
        found = []
        rows, columns = self._cell_taps(padding)
        for y, x in product(sorted({place for place, *_ in rows}), sorted({place for place, *_ in columns})):
            own_rows, own_columns = ([tap for tap in taps if tap[0] == p] for taps, p in ((rows, y), (columns, x)))
            (top, height), (left, width) = _span(own_rows), _span(own_columns)
            key = ("place", padding, y, x)
            if key not in self._packed:
                kernel = self.weight.new_zeros(self.groups, 1, height, width)
                for (_, ky, oy), (_, kx, ox) in product(own_rows, own_columns):
                    kernel[:, :, oy - top, ox - left] = self.weight[:, :, ky, kx]
                self._packed[key] = kernel.contiguous(memory_format=_LAST)
            found.append(((y, x), self._packed[key], (top, left)))
        return found

    def _cell_taps(self, padding: tuple[int, int]) -> tuple[list[tuple[int, int, int]], list[tuple[int, int, int]]]:
        rows, columns = map(_taps, self.kernel.size, self.kernel.stride, padding)
        return rows, columns

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


def _framed(inputs: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    """Maps in channels last with so many rows and columns of zeros (before, behind) around them."""
    count, channels, height, width = inputs.shape
    (top, bottom), (left, right) = rows, columns
    framed = inputs.new_empty(count, height + top + bottom, width + left + right, channels)
    framed[:, :top] = framed[:, top + height :] = 0
    framed[:, :, :left] = framed[:, :, left + width :] = 0
    framed[:, top : top + height, left : left + width] = inputs.permute(0, 2, 3, 1)
    return framed.permute(0, 3, 1, 2)


def _taps(size: int, stride: int, padding: int) -> list[tuple[int, int, int]]:
    """(place in the cell, tap, output): which tap of which output reads each place of the cell at 0.

    Example:
        >>> _taps(3, 2, 1)  # the first place by the middle tap of its own output, the second by two outputs
        [(0, 1, 0), (1, 0, 1), (1, 2, 0)]
    """
    reads = ((place, tap, place + padding - tap) for place in range(stride) for tap in range(size))
    return [(place, tap, step // stride) for place, tap, step in reads if step % stride == 0]


def _span(taps: Sequence[tuple[int, int, int]]) -> tuple[int, int]:
    """(first, number) of the outputs that taps read."""
    outputs = [output for *_, output in taps]
    return min(outputs), max(outputs) - min(outputs) + 1


class Passage(Protocol):
    """One step of a sequence, forward and back."""

    @property
    def is_linear(self) -> bool:
        """Whether it cuts nothing."""
        ...

    @property
    def run(self) -> Callable[[Tensor], Tensor]:
        """The way forward without a way back."""
        ...

    def forward(self, inputs: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The output, and what the way back needs of this way forward."""
        ...

    def backward(self, gradient: Tensor, size: torch.Size, kept: Sequence[Tensor | None], *, own: bool) -> Tensor:
        """The gradient for an input of `size` from the one for the output, which may be overwritten if `own`."""
        ...


@dataclass(frozen=True)
class Link:
    """One convolution of a sequence: any way forward, and the fast way back."""

    run: Callable[[Tensor], Tensor]
    back: Convolution

    @property
    def is_linear(self) -> bool:
        return self.back.activation is None

    def forward(self, inputs: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The output, and of it where the activation let values through, if there is one."""
        output = self.run(inputs)
        return output, [None if self.back.activation is None else output.to(self.back.dtype)]

    def backward(self, gradient: Tensor, size: torch.Size, kept: Sequence[Tensor | None], *, own: bool) -> Tensor:
        (output,) = kept
        if output is not None and self.back.activation is not None:
            given = gradient.to(output.dtype)
            gradient = self.back.activation.gradient(given, output, own=own or given is not gradient)
        return self.back.input_gradient(gradient, size)


def differentiable(inputs: Tensor, passages: Sequence[Passage]) -> Tensor:
    """What the passages make of the inputs one after the other, with their way back to them."""
    return _Differentiable.apply(inputs, passages)  # type: ignore[no-any-return, no-untyped-call]


class _Differentiable(torch.autograd.Function):
    """A sequence is one node of the graph: between its links gradients keep their type and are overwritten."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, passages: Sequence[Passage]) -> Tensor:
        kept: list[Tensor | None] = []
        ctx.passages, ctx.sizes, ctx.counts = passages, [], []
        ctx.linear = all(passage.is_linear for passage in passages)
        for passage in passages:
            ctx.sizes.append(inputs.shape)
            inputs, found = passage.forward(inputs)
            ctx.counts.append(len(found))
            kept.extend(found)
        ctx.save_for_backward(*kept)
        return inputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        own, kept = False, list(ctx.saved_tensors)
        for passage, size, count in zip(*map(reversed, (ctx.passages, ctx.sizes, ctx.counts)), strict=True):
            needed, kept = kept[len(kept) - count :], kept[: len(kept) - count]
            gradient, own = passage.backward(gradient, size, needed, own=own), True
        return gradient, None
