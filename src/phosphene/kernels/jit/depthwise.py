"""A depthwise convolution with the norms and activations before and behind it, in one pass over memory.

It has so few products that reading and writing its maps is all that takes time, and norm and activation as passes of
their own read and write them again, forward and back. Here each row is normed and cut where it is read, filtered
while it lies in the cache, and normed and cut before it is written; where the activations let values through is kept
as a bit each, so that the way back is one pass too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.graph import Kernel
from phosphene.kernels.convolution import Kept, cell_kernel
from phosphene.kernels.elementwise import Elementwise
from phosphene.kernels.jit import writer
from phosphene.kernels.jit.depthwise_kernel import PLACES, POINTERS, TABLES, Spec, address
from phosphene.kernels.jit.writer import LANES, LINE

Run = Callable[[Tensor, Tensor, Kept], None]
"""Fills a map from another, with the bits that it reads and those that it writes."""

_LAST = torch.channels_last
_MOST_TAPS = 49
_MOST_PLACES = 4  # of a stride's cell, for the way back
# Rows of a group of channels that are filtered together are to stay in the first cache.
_CACHE = 20 << 10
# (registers of outputs, places) of a tile: as many sums as there are registers for, the fastest first.
TILES = ((3, 9), (7, 3), (5, 5), (2, 12), (4, 6), (1, 14))
# Places of a tile for so many registers of channels: as many sums as there are registers for, the fastest first.
_TALL = {3: 8, 2: 12, 5: 5, 1: 14}


@cache
def available() -> bool:
    """Whether kernels can be made and run here: llvmlite, AVX2, and a PyTorch whose threads can be asked to help.

    On other processors nothing is measured, so nothing is claimed: the network then runs on PyTorch's operations alone.
    """
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512") or writer.parallel() is None:
        return False
    try:
        return address(Spec((1, 1), 1, back=False, half=False, bits=(False, False))) != 0
    except (ImportError, OSError, RuntimeError):  # llvmlite is missing or broken, or new code may not run here
        return False


def is_wide() -> bool:
    """Whether the processor has AVX-512. With AVX2 alone, of half as many registers of half the size, the filter pays,
    and neither the products beside it do nor kernels for one image alone.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


@dataclass(frozen=True)
class Projection:
    """A 1 x 1 convolution as a kernel reads it.

    Args:
        outputs: channels that it gives.
        tile: (registers of them, places, channels of the last register).
        tables: weights, (panels, C, channels of a panel), and what is added behind them, and the limits.
    """

    outputs: int
    tile: tuple[int, int, int]
    tables: dict[str, Tensor]

    @classmethod
    def of(cls, weight: Tensor, behind: Elementwise) -> Projection:
        """Of a weight (outputs, C, 1, 1) that it `takes`, and what is done behind it."""
        outputs, channels = weight.shape[:2]
        beyond = -outputs % LANES
        registers, tall = _tile(outputs) or (0, 0)
        panels = F.pad(weight[:, :, 0, 0], (0, 0, 0, beyond)).reshape(-1, registers * LANES, channels)
        tables = {
            "projection": panels.transpose(1, 2).contiguous(),
            "projection_scale": F.pad(behind.scale, (0, beyond)),
            "projection_shift": F.pad(behind.shift, (0, beyond)),
            "projection_limits": behind.limits,
        }
        return cls(outputs, (registers, tall, LANES - beyond), tables)

    @staticmethod
    def takes(weight: Tensor) -> bool:
        """Whether it pays to do the work of a convolution of this weight: there is a tile for it."""
        return is_wide() and weight.shape[2:] == (1, 1) and _tile(len(weight)) is not None


def _tile(outputs: int) -> tuple[int, int] | None:
    """(registers, places): registers that are full, or the last of which is the last of all."""
    vectors = -(-outputs // LANES)
    fitting = (tile for tile in TILES if vectors == tile[0] or (outputs % LANES == 0 and vectors % tile[0] == 0))
    return next(fitting, None)


@dataclass(frozen=True, eq=False)
class Depthwise:
    """A depthwise convolution between two elementwise functions, forward and back to what the first of them was given.

    Args:
        weight: (C, 1, kh, kw) in float32, C a multiple of 16.
        kernel: its stride and padding.
        size: of its inputs, (N, C, H, W); of fewer channels where it does the work of the convolution before it.
        before: what is done to each value that it reads.
        behind: what is done to each value that it gives.
        dtype: of the maps it reads and writes, float32 or bfloat16; it computes in float32.
        widening: (C, K, 1, 1) in float32, the weight of a 1 x 1 convolution before it, whose work it does on its way
            forward as well.
        projection: a 1 x 1 convolution behind it, the same way.

    Example:
        >>> if available():
        ...     size, ones, identity = torch.Size((1, 16, 8, 8)), torch.ones(16, 1, 3, 3), Elementwise.of(16)
        ...     output, bits = Depthwise(ones, Kernel((3, 3), padding=(1, 1)), size, identity, identity).forward(
        ...         torch.ones(size)
        ...     )
        ...     assert output[0, 0, 0, 0] == 4 and output[0, 0, 1, 1] == 9 and bits == (None, None)
    """

    weight: Tensor
    kernel: Kernel
    size: torch.Size
    before: Elementwise
    behind: Elementwise
    dtype: torch.dtype = torch.float32
    widening: Tensor | None = None
    projection: Projection | None = None
    _plans: dict[tuple[bool, bool], Run] = field(default_factory=dict, init=False)

    @staticmethod
    def takes(convolution: nn.Conv2d, kernel: Kernel, size: torch.Size) -> bool:
        """Whether it can do the work of a convolution on this machine, for inputs of `size`."""
        channels = convolution.out_channels
        return (
            convolution.groups == channels == convolution.in_channels
            and channels % LANES == 0
            and kernel.dilation == (1, 1)
            and math.prod(kernel.size) <= _MOST_TAPS
            and math.prod(kernel.stride) <= _MOST_PLACES
            and Depthwise.fits(kernel, size)
            and available()
        )

    @staticmethod
    def fits(kernel: Kernel, size: torch.Size) -> bool:
        """Whether rows are long enough, there and back, and no output sees padding alone."""
        rows, columns = kernel.outputs(size[-2:])
        seen = all(max(pads) < side for pads, side in zip(kernel.pads(size[-2:]), kernel.size, strict=True))
        return seen and rows > 0 and min(columns, size[-1] // kernel.stride[1]) >= PLACES

    @staticmethod
    def widens(size: torch.Size) -> bool:
        """Whether it pays to do the work of a 1 x 1 convolution before it too, for inputs of `size`."""
        return is_wide() and size[-1] >= _TALL[3]

    @property
    def wide(self) -> torch.Size:
        """The size of what is filtered."""
        return torch.Size((self.size[0], len(self.weight), *self.size[2:]))

    @property
    def filtered(self) -> torch.Size:
        """The size of what the filter gives."""
        return torch.Size((*self.wide[:2], *self.kernel.outputs(self.size[-2:])))

    def forward(self, inputs: Tensor, *, keep: bool = False) -> tuple[Tensor, Kept]:
        """(output, what the way back needs if `keep`): where the activations before and behind let values through.

        Of 16 channels a bit each, (N, C / 16, H, W).
        """
        if inputs.shape != self.size:  # (its memory would be read all the same)
            raise ValueError(f"a filter of {tuple(self.size)} was given {tuple(inputs.shape)}")
        outputs = self.filtered[1] if self.projection is None else self.projection.outputs
        output = self._map(torch.Size((self.size[0], outputs, *self.filtered[2:])))
        before = _bits(self.wide) if keep and self.before.activation is not None else None
        behind = _bits(self.filtered) if keep and self.behind.activation is not None else None
        self._plan(back=False, keep=keep)(self._laid(inputs), output, (before, behind))
        return output, (before, behind)

    def backward(self, gradient: Tensor, bits: Kept) -> Tensor:
        """The gradient behind the norm before it, from the one behind it all."""
        result = self._map(self.wide)
        self._plan(back=True, keep=True)(self._laid(gradient), result, (bits[1], bits[0]))
        return result

    def _map(self, size: torch.Size) -> Tensor:
        return torch.empty(size, dtype=self.dtype, device="cpu", memory_format=_LAST)

    def _laid(self, maps: Tensor) -> Tensor:
        return maps.to(self.dtype).contiguous(memory_format=_LAST)

    def _plan(self, *, back: bool, keep: bool) -> Run:
        if (back, keep) not in self._plans:
            self._plans[back, keep] = self._made(back=back, keep=keep)
        return self._plans[back, keep]

    def _made(self, *, back: bool, keep: bool) -> Run:
        """Everything about a run but the maps."""
        strides, pads = self.kernel.stride, [before for before, _ in self.kernel.pads(self.size[-2:])]
        bits = tuple(keep and part.activation is not None for part in (self.before, self.behind))
        tables = {"limits": torch.cat([self.before.limits, self.behind.limits])}
        for place, part in (("before", self.before), ("behind", self.behind)):
            tables |= {f"scale_{place}": part.scale, f"shift_{place}": part.shift}
        tile = made = outputs = None
        if back:  # each place of a cell of strides reads the outputs that read it
            given, size, bits = self.filtered, self.wide, bits[::-1]
            cells, first = cell_kernel(self.weight * self.behind.scale[:, None, None, None], strides, pads)
            weights, cell, steps, pads = cells.flatten(0, 1)[:, :, 0], strides, (1, 1), [-start for start in first]
        else:
            given, size = self.wide, self.filtered
            weights, cell, steps = self.weight[None, :, 0], (1, 1), strides
            if self.widening is not None:
                registers = next(count for count in _TALL if size[1] // LANES % count == 0)
                tile = (registers, min(_TALL[registers], given[3]))
                panels = self.widening.reshape(-1, registers * LANES, self.size[1])
                tables["widening"] = panels.transpose(1, 2).contiguous()  # (groups of channels, K, channels of each)
            if self.projection is not None:
                tables |= self.projection.tables
                made, outputs = self.projection.tile, self.projection.outputs
        taps = (int(weights.shape[-2]), int(weights.shape[-1]))
        # (places of a cell, C / 16, taps, 16): what is read together lies together.
        weights = weights.reshape(len(weights), -1, LANES, math.prod(taps)).transpose(2, 3).contiguous()
        spec = Spec(taps, steps[1], back, self.dtype == torch.bfloat16, (bits[0], bits[1]), tile, made)
        padded = max(pads[1] + given[3], (size[3] - 1) // cell[1] * steps[1] + taps[1])  # (places that a row reads)
        threads, blocks = torch.get_num_threads(), given[1] // LANES
        each = max(2, _CACHE // (taps[0] * padded * LINE)) if tile is None else tile[0]
        groups = -(-blocks // each) if made is None else 1  # (a product wants all channels)
        items = given[0] * groups
        parts = 1 if items % threads == 0 or items >= 4 * threads else threads
        ring = -(-blocks // groups) * taps[0] * padded * LANES
        own = ring + (0 if made is None else size[3] * given[1])
        sizes = (
            items * parts, groups, parts, given[1], self.size[1] if tile else given[1], *given[2:], *size[2:],
            *pads, padded, own, *cell, *steps, ring, outputs or size[1],
        )  # fmt: skip
        kernel, tables = address(spec), {"weights": weights, **tables}

        def run(source: Tensor, result: Tensor, bits: Kept) -> None:
            # Of each run its own: others may run at the same time.
            scratch = torch.zeros(own * threads, dtype=torch.float32, device="cpu")
            places = [*(source, result, scratch, *bits), *map(tables.get, TABLES)]
            pointers = [0 if tensor is None else tensor.data_ptr() for tensor in places]
            assert len(pointers) == len(POINTERS) + len(TABLES)
            writer.run(kernel, np.array([0, 0, *pointers, *sizes], np.int64), threads)

        return run


def _bits(size: torch.Size) -> Tensor:
    images, channels, *places = size
    return torch.empty(images, channels // LANES, *places, dtype=torch.int16, device="cpu")
