"""A depthwise convolution with the norms and activations before and behind it, in one pass over memory.

It has so few products that reading and writing its maps is all that takes time, and norm and activation as passes of
their own read and write them again, forward and back. Here each row is normed and cut where it is read, filtered
while it lies in the cache, and normed and cut before it is written; where the activations let values through is kept
as a bit each, so that the way back is one pass too. The sums are made in the order in which oneDNN makes them.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.graph import Kernel
from phosphene.kernels.jit import writer
from phosphene.kernels.jit.depthwise_kernel import PLACES, POINTERS, TABLES, Spec, address
from phosphene.kernels.jit.elementwise import Elementwise
from phosphene.kernels.jit.writer import LANES, LINE

_LAST = torch.channels_last
_MOST_TAPS = 49
_MOST_PLACES = 4  # of a stride's cell, for the way back
# Rows of a group of channels that are filtered together are to stay in the first cache.
_CACHE = 20 << 10
_PLANS = 8
# (registers of outputs, places) of a tile: as many sums as there are registers for, the fastest first.
TILES = ((3, 9), (7, 3), (5, 5), (2, 12), (4, 6), (1, 14))
# Places of a tile for so many registers of channels: as many sums as there are registers for, the fastest first.
_TALL = {3: 8, 2: 12, 5: 5, 1: 14}

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
        widening: (C, K, 1, 1) in float32, the weight of a 1 x 1 convolution before it, whose work it does on its way
            forward as well.

    Example:
        >>> if writer.available():
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
        widening: Tensor | None = None,
    ) -> None:
        self.kernel, self.before, self.behind, self.dtype = kernel, before, behind, dtype
        self._weight, self._widening = weight, None
        if widening is not None:  # (groups of channels, K, channels of a group): as they are read
            registers = next(count for count in _TALL if len(weight) // LANES % count == 0)
            groups = widening.reshape(-1, registers * LANES, widening.shape[1])
            self._widening = groups.transpose(1, 2).contiguous()
        self._projection: Projection | None = None
        self._limits = torch.cat([before.limits, behind.limits])
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
            and writer.available()
        )

    @staticmethod
    def fits(kernel: Kernel, size: torch.Size) -> bool:
        """Whether rows are long enough, there and back, for inputs of `size`."""
        rows, columns = kernel.outputs(size[-2:])
        return rows > 0 and min(columns, size[-1] // kernel.stride[1]) >= PLACES

    @staticmethod
    def widens(size: torch.Size) -> bool:
        """Whether it pays to do the work of a 1 x 1 convolution before it too, for inputs of `size`."""
        return size[-1] >= _TALL[3]

    @property
    def is_projecting(self) -> bool:
        return self._projection is not None

    def projecting(self, weight: Tensor, behind: Elementwise) -> Depthwise:
        """One that on its way forward does the work of a 1 x 1 convolution behind it as well, and what follows that."""
        twin = copy(self)
        twin._projection, twin._plans = Projection.of(weight, behind), {}
        return twin

    def forward(self, inputs: Tensor, *, keep: bool = False) -> tuple[Tensor, Bits]:
        """(output, what the way back needs if `keep`) for inputs (N, C, H, W)."""
        before, behind = (keep and part.activation is not None for part in (self.before, self.behind))
        given = len(self._weight) if self._widening is None else self._widening.shape[1]
        if inputs.shape[1] != given:  # (its memory would be read all the same)
            raise ValueError(f"a filter of {given} channels was given {inputs.shape[1]}")
        size = self.wide(inputs.shape)
        plan = self._plan(size, size, back=False, kept=(before, behind))
        output = self._map(plan.size if self._projection is None else self._projection.size(plan.size))
        bits = (_bits(size) if before else None, _bits(plan.size) if behind else None)
        plan.run(inputs.to(self.dtype).contiguous(memory_format=_LAST), output, bits)
        return output, bits

    def wide(self, size: torch.Size) -> torch.Size:
        """The size of what is filtered, of inputs of `size`."""
        return torch.Size((size[0], len(self._weight), *size[2:]))

    def backward(self, gradient: Tensor, size: torch.Size, bits: Bits) -> Tensor:
        """The gradient behind the norm before it, for inputs of `size`, from the one behind it all."""
        found = (bits[1] is not None, bits[0] is not None)
        plan = self._plan(gradient.shape, size, back=True, kept=found)
        result = self._map(size)
        plan.run(gradient.to(self.dtype).contiguous(memory_format=_LAST), result, (bits[1], bits[0]))
        return result

    def _map(self, size: torch.Size) -> Tensor:
        return torch.empty(size, dtype=self.dtype, device="cpu", memory_format=_LAST)

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
        tables, tile = {"limits": self._limits}, None
        for place, part in (("before", self.before), ("behind", self.behind)):
            tables |= {f"scale_{place}": part.scale, f"shift_{place}": part.shift}
        if self._widening is not None and not back:
            registers = self._widening.shape[2] // LANES
            tile = (registers, min(_TALL[registers], given[3]))
            tables["widening"] = self._widening
        projection = None if back else self._projection
        if projection is not None:
            tables |= projection.tables
        made = None if projection is None else projection.tile
        spec = Spec((axes[0].taps, axes[1].taps), axes[1].step, back, self.dtype == torch.bfloat16, kept, tile, made)
        # (places of a cell, C / 16, taps, 16): what is read together lies together.
        weights = weights.reshape(len(weights), -1, LANES, math.prod(spec.taps)).transpose(2, 3).contiguous()
        outputs = size[1] if projection is None else projection.outputs
        return _Plan.of(spec, given, size, axes, {"weights": weights, **tables}, outputs)


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
        outputs, channels = weight.shape[:2]
        beyond = -outputs % LANES
        tile = cls._tile(outputs)
        assert tile is not None
        registers, tall = tile
        panels = F.pad(weight[:, :, 0, 0], (0, 0, 0, beyond)).reshape(-1, registers * LANES, channels)
        tables = {
            "projection": panels.transpose(1, 2).contiguous(),
            "projection_scale": F.pad(behind.scale, (0, beyond)),
            "projection_shift": F.pad(behind.shift, (0, beyond)),
            "projection_limits": behind.limits,
        }
        return cls(outputs, (registers, tall, LANES - beyond), tables)

    @classmethod
    def takes(cls, weight: Tensor) -> bool:
        """Whether there is a tile for a convolution of this weight."""
        return weight.shape[2:] == (1, 1) and cls._tile(len(weight)) is not None

    @staticmethod
    def _tile(outputs: int) -> tuple[int, int] | None:
        """(registers, places): registers that are full, or the last of which is the last of all."""
        vectors = -(-outputs // LANES)
        fitting = (tile for tile in TILES if vectors == tile[0] or (outputs % LANES == 0 and vectors % tile[0] == 0))
        return next(fitting, None)

    def size(self, size: torch.Size) -> torch.Size:
        """Of its output, for inputs of `size`."""
        return torch.Size((size[0], self.outputs, *size[2:]))


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


def _numbers(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device="cpu")


def _bits(size: torch.Size) -> Tensor:
    images, channels, *places = size
    return torch.empty(images, channels // LANES, *places, dtype=torch.int16, device="cpu")


@dataclass(frozen=True)
class _Plan:
    """Everything about a run but the maps: made once for each size."""

    kernel: int
    size: torch.Size
    scratch: int
    threads: int
    arguments: np.ndarray[Any, np.dtype[np.int64]]
    tables: dict[str, Tensor]

    @classmethod
    def of(
        cls, spec: Spec, given: torch.Size, size: torch.Size, axes: list[_Axis], tables: dict[str, Tensor], outputs: int
    ) -> _Plan:
        """A plan to make maps of `size` from `given` ones, or then of so many `outputs`."""
        (rows, columns), threads, blocks = axes, torch.get_num_threads(), given[1] // LANES
        padded = columns.reach(given[3], size[3])
        each = max(2, _CACHE // (rows.taps * padded * LINE)) if spec.tile is None else spec.tile[0]
        groups = -(-blocks // each) if spec.projection is None else 1  # (a product wants all channels)
        items = given[0] * groups
        parts = 1 if items % threads == 0 or items >= 4 * threads else threads
        ring = -(-blocks // groups) * rows.taps * padded * LANES
        own = ring + (0 if spec.projection is None else size[3] * given[1])
        narrow = given[1] if spec.tile is None else tables["widening"].shape[1]
        tables = {**tables, "first_row": _numbers(rows.first), "first_column": _numbers(columns.first)}
        sizes = (
            items * parts, groups, parts, given[1], narrow, given[2], given[3], size[2], size[3],
            rows.pad, columns.pad, padded, own, len(rows.first), len(columns.first), rows.step, columns.step,
            ring, outputs,
        )  # fmt: skip
        places = [tables[name].data_ptr() if name in tables else 0 for name in TABLES]
        numbers = [0, 0, *(0 for _ in POINTERS), *places, *sizes]
        return cls(address(spec), size, own * threads, threads, np.array(numbers, np.int64), tables)

    def run(self, source: Tensor, result: Tensor, bits: Bits) -> None:
        """Fill the result."""
        # Of each run its own: others may run at the same time.
        scratch = torch.zeros(self.scratch, dtype=torch.float32, device="cpu")
        arguments = self.arguments.copy()
        pointers = (0 if tensor is None else tensor.data_ptr() for tensor in (source, result, scratch, *bits))
        arguments[2 : 2 + len(POINTERS)] = list(pointers)
        writer.run(self.kernel, arguments, self.threads)
