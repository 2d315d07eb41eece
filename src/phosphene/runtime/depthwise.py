"""A depthwise convolution with the norms and activations before and behind it, in one pass over memory.

It has so few products that reading and writing its maps is all that takes time, and norm and activation as passes of
their own read and write them again, forward and back. Here each row is normed and cut where it is read, filtered
while it lies in the cache, and normed and cut before it is written; where the activations let values through is kept
as a bit each, so that the way back is one pass too. The sums are made in the order in which oneDNN makes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phosphene.graph import Kernel
from phosphene.runtime import jit
from phosphene.runtime.convolution import Elementwise
from phosphene.runtime.jit import LANES, LINE, Writer

_LAST = torch.channels_last
# Places of a row at once: their sums do not wait for each other, and they share what they read.
_PLACES = 4
_MOST_TAPS = 49
_MOST_PLACES = 4  # of a stride's cell, for the way back
# Rows of a group of channels that are filtered together are to stay in the first cache.
_CACHE = 20 << 10
_PLANS = 8

Bits = tuple[Tensor | None, Tensor | None]
"""Where the activations before and behind let values through, (N, C / 16, H, W) each: 16 channels, a bit each."""


class Depthwise:
    """A depthwise convolution between two elementwise functions, forward and back to what the first of them was given.

    Args:
        weight: (C, 1, kh, kw) in float32, C a multiple of 16.
        kernel: its stride and padding.
        before: what is done to each value that it reads.
        behind: what is done to each value that it gives.
        dtype: of the maps it reads and writes, float32 or bfloat16; it computes in float32.

    Example:
        >>> if jit.available():
        ...     identity = Elementwise.of(16, None, None)
        ...     blur = Depthwise(torch.ones(16, 1, 3, 3), Kernel((3, 3), padding=(1, 1)), identity, identity)
        ...     output, bits = blur.forward(torch.ones(1, 16, 8, 8))
        ...     assert output[0, 0, 0, 0] == 4 and output[0, 0, 1, 1] == 9 and bits == (None, None)
    """

    def __init__(
        self,
        weight: Tensor,
        kernel: Kernel,
        before: Elementwise,
        behind: Elementwise,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.kernel, self.before, self.behind, self.dtype = kernel, before, behind, dtype
        self._weight = weight
        self._limits = torch.tensor([*before.limits, *behind.limits])
        self._plans: dict[tuple[Any, ...], _Plan] = {}

    @staticmethod
    def takes(convolution: nn.Conv2d, kernel: Kernel) -> bool:
        """Whether it can do the work of a convolution on this machine."""
        channels = convolution.out_channels
        return (
            convolution.groups == channels == convolution.in_channels
            and channels % LANES == 0
            and kernel.dilation == (1, 1)
            and math.prod(kernel.size) <= _MOST_TAPS
            and math.prod(kernel.stride) <= _MOST_PLACES
            and jit.available()
        )

    @staticmethod
    def fits(kernel: Kernel, size: torch.Size) -> bool:
        """Whether rows are long enough, there and back, for inputs of `size`."""
        rows, columns = kernel.outputs(size[-2:])
        return rows > 0 and min(columns, size[-1] // kernel.stride[1]) >= _PLACES

    def forward(self, inputs: Tensor, *, keep: bool = False) -> tuple[Tensor, Bits]:
        """(output, what the way back needs if `keep`) for inputs (N, C, H, W)."""
        before, behind = (keep and part.activation is not None for part in (self.before, self.behind))
        plan = self._plan(inputs.shape, inputs.shape, back=False, kept=(before, behind))
        output = self._map(plan.size)
        bits = (_bits(inputs.shape) if before else None, _bits(plan.size) if behind else None)
        plan.run(inputs.to(self.dtype).contiguous(memory_format=_LAST), output, bits)
        return output, bits

    def backward(self, gradient: Tensor, size: torch.Size, bits: Bits) -> Tensor:
        """The gradient behind the norm before it, for inputs of `size`, from the one behind it all."""
        found = (bits[1] is not None, bits[0] is not None)
        plan = self._plan(gradient.shape, size, back=True, kept=found)
        result = self._map(size)
        plan.run(gradient.to(self.dtype).contiguous(memory_format=_LAST), result, (bits[1], bits[0]))
        return result

    def _map(self, size: torch.Size) -> Tensor:
        return torch.empty(size, dtype=self.dtype, memory_format=_LAST)

    def _plan(self, given: torch.Size, inputs: torch.Size, *, back: bool, kept: tuple[bool, bool]) -> _Plan:
        key = (given, inputs, back, kept, torch.get_num_threads())
        found = self._plans.get(key)
        if found is None:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            found = self._plans[key] = self._new_plan(given, inputs, back=back, kept=kept)
        return found

    def _new_plan(self, given: torch.Size, inputs: torch.Size, *, back: bool, kept: tuple[bool, bool]) -> _Plan:
        pads = [before for before, _ in self.kernel.pads(inputs[-2:])]
        geometry = zip(self.kernel.size, self.kernel.stride, pads, strict=True)
        if back:
            size, axes = inputs, [_Axis.back(*axis) for axis in geometry]
            weights = _turned(self._weight * self.behind.scale[:, None, None, None], self.kernel, pads, axes)
        else:
            size = torch.Size((*inputs[:2], *self.kernel.outputs(inputs[-2:])))
            axes, weights = [_Axis(taps, [0], step, pad) for taps, step, pad in geometry], self._weight[:, 0][None]
        spec = _Spec((axes[0].taps, axes[1].taps), axes[1].step, back, self.dtype == torch.bfloat16, kept)
        # (places of a cell, C / 16, taps, 16): what is read together lies together.
        weights = weights.reshape(len(weights), -1, LANES, math.prod(spec.taps)).transpose(2, 3).contiguous()
        elementwise = [self.before.scale, self.before.shift, self.behind.scale, self.behind.shift]
        return _Plan.of(spec, given, size, axes, [weights, self._limits, *elementwise])


@dataclass(frozen=True)
class Filtered:
    """A depthwise convolution in a sequence; there and back may be of different types."""

    there: Depthwise
    back: Depthwise

    @property
    def is_linear(self) -> bool:
        return self.there.before.activation is None and self.there.behind.activation is None

    def forward(self, inputs: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
        return self.there.forward(inputs, keep=True)

    def backward(self, gradient: Tensor, size: torch.Size, kept: Sequence[Tensor | None], *, own: bool) -> Tensor:
        before, behind = kept
        return self.back.backward(gradient, size, (before, behind))


@dataclass(frozen=True)
class _Axis:
    """Which places of a padded source each place of a result reads, along one axis.

    Place `cell * len(first) + place` of the result reads `taps` places, from `first[place] + cell * step` on.
    """

    taps: int
    first: list[int]
    step: int
    pad: int

    @classmethod
    def back(cls, taps: int, stride: int, pad: int) -> _Axis:
        """The axis of the way back: each place of an input reads the outputs that it was read by."""
        first = [-((taps - 1 - pad - place) // stride) for place in range(stride)]
        last = [(place + pad) // stride for place in range(stride)]
        most = max(end - start + 1 for start, end in zip(first, last, strict=True))
        before = max(0, -min(first))
        return cls(most, [start + before for start in first], 1, before)

    def reach(self, source: int, result: int) -> int:
        """Length of the padded source."""
        cells = [(result - 1 - place) // len(self.first) for place in range(len(self.first))]
        ends = [first + cell * self.step for first, cell in zip(self.first, cells, strict=True)]
        return max(self.pad + source, max(ends) + self.taps)


def _turned(weight: Tensor, kernel: Kernel, pads: list[int], axes: list[_Axis]) -> Tensor:
    """(places of a stride's cell, C, taps, taps) the weight that each place of an input reads the outputs with."""
    (sy, sx), (rows, columns) = kernel.stride, axes
    turned = weight.new_zeros(sy, sx, len(weight), rows.taps, columns.taps)
    for ky, kx in np.ndindex(*kernel.size):
        for y, x in np.ndindex(sy, sx):
            (oy, over_y), (ox, over_x) = divmod(y + pads[0] - ky, sy), divmod(x + pads[1] - kx, sx)
            if over_y == over_x == 0:
                at = oy + rows.pad - rows.first[y], ox + columns.pad - columns.first[x]
                turned[y, x, :, at[0], at[1]] = weight[:, 0, ky, kx]
    return turned.flatten(0, 1)


def _bits(size: torch.Size) -> Tensor:
    images, channels, *places = size
    return torch.empty(images, channels // LANES, *places, dtype=torch.int16)


@dataclass(frozen=True)
class _Spec:
    """What a kernel is made for.

    Args:
        taps: it reads for each value, (rows, columns).
        step: from what one place reads to what the next one does, along a row.
        back: whether it reads bits and cuts nothing, or cuts and writes bits.
        half: whether maps are bfloat16.
        bits: whether there are any of what it reads, and of what it gives.
    """

    taps: tuple[int, int]
    step: int
    back: bool
    half: bool
    bits: tuple[bool, bool]


_POINTERS = ("source", "result", "scratch", "source_bits", "result_bits")
_TABLES = (
    "weights",
    "limits",
    "scale_before",
    "shift_before",
    "scale_behind",
    "shift_behind",
    "first_row",
    "first_column",
)
_SIZES = (
    "items", "groups", "parts", "channels", "source_rows", "source_columns", "result_rows", "result_columns",
    "top", "left", "padded", "own", "cell_rows", "cell_columns", "row_step", "column_step",
)  # fmt: skip
_ARGUMENTS = ("turn", "thread", *_POINTERS, *_TABLES, *_SIZES)


@dataclass(frozen=True)
class _Plan:
    """Everything about a run but the maps: made once for each size."""

    kernel: int
    size: torch.Size
    scratch: int
    arguments: np.ndarray[Any, np.dtype[np.int64]]
    tables: list[Tensor]

    @classmethod
    def of(cls, spec: _Spec, given: torch.Size, size: torch.Size, axes: list[_Axis], tables: list[Tensor]) -> _Plan:
        """A plan to make maps of `size` from `given` ones."""
        (rows, columns), threads, blocks = axes, torch.get_num_threads(), given[1] // LANES
        padded = columns.reach(given[3], size[3])
        each = max(2, _CACHE // (rows.taps * padded * LINE))
        groups = -(-blocks // each)
        items = given[0] * groups
        parts = 1 if items % threads == 0 or items >= 4 * threads else threads
        own = -(-blocks // groups) * rows.taps * padded * LANES
        tables = [*tables, torch.tensor(rows.first), torch.tensor(columns.first)]
        sizes = (
            items * parts, groups, parts, given[1], given[2], given[3], size[2], size[3],
            rows.pad, columns.pad, padded, own, len(rows.first), len(columns.first), rows.step, columns.step,
        )  # fmt: skip
        numbers = [0, 0, *(0 for _ in _POINTERS), *(table.data_ptr() for table in tables), *sizes]
        return cls(_compiled(spec), size, own * threads, np.array(numbers, np.int64), tables)

    def run(self, source: Tensor, result: Tensor, bits: Bits) -> None:
        """Fill the result."""
        scratch = torch.zeros(self.scratch)  # of each run its own: others may run at the same time
        arguments = self.arguments.copy()
        pointers = (0 if tensor is None else tensor.data_ptr() for tensor in (source, result, scratch, *bits))
        arguments[2 : 2 + len(_POINTERS)] = list(pointers)
        jit.run(self.kernel, arguments)


@cache
def _compiled(spec: _Spec) -> int:
    return jit.compiled(_Filter(spec).text("items"))


class _Filter(Writer):
    """Filters some rows of some channels of an image: each row is made ready once, in a ring of as many as are read."""

    def __init__(self, spec: _Spec) -> None:
        super().__init__(_ARGUMENTS)
        self.spec = spec

    def prepare(self) -> None:
        limits = [self.load(self.sum(self.a.limits, self.number(4 * place)), self.f32) for place in range(4)]
        low, high, *behind = map(self.everywhere, limits)
        self.cut_before, self.cut_behind = (low, high), tuple(behind)
        self.blocks = self.b.sdiv(self.a.channels, self.number(LANES))
        self.ring = self.sum(self.a.scratch, self.product(self.take("thread"), self.a.own, 4))
        self.ready = self.b.alloca(self.i64)  # the first row that is not in the ring yet

    def item(self, index: Any) -> None:
        b = self.b
        rest, group = b.sdiv(index, self.a.groups), b.srem(index, self.a.groups)
        self.image, part = b.sdiv(rest, self.a.parts), b.srem(rest, self.a.parts)
        start, stop = (b.sdiv(b.mul(self.a.result_rows, end), self.a.parts) for end in (part, b.add(part, self.one)))
        self.first, self.last = (
            b.sdiv(b.mul(self.blocks, end), self.a.groups) for end in (group, b.add(group, self.one))
        )
        b.store(self.number(-1 << 40), self.ready)
        self.loop(start, stop, self._row)

    def _line(self, block: Any, row: Any) -> Any:
        """Where a row of 16 channels lies in the ring."""
        taps = self.number(self.spec.taps[0])
        place = self.sum(self.product(self.b.sub(block, self.first), taps), self.b.srem(row, taps))
        return self.sum(self.ring, self.product(place, self.a.padded, LINE))

    def _row(self, y: Any) -> None:
        """One row of the result."""
        b, taps = self.b, self.spec.taps[0]
        cell, place = b.sdiv(y, self.a.cell_rows), b.srem(y, self.a.cell_rows)
        first = self.load(self.sum(self.a.first_row, self.product(place, 8)), self.i64)
        top = self.sum(first, self.product(cell, self.a.row_step))
        start, stop = self.larger(b.load(self.ready), top), self.sum(top, self.number(taps))
        self.loop(start, stop, self._make_ready)
        b.store(self.larger(start, stop), self.ready)
        tops = [self.sum(top, self.number(tap)) for tap in range(taps)]

        def block(index: Any) -> None:
            lines = [self._line(index, row) for row in tops]
            self.loop(self.zero, self.a.cell_columns, lambda x: self._places(index, y, place, x, lines))

        self.loop(self.first, self.last, block)

    def _make_ready(self, row: Any) -> None:
        """Put a row of the padded source into the ring, normed and cut, or where a gradient does not come from as 0."""
        b = self.b
        y = b.sub(row, self.a.top)
        inside = b.and_(b.icmp_signed(">=", y, self.zero), b.icmp_signed("<", y, self.a.source_rows))

        def line(index: Any) -> Any:
            return self.sum(self._line(index, row), self.product(self.a.left, LINE))

        def blank(index: Any) -> None:
            to = line(index)
            self.loop(
                self.zero, self.a.source_columns, lambda x: self.store(self.zeros, self.sum(to, self.product(x, LINE)))
            )

        with b.if_else(inside) as (then, otherwise):
            with then:
                self.loop(self.first, self.last, lambda index: self._read(index, y, line(index)))
            with otherwise:
                self.loop(self.first, self.last, blank)

    def _read(self, block: Any, y: Any, to: Any) -> None:
        rows, columns = self.a.source_rows, self.a.source_columns
        bits = self._bits(self.a.source_bits, block, rows, columns, y)
        values = self._values(self.a.source, block, rows, columns, y)
        scale, shift = (self._of_channels(table, block) for table in (self.a.scale_before, self.a.shift_before))
        below = self.product(columns, self.a.channels, self._width)

        def place(x: Any) -> None:
            at, bit = (
                self.sum(values, self.product(x, self.a.channels, self._width)),
                self.sum(bits, self.product(x, 2)),
            )
            value = self.load(at, self.shorts if self.spec.half else None)
            value = self.widened(value) if self.spec.half else value
            self.expect(self.sum(at, below))
            if not self.spec.back:
                value = self._cut(self.fma(value, scale, shift), self.cut_before, bit if self.spec.bits[0] else None)
            elif self.spec.bits[0]:
                value = self.where(self.load(bit, self.i16), value)
            self.store(value, self.sum(to, self.product(x, LINE)))

        self.loop(self.zero, columns, place)

    def _places(self, block: Any, y: Any, place: Any, column: Any, lines: list[Any]) -> None:
        """All places of a row that lie at the same column of a stride's cell, a few of them at a time."""
        b, step = self.b, self.a.cell_columns
        left = self.load(self.sum(self.a.first_column, self.product(column, 8)), self.i64)
        kernel = self.sum(self.product(self.sum(self.product(place, step), column), self.blocks), block)
        weights = self.sum(self.a.weights, self.product(kernel, math.prod(self.spec.taps) * LINE))
        count = b.add(b.sdiv(b.sub(b.sub(self.a.result_columns, column), self.one), step), self.one)
        values = self._values(self.a.result, block, self.a.result_rows, self.a.result_columns, y)
        bits = self._bits(self.a.result_bits, block, self.a.result_rows, self.a.result_columns, y)

        def some(index: Any) -> None:
            # The last ones may be done twice: that is cheaper than another loop for what is left over.
            first = self.smaller(self.product(index, _PLACES), b.sub(count, self.number(_PLACES)))
            start = self.product(self.sum(left, self.product(first, self.a.column_step)), LINE)
            sums = self._filtered([self.sum(line, start) for line in lines], weights)
            for offset, value in enumerate(sums):
                x = self.sum(self.product(self.sum(first, self.number(offset)), step), column)
                at = self.sum(values, self.product(x, self.a.channels, self._width))
                self._write(value, block, at, self.sum(bits, self.product(x, 2)))

        self.loop(self.zero, b.sdiv(b.add(count, self.number(_PLACES - 1)), self.number(_PLACES)), some)

    def _filtered(self, lines: list[Any], weights: Any) -> list[Any]:
        """The sums of a few places side by side, each in the order of rows and then columns."""
        rows, columns = self.spec.taps
        sums = [self.zeros] * _PLACES
        for row in range(rows):
            read: dict[int, Any] = {}
            for column in range(columns):
                weight = self.load(self.sum(weights, self.number((row * columns + column) * LINE)))
                for place in range(_PLACES):
                    at = place * self.spec.step + column
                    if at not in read:
                        read[at] = self.load(self.sum(lines[row], self.number(at * LINE)))
                    sums[place] = self.fma(read[at], weight, sums[place])
        return sums

    def _write(self, value: Any, block: Any, at: Any, bit: Any) -> None:
        kept = bit if self.spec.bits[1] else None
        if not self.spec.back:
            scale, shift = (self._of_channels(table, block) for table in (self.a.scale_behind, self.a.shift_behind))
            value = self._cut(self.fma(value, scale, shift), self.cut_behind, kept)
        elif kept is not None:
            value = self.where(self.load(kept, self.i16), value)
        self.store(self.halved(value) if self.spec.half else value, at)
        self.expect(self.sum(at, self.product(self.a.result_columns, self.a.channels, self._width)), written=True)

    def _cut(self, value: Any, limits: tuple[Any, Any], bit: Any) -> Any:
        value = self.cut(value, *limits)
        if bit is not None:
            self.store(self.let_through(value, *limits), bit)
        return value

    @property
    def _width(self) -> int:
        """Bytes of a value of a map."""
        return 2 if self.spec.half else 4

    def _values(self, maps: Any, block: Any, rows: Any, columns: Any, y: Any) -> Any:
        """Where 16 channels of the first place of a row lie."""
        place = self.product(self.sum(self.product(self.image, rows), y), columns)
        index = self.sum(self.product(place, self.a.channels), self.product(block, LANES))
        return self.sum(maps, self.product(index, self._width))

    def _bits(self, maps: Any, block: Any, rows: Any, columns: Any, y: Any) -> Any:
        """Where the bits of 16 channels of the first place of a row lie."""
        image = self.sum(self.product(self.image, self.blocks), block)
        place = self.product(self.sum(self.product(image, rows), y), columns)
        return self.sum(maps, self.product(place, 2))

    def _of_channels(self, table: Any, block: Any) -> Any:
        return self.load(self.sum(table, self.product(block, LINE)))
