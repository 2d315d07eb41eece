"""The kernel of a depthwise convolution: what one thread does, row by row, with a few channels of an image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from phosphene.kernels.jit.writer import LANES, LINE, Writer, compiled

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
    "weights",
    "limits",
    "scale_before",
    "shift_before",
    "scale_behind",
    "shift_behind",
    "first_row",
    "first_column",
    "widening",
    "projection",
    "projection_scale",
    "projection_shift",
    "projection_limits",
)
_SIZES = (
    "items", "groups", "parts", "channels", "source_channels", "source_rows", "source_columns", "result_rows",
    "result_columns", "top", "left", "padded", "own", "cell_rows", "cell_columns", "row_step", "column_step",
    "ring", "outputs",
)  # fmt: skip
_ARGUMENTS = ("turn", "thread", *POINTERS, *TABLES, *_SIZES)


@cache
def address(spec: Spec) -> int:
    """Of the kernel, compiled when it is first asked for."""
    return compiled(_Filter(spec).text("items"))


class _Filter(Writer):
    """Filters some rows of some channels of an image: each row is made ready once, in a ring of as many as are read."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(_ARGUMENTS)
        self.spec = spec

    def prepare(self) -> None:
        self.cut_before = self.limits(self.a.limits)
        self.cut_behind = self.limits(self.sum(self.a.limits, self.number(8)))
        self.blocks = self.b.sdiv(self.a.channels, self.number(LANES))
        self.ring = self.sum(self.a.scratch, self.product(self.take("thread"), self.a.own, 4))
        self.filtered = self.sum(self.ring, self.product(self.a.ring, 4))  # a row, if something is made of it
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
        if self.spec.projection is not None:
            self._project(y, *self.spec.projection)

    def _project(self, y: Any, registers: int, tall: int, lanes: int) -> None:
        """Make fewer channels out of all those of a row that was filtered: these never get to memory."""
        b, a, wide = self.b, self.a, registers * LINE
        low, high = self.limits(a.projection_limits)
        line = self.product(self.sum(self.product(self.image, a.result_rows), y), a.result_columns)
        result = self.sum(a.result, self.product(line, a.outputs, 4))

        def tile(panel: Any, index: Any) -> None:
            last = b.sub(a.result_columns, self.one)
            first = self.larger(
                self.smaller(self.product(index, tall), b.sub(a.result_columns, self.number(tall))), self.zero
            )
            places = [self.smaller(self.sum(first, self.number(n)), last) for n in range(tall)]
            rows = [self.sum(self.filtered, self.product(place, a.channels, 4)) for place in places]
            weights = self.sum(a.projection, self.product(panel, a.channels, wide))
            sums = self.products(rows, weights, registers, self.zero, a.channels)
            for number, value in enumerate(sums):
                place, register = places[number // registers], number % registers
                column = self.sum(self.product(panel, wide), self.number(register * LINE))
                scale, shift = (
                    self.load(self.sum(table, column)) for table in (a.projection_scale, a.projection_shift)
                )
                value = self.fma(value, scale, shift)
                at = self.sum(result, self.product(place, a.outputs, 4), column)
                self.store(self.cut(value, low, high), at, LANES if register + 1 < registers else lanes)

        panels = b.sdiv(self.sum(a.outputs, self.number(registers * LANES - 1)), self.number(registers * LANES))
        tiles = b.sdiv(self.sum(a.result_columns, self.number(tall - 1)), self.number(tall))
        self.loop(self.zero, panels, lambda panel: self.loop(self.zero, tiles, lambda index: tile(panel, index)))

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
                if self.spec.tile is None:
                    self.loop(self.first, self.last, lambda index: self._read(index, y, line(index)))
                else:
                    self._widen(y, line, *self.spec.tile)
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

    def _widen(self, y: Any, line: Callable[[Any], Any], registers: int, tall: int) -> None:
        """Make a row of all channels of this group out of the fewer ones of the source: it never gets to memory."""
        first, last = (self.b.sdiv(end, self.number(registers)) for end in (self.first, self.last))
        self.loop(first, last, lambda panel: self._widen_panel(panel, y, line, registers, tall))

    def _widen_panel(self, panel: Any, y: Any, line: Callable[[Any], Any], registers: int, tall: int) -> None:
        b, a = self.b, self.a
        rows, columns, wide = a.source_rows, a.source_columns, self.product(a.source_channels, 4)
        source = self.sum(a.source, self.product(self.sum(self.product(self.image, rows), y), columns, wide))
        weights = self.sum(a.widening, self.product(panel, a.source_channels, registers * LINE))
        blocks = [self.sum(self.product(panel, registers), self.number(n)) for n in range(registers)]
        parts = [
            (line(block), self._bits(a.source_bits, block, rows, columns, y), self._of_channels(a.scale_before, block),
             self._of_channels(a.shift_before, block))
            for block in blocks
        ]  # fmt: skip

        def tile(index: Any) -> None:
            # The last places may be made twice: that is cheaper than another loop for what is left over.
            first = self.smaller(self.product(index, tall), b.sub(columns, self.number(tall)))
            places = [self.sum(first, self.number(n)) for n in range(tall)]
            starts = [self.sum(source, self.product(place, wide)) for place in places]
            sums = self.products(starts, weights, registers, self.zero, a.source_channels)
            for number, value in enumerate(sums):
                place, (to, bit, scale, shift) = places[number // registers], parts[number % registers]
                kept = self.sum(bit, self.product(place, 2)) if self.spec.bits[0] else None
                value = self._cut(self.fma(value, scale, shift), self.cut_before, kept)
                self.store(value, self.sum(to, self.product(place, LINE)))

        self.loop(self.zero, b.sdiv(self.sum(columns, self.number(tall - 1)), self.number(tall)), tile)

    def _places(self, block: Any, y: Any, place: Any, column: Any, lines: list[Any]) -> None:
        """All places of a row that lie at the same column of a stride's cell, a few of them at a time."""
        b, step = self.b, self.a.cell_columns
        left = self.load(self.sum(self.a.first_column, self.product(column, 8)), self.i64)
        kernel = self.sum(self.product(self.sum(self.product(place, step), column), self.blocks), block)
        weights = self.sum(self.a.weights, self.product(kernel, math.prod(self.spec.taps) * LINE))
        count = b.add(b.sdiv(b.sub(b.sub(self.a.result_columns, column), self.one), step), self.one)
        if self.spec.projection is None:
            values = self._values(self.a.result, block, self.a.result_rows, self.a.result_columns, y)
        else:
            values = self.sum(self.filtered, self.product(block, LINE))
        bits = self._bits(self.a.result_bits, block, self.a.result_rows, self.a.result_columns, y)

        def some(index: Any) -> None:
            # The last ones may be done twice: that is cheaper than another loop for what is left over.
            first = self.smaller(self.product(index, PLACES), b.sub(count, self.number(PLACES)))
            start = self.product(self.sum(left, self.product(first, self.a.column_step)), LINE)
            sums = self._filtered([self.sum(line, start) for line in lines], weights)
            for offset, value in enumerate(sums):
                x = self.sum(self.product(self.sum(first, self.number(offset)), step), column)
                at = self.sum(values, self.product(x, self.a.channels, self._width))
                self._write(value, block, at, self.sum(bits, self.product(x, 2)))

        self.loop(self.zero, b.sdiv(b.add(count, self.number(PLACES - 1)), self.number(PLACES)), some)

    def _filtered(self, lines: list[Any], weights: Any) -> list[Any]:
        """The sums of a few places side by side, each in the order of rows and then columns."""
        rows, columns = self.spec.taps
        sums = [self.zeros] * PLACES
        for row in range(rows):
            read: dict[int, Any] = {}
            for column in range(columns):
                weight = self.load(self.sum(weights, self.number((row * columns + column) * LINE)))
                for place in range(PLACES):
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
        if self.spec.projection is None:
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
