"""A convolution of all channels, in channels last, that adds up as oneDNN's kernel for contiguous images does.

That kernel takes 16 channels at a time: all their taps are added up, and then the sums of each 16. No operation of
PyTorch's does so in channels last, and to change layout and back costs a third of the convolution.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phosphene.graph import Kernel
from phosphene.runtime import jit
from phosphene.runtime.elementwise import Elementwise
from phosphene.runtime.jit import LANES, LINE, Writer

_LAST = torch.channels_last
# (registers of outputs, places) of a tile: as many sums as there are registers for, the fastest first.
_TILES = ((2, 14), (4, 7), (3, 9), (1, 28))
# Bytes of inputs, of 16 channels, that a strip of rows reads: they are read again for each tap.
_CACHED = 64 << 10
# Bytes of inputs, of all channels, that are convolved with the same weights before the next: the weights stay near.
_NEAR = 1 << 20


class DenseConvolution:
    """A convolution of one group, and what is done to each of its values.

    Args:
        weight: (out, in, kh, kw) in float32, both multiples of 16.
        bias: (out,) or None.
        kernel: stride and padding.
        behind: what is done to each sum.

    Example:
        >>> from phosphene.graph import convolution_kernel
        >>> if jit.available():
        ...     network, behind = nn.Conv2d(16, 32, 3), Elementwise.of(32, None, None)
        ...     kernel = convolution_kernel(network)
        ...     dense = DenseConvolution(network.weight.detach(), network.bias.detach(), kernel, behind)
        ...     images = torch.rand(1, 16, 5, 7)
        ...     assert (dense.run(images) - network(images)).abs().max() < 1e-5
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, kernel: Kernel, behind: Elementwise) -> None:
        self._kernel, self._behind, self._limits = kernel, behind, behind.limits
        self._outputs, self._channels = weight.shape[:2]
        self._weight, self._panels = weight, dict[int, Tensor]()
        self._bias = (
            torch.zeros(self._outputs, dtype=torch.float32, device="cpu") if bias is None else bias.contiguous()
        )

    @classmethod
    def of(cls, convolution: nn.Conv2d, kernel: Kernel, behind: Elementwise) -> DenseConvolution:
        """What a module does, and what follows."""
        bias = convolution.bias
        return cls(convolution.weight.detach(), None if bias is None else bias.detach(), kernel, behind)

    @staticmethod
    def takes(convolution: nn.Conv2d, kernel: Kernel) -> bool:
        """Whether it can do the work of a convolution on this machine, in an order of sums that PyTorch has too."""
        whole = all(channels % LANES == 0 for channels in convolution.weight.shape[:2])
        plain = convolution.groups == 1 and kernel.dilation == (1, 1) and kernel.size != (1, 1)
        return plain and whole and jit.available()

    def run(self, inputs: Tensor) -> Tensor:
        """The output for inputs (N, in, H, W) in float32."""
        if inputs.shape[1] != self._channels:  # (its memory would be read all the same)
            raise ValueError(f"a convolution of {self._channels} channels was given {inputs.shape[1]}")
        inputs = inputs.contiguous(memory_format=_LAST)
        (count, _, height, width), ((top, _), (left, _)) = inputs.shape, self._kernel.pads(inputs.shape[-2:])
        rows, columns = self._kernel.outputs(inputs.shape[-2:])
        registers, tall = self._tile(columns)
        reach = (-(-columns // tall) * tall - 1) * self._kernel.stride[1] + self._kernel.size[1]
        padded = max(reach, left + width)
        strip = max(1, min(rows, _CACHED // (padded * LINE * self._kernel.stride[0])))
        strips, panels = -(-rows // strip), self._outputs // (registers * LANES)
        ready = ((strip - 1) * self._kernel.stride[0] + self._kernel.size[0]) * padded
        together = max(1, _NEAR // (strip * self._kernel.stride[0] * width * self._channels * 4))
        own, threads = ready + strip * -(-columns // tall) * tall * registers, torch.get_num_threads()
        scratch = torch.empty(own * threads * LANES, dtype=torch.float32, device="cpu")
        size = (count, self._outputs, rows, columns)
        output = torch.empty(size, dtype=torch.float32, device="cpu", memory_format=_LAST)
        tables = (
            inputs, output, scratch, self._panel(registers), self._bias,
            self._behind.scale, self._behind.shift, self._limits,
        )  # fmt: skip
        numbers = (
            -(-count * strips // together) * together * panels, count * strips, strips, panels, together, strip,
            self._channels, self._outputs,
            height, width, rows, columns, top, left, padded, ready, own,
        )  # fmt: skip
        arguments = np.array([0, 0, *(table.data_ptr() for table in tables), *numbers], np.int64)
        jit.run(_compiled((registers, tall), self._kernel.size, self._kernel.stride), arguments, threads)
        return output

    def _tile(self, columns: int) -> tuple[int, int]:
        """The tile that computes the fewest places beyond a row's end."""
        whole = [tile for tile in _TILES if self._outputs // LANES % tile[0] == 0]
        return min(whole, key=lambda tile: -(-columns // tile[1]) * tile[1])

    def _panel(self, registers: int) -> Tensor:
        """(panels, blocks of channels, kh, kw, 16, outputs of a panel): as they are read."""
        if registers not in self._panels:
            rows, columns = self._kernel.size
            split = self._weight.reshape(-1, registers * LANES, self._channels // LANES, LANES, rows, columns)
            self._panels[registers] = split.permute(0, 2, 4, 5, 3, 1).contiguous()
        return self._panels[registers]


_ARGUMENTS = (
    "turn", "thread", "source", "result", "scratch", "weights", "bias", "scale", "shift", "limits",
    "items", "all_strips", "strips", "panels", "together", "strip", "channels", "outputs",
    "source_rows", "source_columns", "rows", "columns", "top", "left", "padded", "ready", "own",
)  # fmt: skip


@cache
def _compiled(tile: tuple[int, int], taps: tuple[int, int], stride: tuple[int, int]) -> int:
    return jit.compiled(_Dense(tile, taps, stride).text("items"))


class _Dense(Writer):
    """A strip of rows of one image, for a panel of outputs: 16 channels are laid out, and their sums added."""

    def __init__(self, tile: tuple[int, int], taps: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__(_ARGUMENTS)
        (self.registers, self.tall), self.taps, self.stride = tile, taps, stride

    def prepare(self) -> None:
        a = self.a
        self.lines = self.sum(a.scratch, self.product(self.take("thread"), a.own, LINE))
        self.totals = self.sum(self.lines, self.product(a.ready, LINE))
        self.tiles = self.b.sdiv(self.sum(a.columns, self.number(self.tall - 1)), self.number(self.tall))

    def item(self, index: Any) -> None:
        b, a = self.b, self.a
        rest, member = b.sdiv(index, a.together), b.srem(index, a.together)
        group, panel = b.sdiv(rest, a.panels), b.srem(rest, a.panels)
        strip = self.sum(self.product(group, a.together), member)
        with b.if_then(b.icmp_signed("<", strip, a.all_strips)):  # the last group may not be full
            self._strip(b.sdiv(strip, a.strips), b.srem(strip, a.strips), panel)

    def _strip(self, image: Any, strip: Any, panel: Any) -> None:
        b, a = self.b, self.a
        first = self.product(strip, a.strip)
        rows = self.smaller(a.strip, b.sub(a.rows, first))
        blocks, size = b.sdiv(a.channels, self.number(LANES)), self._steps * self.registers * LINE
        weights = self.sum(a.weights, self.product(panel, blocks, size))
        self.loop(
            self.zero, a.ready, lambda place: self.store(self.zeros, self.sum(self.lines, self.product(place, LINE)))
        )

        def block(number: Any) -> None:
            self._lay_out(image, first, rows, number)
            own = self.sum(weights, self.product(number, size))
            self.loop(self.zero, rows, lambda row: self._row(row, own, panel, b.icmp_signed("==", number, self.zero)))

        self.loop(self.zero, blocks, block)
        self.loop(self.zero, rows, lambda row: self._write(image, first, row, panel))

    @property
    def _steps(self) -> int:
        return self.taps[0] * self.taps[1] * LANES

    def _lay_out(self, image: Any, first: Any, rows: Any, block: Any) -> None:
        """Put 16 channels of the rows that are read side by side, with their padding."""
        b, a = self.b, self.a
        top = b.sub(self.product(first, self.stride[0]), a.top)
        start = self.larger(self.zero, b.sub(self.zero, top))
        reach = self.sum(self.product(b.sub(rows, self.one), self.stride[0]), self.number(self.taps[0]))
        length = self.product(a.channels, 4)

        def row(y: Any) -> None:
            line = self.product(self.sum(self.product(image, a.source_rows), top, y), a.source_columns)
            source = self.sum(a.source, self.product(line, length), self.product(block, LINE))
            to = self.sum(self.lines, self.product(self.sum(self.product(y, a.padded), a.left), LINE))

            def place(x: Any) -> None:
                self.store(self.load(self.sum(source, self.product(x, length))), self.sum(to, self.product(x, LINE)))

            self.loop(self.zero, a.source_columns, place)

        self.loop(start, self.smaller(reach, b.sub(a.source_rows, top)), row)

    def _row(self, row: Any, weights: Any, panel: Any, is_first: Any) -> None:
        """Add what 16 channels give to the totals of a row."""
        b = self.b
        lines = self.sum(self.lines, self.product(row, self.a.padded, self.stride[0] * LINE))
        bias = self.sum(self.a.bias, self.product(panel, self.registers * LINE))

        def tile(index: Any) -> None:
            sums = self._sums(self.sum(lines, self.product(index, self.tall * self.stride[1] * LINE)), weights)
            to = self.sum(self._total(row), self.product(index, self.tall * self.registers * LINE))
            for number, value in enumerate(sums):
                at = self.sum(to, self.number(number * LINE))
                start = b.select(is_first, self.sum(bias, self.number(number % self.registers * LINE)), at)
                self.store(b.fadd(self.load(start), value), at)

        self.loop(self.zero, self.tiles, tile)

    def _total(self, row: Any) -> Any:
        return self.sum(self.totals, self.product(row, self.tiles, self.tall * self.registers * LINE))

    def _sums(self, start: Any, weights: Any) -> list[Any]:
        """The sums over all taps of 16 channels, for the places of a tile."""
        rows, columns = self.taps
        line, wide = self.product(self.a.padded, LINE), self.registers * LINE

        def tap(number: Any, sums: list[Any]) -> list[Any]:
            y, x = self.b.sdiv(number, self.number(columns)), self.b.srem(number, self.number(columns))
            at = self.sum(start, self.product(y, line), self.product(x, LINE))
            own = self.sum(weights, self.product(number, LANES * wide))
            return self.fold(
                self.zero, self.number(LANES), sums, lambda channel, found: channels(at, own, channel, found)
            )

        def channels(at: Any, own: Any, channel: Any, sums: list[Any]) -> list[Any]:
            vectors, floats = self.sum(own, self.product(channel, wide)), self.sum(at, self.product(channel, 4))
            factors = [self.load(self.sum(vectors, self.number(n * LINE))) for n in range(self.registers)]
            found = []
            for place in range(self.tall):
                float_ = self.load(self.sum(floats, self.number(place * self.stride[1] * LINE)), self.f32)
                value, given = self.everywhere(float_), sums[place * self.registers :]
                found += [self.fma(value, factor, total) for factor, total in zip(factors, given, strict=False)]
            return found

        return self.fold(self.zero, self.number(rows * columns), [self.zeros] * (self.tall * self.registers), tap)

    def _write(self, image: Any, first: Any, row: Any, panel: Any) -> None:
        a, wide = self.a, self.registers * LINE
        line = self.product(self.sum(self.product(image, a.rows), first, row), a.columns)
        to = self.sum(a.result, self.product(line, a.outputs, 4), self.product(panel, wide))
        low, high = self.limits(a.limits)
        own = self.product(panel, wide)
        tables = [
            [self.load(self.sum(table, own, self.number(n * LINE))) for table in (a.scale, a.shift)]
            for n in range(self.registers)
        ]
        total = self._total(row)

        def place(x: Any) -> None:
            at, result = self.sum(total, self.product(x, wide)), self.sum(to, self.product(x, a.outputs, 4))
            for number, (scale, shift) in enumerate(tables):
                value = self.fma(self.load(self.sum(at, self.number(number * LINE))), scale, shift)
                self.store(self.cut(value, low, high), self.sum(result, self.number(number * LINE)))

        self.loop(self.zero, a.columns, place)
