"""3 x 3 convolutions with 16 products where the definition has 36: F(2 x 2, 3 x 3) of Winograd (lavin2016).

Tiles of 4 x 4 inputs that overlap by two become 16 numbers, each of which is multiplied by a matrix of its own; of
16 sums 2 x 2 outputs are made. The products are one grouped 1 x 1 convolution of oneDNN's; what is before and behind
it are additions, done by kernels of our own for as many tiles at a time as stay in the cache.

A sum has a ninth of the terms, so in float32 results are no further from the exact ones than those of the definition;
but their last bits are others, and where an infinite value is seen they are no numbers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phosphene.graph import Kernel
from phosphene.kernels.jit import writer
from phosphene.kernels.jit.elementwise import Elementwise
from phosphene.kernels.jit.writer import LANES, LINE, Writer

_MK = torch.ops.mkldnn
_LAST = torch.channels_last
_POINTS = 16
# Of a tile's inputs, its outputs, and how a kernel's taps become the factors.
_SIDE, _STEP = 4, 2
_FACTORS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
# Values of tiles, before and behind the products, that are worked on at a time.
_CACHED = 2 << 20
# Fewer channels have too few products to each addition.
_MANY_CHANNELS = 64
# Rows and columns, with their padding, below which too many outputs of tiles are nobody's.
_LEAST = 6
# Tiles of an item.
_ITEM = 16
# Numbers of tiles that the factors are kept packed for: the usual one and that of a smaller batch.
_PACKED = 2


class Winograd:
    """A 3 x 3 convolution of stride 1, and what is done to each of its values.

    Args:
        weight: (out, in, 3, 3), both multiples of 16, in float32 or bfloat16: what it takes, multiplies and gives.
            Additions are of float32.
        behind: its shift and activation follow the sums; its scale is not asked.
        turned: whether it goes the way back: from outputs to inputs, with the kernel upside down.

    Example:
        >>> if writer.available():
        ...     sums = Winograd(torch.ones(16, 16, 3, 3), Elementwise.of(16, None, None))
        ...     assert sums.run(torch.ones(1, 16, 5, 4), [1, 1])[0, 0, 2].tolist() == [96, 144, 144, 96]
    """

    def __init__(self, weight: Tensor, behind: Elementwise, *, turned: bool = False) -> None:
        self._weight, self._turned, self._dtype = weight, turned, weight.dtype
        outputs, channels = weight.shape[:2]
        self._outputs, self._channels = (channels, outputs) if turned else (outputs, channels)
        self._shift, self._limits = behind.shift.float(), behind.limits
        # What lies outside of an image is read from here, and what would be written there goes there.
        self._blank = torch.zeros(max(weight.shape[:2]), dtype=torch.float32, device="cpu")
        self._packed: dict[torch.Size, Tensor] = {}

    @staticmethod
    def takes(weight: Tensor, kernel: Kernel, groups: int) -> bool:
        """Whether it can do the work of a convolution on this machine, and be faster."""
        plain = (kernel.size, kernel.stride, kernel.dilation, groups) == ((3, 3), (1, 1), (1, 1), 1)
        whole = all(channels % LANES == 0 and channels >= _MANY_CHANNELS for channels in weight.shape[:2])
        return plain and whole and writer.available()

    @staticmethod
    def fits(size: torch.Size, padding: Sequence[int]) -> bool:
        """Whether few of its outputs for maps of this size would lie outside of them."""
        return min(side + 2 * pad for side, pad in zip(size[-2:], padding, strict=True)) >= _LEAST

    def run(self, inputs: Tensor, padding: Sequence[int]) -> Tensor:
        """The output for inputs (N, in, H, W), with so many rows and columns of zeros on each side."""
        if inputs.shape[1] != self._channels:  # (its memory would be read all the same)
            raise ValueError(f"a convolution of {self._channels} channels was given {inputs.shape[1]}")
        inputs = inputs.to(self._dtype).contiguous(memory_format=_LAST)
        count, _, height, width = inputs.shape
        rows, columns = (side + 2 * pad - 2 for side, pad in zip((height, width), padding, strict=True))
        output = torch.empty(
            (count, self._outputs, rows, columns), dtype=self._dtype, device="cpu", memory_format=_LAST
        )
        high, wide = -(-rows // _STEP), -(-columns // _STEP)  # tiles
        count *= high * wide
        before = (inputs, self._blank, self._channels, height, width, *padding)
        behind = (output, torch.empty_like(self._blank), self._outputs, rows, columns, 0, 0)
        each = self._together(count)
        tiles = torch.empty(
            (1, _POINTS * self._channels, each // LANES, LANES), dtype=self._dtype, device="cpu", memory_format=_LAST
        )
        for start in range(0, count, each):
            # The last ones are done twice: products of another size would want other weights.
            grid = (max(0, min(start, count - each)), each // _ITEM, count, high, wide)
            self._move(tiles, grid, before, back=False)
            self._move(self._products(tiles), grid, behind, back=True)
        return output

    def _together(self, count: int) -> int:
        """How many tiles are worked on at a time: one of a few numbers, as each wants the factors in its own order."""
        most = _CACHED // (_POINTS * (self._channels + self._outputs))
        each = LANES
        while each < min(count, most):
            each *= 2
        return each

    def _products(self, tiles: Tensor) -> Tensor:
        """The 16 products of each tile."""
        packed = self._packed.get(tiles.shape)
        if packed is None:
            for size in list(self._packed)[: 1 - _PACKED]:
                self._packed.pop(size, None)
            layout = ([0, 0], (1, 1), (1, 1), _POINTS, list(tiles.shape))
            packed = self._packed[tiles.shape] = _MK._reorder_convolution_weight(self._factors(), *layout)
        return _MK._convolution_pointwise(  # type: ignore[no-any-return]
            tiles, packed, None, [0, 0], (1, 1), (1, 1), _POINTS, "none", [], ""
        )

    def _factors(self) -> Tensor:
        """(16 out, in, 1, 1) what the points are multiplied by."""
        weight = self._weight.transpose(0, 1).flip(2, 3) if self._turned else self._weight
        taps = weight.permute(2, 3, 0, 1).reshape(9, -1).float()
        factors = torch.tensor(_FACTORS, dtype=torch.float32, device="cpu")
        found = torch.kron(factors, factors) @ taps  # (16, out in)
        return found.reshape(-1, self._channels, 1, 1).to(self._dtype).contiguous(memory_format=_LAST)

    def _move(self, tiles: Tensor, grid: tuple[int, ...], maps: tuple[Any, ...], *, back: bool) -> None:
        """Make tiles of a map, or the map of tiles."""
        image, spare, *sizes = maps
        pointers = (tensor.data_ptr() for tensor in (image, spare, tiles, self._shift, self._limits))
        arguments = np.array([0, *pointers, *grid, *sizes], np.int64)
        writer.run(_compiled(back, self._dtype == torch.bfloat16), arguments, torch.get_num_threads())


_ARGUMENTS = (
    "turn", "image", "spare", "tiles", "shift", "limits",
    "first", "items", "count", "high", "wide", "channels", "rows", "columns", "top", "left",
)  # fmt: skip


@cache
def _compiled(back: bool, half: bool) -> int:
    return writer.compiled((_Gather if back else _Scatter)(half).text("items"))


class _Tiles(Writer):
    """A few tiles, all of their channels."""

    side: int

    def __init__(self, half: bool) -> None:
        super().__init__(_ARGUMENTS)
        self.half, self.width = half, 2 if half else 4

    def item(self, index: Any) -> None:
        b, a = self.b, self.a
        # Where there are fewer tiles than are worked on, the last one is done again.
        first = self.sum(a.first, self.product(index, _ITEM))
        number = self.smaller(first, b.sub(a.count, self.one))
        row, column = b.sdiv(number, a.wide), b.srem(number, a.wide)
        start = [b.sdiv(row, a.high), b.srem(row, a.high), column]

        def member(number: Any, place: list[Any]) -> list[Any]:
            self._tile(self.sum(self.product(index, _ITEM), number), *place)
            is_last = b.icmp_signed(">=", self.sum(first, number, self.one), a.count)
            following = self._following(*place)
            return [b.select(is_last, old, new) for old, new in zip(place, following, strict=True)]

        self.fold(self.zero, self.number(_ITEM), start, member)

    def _following(self, image: Any, line: Any, column: Any) -> list[Any]:
        """The place of the next tile."""
        b, a = self.b, self.a
        column = self.sum(column, self.one)
        over = b.icmp_signed("==", column, a.wide)
        line = self.sum(line, b.zext(over, self.i64))
        beyond = b.icmp_signed("==", line, a.high)
        image = self.sum(image, b.zext(beyond, self.i64))
        return [image, b.select(beyond, self.zero, line), b.select(over, self.zero, column)]

    def _tile(self, index: Any, image: Any, line: Any, column: Any) -> None:
        b, a = self.b, self.a
        y, x = b.sub(self.product(line, _STEP), a.top), b.sub(self.product(column, _STEP), a.left)
        length = self.product(a.channels, self.width)
        places = self._places(self.product(image, a.rows), y, x, length)
        at = self.product(index, length, _POINTS)
        points = [self.sum(a.tiles, at, self.product(length, number)) for number in range(_POINTS)]

        def block(channel: Any) -> None:
            offset = self.product(channel, LANES * self.width)
            far, near = ([self.sum(address, offset) for address in addresses] for addresses in (places, points))
            self.move(far, near, channel)

        self.loop(self.zero, b.sdiv(a.channels, self.number(LANES)), block)

    @abstractmethod
    def move(self, places: list[Any], points: list[Any], channel: Any) -> None:
        """Write what is done for 16 channels of a tile."""

    def _places(self, start: Any, y: Any, x: Any, length: Any) -> list[Any]:
        """Addresses of the side x side places of the map from (y, x) on; the spare one of those outside of it."""
        b, a = self.b, self.a

        def inside(at: Any, side: Any) -> Any:
            return b.and_(b.icmp_signed(">=", at, self.zero), b.icmp_signed("<", at, side))

        found = []
        columns = [self.sum(x, self.number(n)) for n in range(self.side)]
        within = [inside(column, a.columns) for column in columns]
        for n in range(self.side):
            row = self.sum(y, self.number(n))
            line = self.product(self.sum(start, row), a.columns)
            for column, there in zip(columns, within, strict=True):
                place = self.sum(a.image, self.product(self.sum(line, column), length))
                # Channels are counted from the address, so the spare place is as long as one of the map.
                found.append(b.select(b.and_(inside(row, a.rows), there), place, a.spare))
        return found

    def read(self, address: Any) -> Any:
        return self.widened(self.load(address, self.shorts)) if self.half else self.load(address)

    def write(self, value: Any, address: Any) -> None:
        self.store(self.halved(value) if self.half else value, address)


class _Scatter(_Tiles):
    """4 x 4 inputs to 16 points."""

    side = _SIDE

    def move(self, places: list[Any], points: list[Any], channel: Any) -> None:
        values = [self.read(place) for place in places]
        rows = [self._differences(values[column::_SIDE]) for column in range(_SIDE)]  # [column][row]
        for row in range(_SIDE):
            for column, value in enumerate(self._differences([rows[n][row] for n in range(_SIDE)])):
                self.write(value, points[row * _SIDE + column])

    def _differences(self, values: list[Any]) -> list[Any]:
        b, (first, second, third, fourth) = self.b, values
        return [b.fsub(first, third), b.fadd(second, third), b.fsub(third, second), b.fsub(second, fourth)]


class _Gather(_Tiles):
    """16 points to 2 x 2 outputs."""

    side = _STEP

    def move(self, places: list[Any], points: list[Any], channel: Any) -> None:
        values = [self.read(point) for point in points]
        rows = [self._sums(values[column::_SIDE]) for column in range(_SIDE)]  # [column][row]
        shift = self.load(self.sum(self.a.shift, self.product(channel, LINE)))
        low, high = self.limits(self.a.limits)
        for row in range(_STEP):
            for column, value in enumerate(self._sums([rows[n][row] for n in range(_SIDE)])):
                self.write(self.cut(self.b.fadd(value, shift), low, high), places[row * _STEP + column])

    def _sums(self, values: list[Any]) -> list[Any]:
        b, (first, second, third, fourth) = self.b, values
        return [b.fadd(b.fadd(first, second), third), b.fsub(b.fsub(second, third), fourth)]
