"""The kernel of a depthwise convolution: what one thread does, row by row, with a few channels of an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from phosphene.kernels.jit.writer import LANES, LINE, Number, Writer, compiled, source_of

PLACES = 4
"""Of a row, at once: their sums do not wait for each other, and they share what they read."""


@dataclass(frozen=True)
class Spec:
    """What a kernel is made for.

    Args:
        taps: it reads for each value, (rows, columns).
        step: from what one place reads to what the next one does, along a row.
        back: whether it reads bits and cuts nothing, or cuts and writes bits.
        half: whether maps are bfloat16.
        bits: whether there are any of what it reads, and of what it gives.
        tile: (registers of channels, places) of the product that makes what it filters; None reads it as it is.
        projection: (registers of channels, places, channels of the last register) of the product that is made of what
            it filtered; None writes that as it is.
    """

    taps: tuple[int, int]
    step: int
    back: bool
    half: bool
    bits: tuple[bool, bool]
    tile: tuple[int, int] | None = None
    projection: tuple[int, int, int] | None = None


POINTERS = ("source", "result", "scratch", "source_bits", "result_bits")
TABLES = (
    "weights", "limits", "scale_before", "shift_before", "scale_behind", "shift_behind", "widening", "projection",
    "projection_scale", "projection_shift", "projection_limits",
)  # fmt: skip
_SIZES = (
    "items", "groups", "parts", "channels", "source_channels", "source_rows", "source_columns", "result_rows",
    "result_columns", "top", "left", "padded", "own", "cell_rows", "cell_columns", "row_step", "column_step",
    "ring", "outputs",
)  # fmt: skip
_ARGUMENTS = ("turn", "thread", *POINTERS, *TABLES, *_SIZES)


@cache
def address(spec: Spec) -> int:
    """Of the kernel, compiled when it is first asked for."""
    return compiled(f"{spec} {source_of(__file__)}", lambda: _Filter(spec).text())


class _Filter(Writer):
    """Filters some rows of some channels of an image: each row is made ready once, in a ring of as many as are read."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(_ARGUMENTS)
        self.spec, a = spec, self.a
        self.cut_before, self.cut_behind = self.limits(a.limits), self.limits(a.limits + 8)
        self.blocks = a.channels // LANES
        self.ring = a.scratch + self.take("thread") * a.own * 4
        self.filtered = self.ring + a.ring * 4  # a row, if something is made of it
        self.ready = self.b.alloca(self.i64)  # the first row that is not in the ring yet
        self.each("turn", a.items, self._item)

    def _item(self, index: Number) -> None:
        rest, group = index // self.a.groups, index % self.a.groups
        self.image, part = rest // self.a.parts, rest % self.a.parts
        start, stop = (self.a.result_rows * end // self.a.parts for end in (part, part + 1))
        self.first, self.last = (self.blocks * end // self.a.groups for end in (group, group + 1))
        self.b.store(self.i64(-1 << 40), self.ready)
        self.loop(start, stop, self._row)

    def _line(self, block: Number, row: Number) -> Any:
        """Where a row of 16 channels lies in the ring."""
        taps = self.spec.taps[0]
        return self.ring + ((block - self.first) * taps + row % taps) * self.a.padded * LINE

    def _row(self, y: Number) -> None:
        """One row of the result."""
        b, taps, place = self.b, self.spec.taps[0], y % self.a.cell_rows
        top = y // self.a.cell_rows * self.a.row_step
        start, stop = self.larger(Number(b, b.load(self.ready)), top), top + taps
        self.loop(start, stop, self._make_ready)
        b.store(self.larger(start, stop).value, self.ready)

        def block(index: Number) -> None:
            lines = [self._line(index, top + tap) for tap in range(taps)]
            self.loop(0, self.a.cell_columns, lambda x: self._places(index, y, place, x, lines))

        self.loop(self.first, self.last, block)
        if self.spec.projection is not None:
            self._project(y, *self.spec.projection)

    def _project(self, y: Number, registers: int, tall: int, lanes: int) -> None:
        """Make fewer channels out of all those of a row that was filtered: these never get to memory."""
        a, wide = self.a, registers * LINE
        low, high = self.limits(a.projection_limits)
        result = a.result + (self.image * a.result_rows + y) * a.result_columns * a.outputs * 4

        def tile(panel: Number, index: Number) -> None:
            first = self.larger(self.smaller(index * tall, a.result_columns - tall), 0)
            places = [self.smaller(first + n, a.result_columns - 1) for n in range(tall)]
            rows = [self.filtered + place * a.channels * 4 for place in places]
            sums = self.products(rows, a.projection + panel * a.channels * wide, registers, a.channels)
            for number, value in enumerate(sums):
                place, register = places[number // registers], number % registers
                column = panel * wide + register * LINE
                value = self.fma(value, self.load(a.projection_scale + column), self.load(a.projection_shift + column))
                at = result + place * a.outputs * 4 + column
                self.store(self.cut(value, low, high), at, LANES if register + 1 < registers else lanes)

        panels = (a.outputs + (registers * LANES - 1)) // (registers * LANES)
        tiles = (a.result_columns + (tall - 1)) // tall
        self.loop(0, panels, lambda panel: self.loop(0, tiles, lambda index: tile(panel, index)))

    def _make_ready(self, row: Number) -> None:
        """Put a row of the padded source into the ring, normed and cut, or where a gradient does not come from as 0."""
        b, y = self.b, row - self.a.top
        above, inside = (b.icmp_signed("<", y.value, self.value(end)) for end in (0, self.a.source_rows))

        def line(index: Number) -> Any:
            return self._line(index, row) + self.a.left * LINE

        def blank(index: Number) -> None:
            to = line(index)
            self.loop(0, self.a.source_columns, lambda x: self.store(self.zeros, to + x * LINE))

        with b.if_else(b.and_(b.not_(above), inside)) as (then, otherwise):
            with then:
                if self.spec.tile is None:
                    self.loop(self.first, self.last, lambda index: self._read(index, y, line(index)))
                else:
                    self._widen(y, line, *self.spec.tile)
            with otherwise:
                self.loop(self.first, self.last, blank)

    def _read(self, block: Number, y: Number, to: Number) -> None:
        rows, columns = self.a.source_rows, self.a.source_columns
        bits = self._bits(self.a.source_bits, block, rows, columns, y)
        values = self._values(self.a.source, block, rows, columns, y)
        scale, shift = (self.load(table + block * LINE) for table in (self.a.scale_before, self.a.shift_before))
        stride = self.a.channels * self._width
        below = columns * stride

        def place(x: Number) -> None:
            at, bit = values + x * stride, bits + x * 2
            value = self.load(at, self.shorts if self.spec.half else None)
            value = self.widened(value) if self.spec.half else value
            self.expect(at + below)
            if not self.spec.back:
                value = self._cut(self.fma(value, scale, shift), self.cut_before, bit if self.spec.bits[0] else None)
            elif self.spec.bits[0]:
                value = self.where(self.load(bit, self.i16), value)
            self.store(value, to + x * LINE)

        self.loop(0, columns, place)

    def _widen(self, y: Number, line: Callable[[Number], Number], registers: int, tall: int) -> None:
        """Make a row of all channels of this group out of the fewer ones of the source: it never gets to memory."""
        a, rows, columns = self.a, self.a.source_rows, self.a.source_columns
        wide = a.source_channels * 4
        source = a.source + (self.image * rows + y) * columns * wide

        def panel(index: Number) -> None:
            weights = a.widening + index * a.source_channels * (registers * LINE)
            blocks = [index * registers + n for n in range(registers)]
            parts = [
                (line(block), self._bits(a.source_bits, block, rows, columns, y),
                 self.load(a.scale_before + block * LINE), self.load(a.shift_before + block * LINE))
                for block in blocks
            ]  # fmt: skip

            def tile(turn: Number) -> None:
                # The last places may be made twice: that is cheaper than another loop for what is left over.
                first = self.smaller(turn * tall, columns - tall)
                places = [first + n for n in range(tall)]
                sums = self.products([source + place * wide for place in places], weights, registers, a.source_channels)
                for number, value in enumerate(sums):
                    place, (to, bit, scale, shift) = places[number // registers], parts[number % registers]
                    kept = bit + place * 2 if self.spec.bits[0] else None
                    self.store(self._cut(self.fma(value, scale, shift), self.cut_before, kept), to + place * LINE)

            self.loop(0, (columns + (tall - 1)) // tall, tile)

        self.loop(self.first // registers, self.last // registers, panel)

    def _places(self, block: Number, y: Number, place: Number, column: Number, lines: list[Number]) -> None:
        """All places of a row that lie at the same column of a stride's cell, a few of them at a time."""
        a, step = self.a, self.a.cell_columns
        weights = a.weights + ((place * step + column) * self.blocks + block) * (math.prod(self.spec.taps) * LINE)
        count = (a.result_columns - column - 1) // step + 1
        if self.spec.projection is None:
            values = self._values(a.result, block, a.result_rows, a.result_columns, y)
        else:
            values = self.filtered + block * LINE
        bits = self._bits(a.result_bits, block, a.result_rows, a.result_columns, y)

        def some(index: Number) -> None:
            # The last ones may be done twice: that is cheaper than another loop for what is left over.
            first = self.smaller(index * PLACES, count - PLACES)
            start = first * a.column_step * LINE
            for offset, value in enumerate(self._filtered([line + start for line in lines], weights)):
                x = (first + offset) * step + column
                self._write(value, block, values + x * a.channels * self._width, bits + x * 2)

        self.loop(0, (count + (PLACES - 1)) // PLACES, some)

    def _filtered(self, lines: list[Number], weights: Number) -> list[Any]:
        """The sums of a few places side by side, each in the order of rows and then columns."""
        rows, columns = self.spec.taps
        sums = [self.zeros] * PLACES
        for row in range(rows):
            read: dict[int, Any] = {}
            for column in range(columns):
                weight = self.load(weights + (row * columns + column) * LINE)
                for place in range(PLACES):
                    at = place * self.spec.step + column
                    if at not in read:
                        read[at] = self.load(lines[row] + at * LINE)
                    sums[place] = self.fma(read[at], weight, sums[place])
        return sums

    def _write(self, value: Any, block: Number, at: Number, bit: Number) -> None:
        kept = bit if self.spec.bits[1] else None
        if not self.spec.back:
            scale, shift = (self.load(table + block * LINE) for table in (self.a.scale_behind, self.a.shift_behind))
            value = self._cut(self.fma(value, scale, shift), self.cut_behind, kept)
        elif kept is not None:
            value = self.where(self.load(kept, self.i16), value)
        self.store(self.halved(value) if self.spec.half else value, at)
        if self.spec.projection is None:
            self.expect(at + self.a.result_columns * self.a.channels * self._width, written=True)

    def _cut(self, value: Any, limits: tuple[Any, Any], bit: Number | None) -> Any:
        value = self.cut(value, *limits)
        if bit is not None:
            self.store(self.let_through(value, *limits), bit)
        return value

    @property
    def _width(self) -> int:
        """Bytes of a value of a map."""
        return 2 if self.spec.half else 4

    def _values(self, maps: Number, block: Number, rows: Number, columns: Number, y: Number) -> Any:
        """Where 16 channels of the first place of a row lie."""
        return maps + ((self.image * rows + y) * columns * self.a.channels + block * LANES) * self._width

    def _bits(self, maps: Number, block: Number, rows: Number, columns: Number, y: Number) -> Any:
        """Where the bits of 16 channels of the first place of a row lie."""
        return maps + ((self.image * self.blocks + block) * rows + y) * columns * 2
