"""A 1 x 1 convolution with the norm and activation behind it, that adds up in the order it is told.

The original adds up blocks of channels and then the blocks, where images are small and channels many. No operation of
PyTorch's does so in channels last, and to change layout and back costs as much as the product.
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
TILES = ((3, 9), (7, 3), (5, 5), (2, 12), (4, 6), (1, 14))


def is_pointwise(kernel: Kernel) -> bool:
    """Whether each place is made of the same one only."""
    return (kernel.size, kernel.stride, kernel.pads((1, 1))) == ((1, 1), (1, 1), ((0, 0), (0, 0)))


class PointwiseConvolution:
    """A 1 x 1 convolution without a bias, and what is done to each of its values.

    Args:
        weight: (out, in, 1, 1) in float32, out a multiple of 16.
        behind: what is done to each value that it gives.

    Example:
        >>> if jit.available():
        ...     double = PointwiseConvolution(2 * torch.eye(16)[:, :, None, None], Elementwise.of(16, None, None))
        ...     assert (double.run(torch.ones(1, 16, 4, 4), block=16) == 2).all()
    """

    def __init__(self, weight: Tensor, behind: Elementwise) -> None:
        outputs, self._channels = weight.shape[:2]
        self._tile = next(tile for tile in TILES if outputs // LANES % tile[0] == 0)
        panels = weight.reshape(-1, self._tile[0] * LANES, self._channels)
        self._panels = panels.transpose(1, 2).contiguous()  # (panels, in, outputs of a panel): as they are read
        self._behind, self._limits = behind, behind.limits

    @classmethod
    def of(cls, convolution: nn.Conv2d, _kernel: Kernel, behind: Elementwise) -> PointwiseConvolution:
        """What a module does, and what follows."""
        return cls(convolution.weight.detach(), behind)

    @staticmethod
    def takes(convolution: nn.Conv2d, kernel: Kernel) -> bool:
        """Whether it can do the work of a convolution on this machine."""
        whole = convolution.groups == 1 and convolution.bias is None and convolution.out_channels % LANES == 0
        return is_pointwise(kernel) and whole and jit.available()

    def run(self, inputs: Tensor, block: int) -> Tensor:
        """The output (N, out, H, W) for inputs (N, in, H, W), summed over blocks of so many channels."""
        if inputs.shape[1] != self._channels:  # (its memory would be read all the same)
            raise ValueError(f"a product of {self._channels} channels was given {inputs.shape[1]}")
        inputs = inputs.contiguous(memory_format=_LAST)
        outputs = len(self._panels) * self._panels.shape[2]
        size = (len(inputs), outputs, *inputs.shape[2:])
        output = torch.empty(size, dtype=torch.float32, device="cpu", memory_format=_LAST)
        places = len(inputs) * inputs.shape[2] * inputs.shape[3]
        tables = (inputs, output, self._panels, self._behind.scale, self._behind.shift, self._limits)
        tiles, panels = -(-places // self._tile[1]), len(self._panels)
        sizes = (tiles * panels, panels, places, self._channels, outputs, block)
        arguments = np.array([0, *(table.data_ptr() for table in tables), *sizes], np.int64)
        jit.run(_compiled(self._tile), arguments, torch.get_num_threads())
        return output


_ARGUMENTS = (
    "turn", "source", "result", "weights", "scale", "shift", "limits",
    "items", "panels", "places", "channels", "outputs", "block",
)  # fmt: skip


@cache
def _compiled(tile: tuple[int, int]) -> int:
    return jit.compiled(_Product(tile).text("items"))


class _Product(Writer):
    """One tile of a matrix product: its sums stay in registers while the channels go by."""

    def __init__(self, tile: tuple[int, int]) -> None:
        super().__init__(_ARGUMENTS)
        self.registers, self.tall = tile

    def item(self, index: Any) -> None:
        b, a = self.b, self.a
        panel, tile = b.srem(index, a.panels), b.sdiv(index, a.panels)
        columns = [
            self.sum(self.product(panel, self.registers * LINE), self.number(n * LINE)) for n in range(self.registers)
        ]
        # The last places may be done twice, and where there are fewer than a tile the last of them.
        first = self.larger(
            self.smaller(self.product(tile, self.tall), b.sub(a.places, self.number(self.tall))), self.zero
        )
        rows = [self.smaller(self.sum(first, self.number(n)), b.sub(a.places, self.one)) for n in range(self.tall)]
        sums = self._sums(
            [self.sum(a.source, self.product(row, a.channels, 4)) for row in rows],
            self.sum(a.weights, self.product(panel, a.channels, self.registers * LINE)),
        )
        low, high = self.limits(a.limits)
        for place, row in enumerate(rows):
            to = self.sum(a.result, self.product(row, a.outputs, 4))
            values = sums[place * self.registers : (place + 1) * self.registers]
            for column, value in zip(columns, values, strict=True):
                scale, shift = (self.load(self.sum(table, column)) for table in (a.scale, a.shift))
                self.store(self.cut(self.fma(value, scale, shift), low, high), self.sum(to, column))

    def _sums(self, rows: list[Any], weights: Any) -> list[Any]:
        """The products of some rows with some columns, row by row: sums of blocks, and then of these."""
        b, a = self.b, self.a

        def block(index: Any, totals: list[Any]) -> list[Any]:
            start = self.product(index, a.block)
            stop = self.smaller(self.sum(start, a.block), a.channels)
            sums = self.products(rows, weights, self.registers, start, stop)
            return [b.fadd(total, part) for total, part in zip(totals, sums, strict=True)]

        blocks = b.sdiv(b.sub(self.sum(a.channels, a.block), self.one), a.block)
        return self.fold(self.zero, blocks, [self.zeros] * (len(rows) * self.registers), block)
