"""Exact windowed inference: of many copies of one image that differ in small windows only the windows are computed.

The clean image goes through the network once and every feature map is kept. A change of a window of the image touches
a window of each map, known from the kernels alone; only that is computed, for many positions at once, from the clean
map around it. Where the windows cover most of a map, or an operation is global, it goes on with whole maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn import functional as F

from phosphene.graph import Kernel, changes_its_input, is_plain, is_pointwise
from phosphene.kernels import is_done, is_kernel, kernel_of, run_valid

Box = tuple[int, int, int, int]
Pads = Sequence[tuple[int, int]]
# Where windows start, one number per position. In NumPy, whose operations on so few numbers take a fifth of PyTorch's.
Starts = NDArray[np.int64]
# Above this share of a map its windows cost as much as the whole: cutting out and putting back is not free.
_MOST = 0.6


@dataclass(frozen=True)
class Window:
    """What changes of a map: per position a window of it; everything around is the clean map.

    Args:
        values: (P, C, h, w).
        tops: (P,) row of the map where the window of each position starts.
        lefts: (P,) column.
    """

    values: Tensor
    tops: Starts
    lefts: Starts

    @property
    def size(self) -> tuple[int, int]:
        """(h, w)."""
        return int(self.values.shape[-2]), int(self.values.shape[-1])


class WindowedNetwork:
    """One image's clean pass, ready for any number of covered copies.

    Args:
        traced: the network as a graph, of which `unsupported` has nothing to say.
        inputs: (1, C, H, W) the clean image as the network sees it, normalized.
    """

    def __init__(self, traced: fx.GraphModule, inputs: Tensor) -> None:
        self.traced, self.runner = traced, fx.Interpreter(traced)
        self.nodes = [node for node in traced.graph.nodes if node.op != "output"]
        self.last = self.runner.user_to_last_uses  # per node those that nobody reads after it
        self._padded: dict[tuple[object, ...], Tensor] = {}
        self.clean: dict[fx.Node, Any] = {}
        for node in self.nodes:
            self.clean[node] = inputs if node.op == "placeholder" else self._run(node, self.clean)

    def output(self, boxes: Sequence[Box], color: Tensor) -> Any:
        """What the network returns for copies of the image in which a box is covered by a color.

        Args:
            boxes: (y0, x0, y1, x1) of each copy's covered window, in network pixels.
            color: (C, 1, 1) normalized like the image.
        """
        values: dict[fx.Node, Any] = {}
        for node in self.nodes:
            covered = node.op == "placeholder"
            values[node] = self._covered(node, boxes, color) if covered else self._step(node, values, len(boxes))
            for done in self.last.get(node, ()):
                del values[done]
        end = next(node for node in self.traced.graph.nodes if node.op == "output")
        return fx.map_arg(end.args[0], lambda node: self._as_whole(node, values[node], len(boxes)))

    def _covered(self, node: fx.Node, boxes: Sequence[Box], color: Tensor) -> Window:
        """The image: windows of the size of the largest box, those cut off at an edge moved inside."""
        image, corners = self.clean[node], np.array(boxes)
        height, width = (int(side) for side in (corners[:, 2:] - corners[:, :2]).max(0))
        tops = np.minimum(corners[:, 0], image.shape[2] - height)
        lefts = np.minimum(corners[:, 1], image.shape[3] - width)
        patches = self._cut(node, None, tops, lefts, (height, width))  # (P, h, w, C)
        for patch, box, top, left in zip(patches, boxes, tops.tolist(), lefts.tolist(), strict=True):
            patch[box[0] - top : box[2] - top, box[1] - left : box[3] - left] = color.flatten()
        return Window(_channels_second(patches), tops, lefts)

    def _run(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """One node of the graph on given values, none of which is changed."""
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
        module = _module(self.traced, node)
        if args and isinstance(args[0], Tensor) and changes_its_input(node, module):
            # (Where the work is done already, what comes back is the input itself.)
            args = args if module is not None and is_done(module, args[0]) else (args[0].clone(), *args[1:])
        return getattr(self.runner, node.op)(node.target, args, kwargs)

    def _step(self, node: fx.Node, values: dict[fx.Node, Any], count: int) -> Any:
        """The value of one node: windows where that pays, whole maps otherwise, None where nothing changes."""
        sources = node.all_input_nodes
        if all(values[source] is None for source in sources):
            return None
        if all(values[source] is None or isinstance(values[source], Window) for source in sources):
            found = self._window(node, values)
            if found is not None:
                return found
        whole = {source: self._as_whole(source, values[source], count) for source in sources}
        return self._run(node, whole)

    def _window(self, node: fx.Node, values: dict[fx.Node, Any]) -> Window | None:
        module = _module(self.traced, node)
        kernel = None if module is None else kernel_of(module)
        if module is not None and kernel is not None:
            (source,) = node.all_input_nodes
            return self._slid(node, module, kernel, source, values[source])
        own = module is None or is_kernel(module) or is_plain(module)  # (it runs as its class says)
        if own and is_pointwise(node, module) and self._same_places(node):
            return self._pointwise(node, values)
        return None

    def _slid(self, node: fx.Node, module: nn.Module, kernel: Kernel, source: fx.Node, window: Window) -> Window | None:
        """A convolution or pooling over the windows."""
        if kernel == Kernel((1, 1)):
            return Window(run_valid(module, window.values), window.tops, window.lefts)
        sides, ends = self.clean[source].shape[-2:], self.clean[node].shape[-2:]
        pads = kernel.pads(sides)
        (tops, height), (lefts, width) = (
            _reach(kernel, axis, start, window.size[axis], pads[axis][0], ends[axis])
            for axis, start in enumerate((window.tops, window.lefts))
        )
        if height * width > _MOST * ends[0] * ends[1]:
            return None
        rows, columns = (
            (count - 1) * step + gap * (taps - 1) + 1
            for count, step, gap, taps in zip((height, width), kernel.stride, kernel.dilation, kernel.size, strict=True)
        )
        blank = float("-inf") if isinstance(module, nn.MaxPool2d) else 0.0
        above, left = tops * kernel.stride[0], lefts * kernel.stride[1]  # in the padded map
        patches = self._cut(source, window, above, left, (rows, columns), pads, blank)
        return Window(run_valid(module, _channels_second(patches)), tops, lefts)

    def _same_places(self, node: fx.Node) -> bool:
        """Whether all operands have the places of the result, or none at all."""
        sides = _sides(self.clean[node])
        return sides is not None and all(
            _sides(self.clean[source]) == sides or source.op == "get_attr" for source in node.all_input_nodes
        )

    def _pointwise(self, node: fx.Node, values: dict[fx.Node, Any]) -> Window | None:
        """An operation place by place, on the smallest windows that hold those of all its operands."""
        sides = self.clean[node].shape[-2:]
        first, *others = (values[source] for source in node.all_input_nodes if values[source] is not None)
        tops, lefts, (height, width) = first.tops, first.lefts, first.size
        for other in others:
            tops, height = _union(tops, height, other.tops, other.size[0], sides[0])
            lefts, width = _union(lefts, width, other.lefts, other.size[1], sides[1])
        if height * width > _MOST * sides[0] * sides[1]:
            return None
        grown = {
            source: self._grown(source, values[source], tops, lefts, (height, width)) for source in node.all_input_nodes
        }
        return Window(self._run(node, grown), tops, lefts)

    def _grown(self, node: fx.Node, window: Window | None, tops: Starts, lefts: Starts, size: tuple[int, int]) -> Any:
        """A node's value at windows that hold its own; a constant stays what it is."""
        if node.op == "get_attr":
            return self.clean[node]
        if window is not None and window.size == size:  # a union no larger than one of its parts is that part
            return window.values
        return _channels_second(self._cut(node, window, tops, lefts, size))

    def _as_whole(self, node: fx.Node, value: Any, count: int) -> Any:
        """A node's value for all positions as whole maps."""
        clean = self.clean[node]
        if isinstance(value, Window):
            origin = np.zeros_like(value.tops)
            maps = clean.permute(0, 2, 3, 1).repeat(count, 1, 1, 1)  # copies, of one too: they are written to
            return _channels_second(_put(maps, value, origin, origin))
        # What does not depend on the image (a position embedding, a bias of windows) is the same for any batch.
        return clean if value is None else value

    def _cut(
        self,
        node: fx.Node,
        window: Window | None,
        tops: Starts,
        lefts: Starts,
        size: tuple[int, int],
        pads: Pads = ((0, 0), (0, 0)),
        blank: float = 0.0,
    ) -> Tensor:
        """(P, h, w, C) cut out of a map padded by `blank`, with its windows; starts count from the padded corner."""
        (above, below), (left, right) = pads
        key = (node, above, below, left, right, blank)
        if key not in self._padded:  # (kept for the next positions)
            padded = F.pad(self.clean[node], (left, right, above, below), value=blank)
            self._padded[key] = padded[0].permute(1, 2, 0).contiguous()  # (H, W, C)
        padded = self._padded[key]
        height, width, channels = padded.shape
        place = _places(tops * width + lefts, size, width).to(padded.device)
        rows = padded.view(height * width, channels)
        patches = rows.index_select(0, place.flatten()).view(*place.shape, channels)
        return patches if window is None else _put(patches, window, tops - pads[0][0], lefts - pads[1][0])


def _places(starts: Starts, size: tuple[int, int], width: int) -> Tensor:
    """(P, h, w) numbers of the places of windows in a map `width` places wide, from that of each window's corner."""
    window = np.arange(size[0])[:, None] * width + np.arange(size[1])
    return torch.from_numpy(starts[:, None, None] + window)


def _reach(kernel: Kernel, axis: int, start: Starts, length: int, pad: int, total: int) -> tuple[Starts, int]:
    """(first output (P,), number of outputs) that inputs from `start` on can change; the same number for all."""
    stride, reach = kernel.stride[axis], kernel.dilation[axis] * (kernel.size[axis] - 1)
    first = np.maximum(-((reach - pad - start) // stride), 0)  # rounded up
    last = np.minimum((start + length - 1 + pad) // stride, total - 1)
    count = min(max(int((last - first).max()) + 1, 1), total)
    return np.minimum(first, total - count), count


def _union(start: Starts, length: int, other: Starts, other_length: int, total: int) -> tuple[Starts, int]:
    """(start (P,), length) of the smallest stretches that hold both, moved inside where they would stand out."""
    low = np.minimum(start, other)
    high = np.maximum(start + length, other + other_length)
    both = int((high - low).max())
    return np.minimum(low, total - both), both


def _put(patches: Tensor, window: Window, tops: Starts, lefts: Starts) -> Tensor:
    """Patches (P, H, W, C) that start at (tops, lefts) of a map, the windows written into them; in place.

    Neighbouring positions mostly have their windows at the same place of their patches: they are copied together,
    in an eighth of the time that PyTorch takes to write to places given by numbers.
    """
    values = window.values.permute(0, 2, 3, 1)
    above, left = window.tops - tops, window.lefts - lefts
    moves = np.flatnonzero((np.diff(above) != 0) | (np.diff(left) != 0)) + 1
    for start, stop in pairwise([0, *moves.tolist(), len(patches)]):
        rows, own_rows = _overlap(int(above[start]), window.size[0], patches.shape[1])
        columns, own_columns = _overlap(int(left[start]), window.size[1], patches.shape[2])
        patches[start:stop, rows, columns] = values[start:stop, own_rows, own_columns]
    return patches


def _overlap(start: int, length: int, total: int) -> tuple[slice, slice]:
    """Where a stretch from `start` on lies in [0, total), and what of the stretch that is; outside of it, nothing."""
    low = max(start, 0)
    high = max(low, min(start + length, total))
    return slice(low, high), slice(low - start, high - start)


def _channels_second(patches: Tensor) -> Tensor:
    """(P, h, w, C) -> (P, C, h, w), channels last in memory."""
    return patches.permute(0, 3, 1, 2)


def _sides(value: Any) -> tuple[int, int] | None:
    return (int(value.shape[2]), int(value.shape[3])) if isinstance(value, Tensor) and value.ndim == 4 else None


def unsupported(traced: fx.GraphModule | None) -> str | None:
    """Why a network cannot be run in windows, or None if it can."""
    if traced is None:
        return "the network's code cannot be read as a graph"
    if sum(node.op == "placeholder" for node in traced.graph.nodes) != 1:
        return "the network takes more than one input"
    for node in traced.graph.nodes:
        first = node.args[0] if node.args else None
        if isinstance(first, fx.Node) and len(first.users) > 1 and changes_its_input(node, _module(traced, node)):
            return f"'{node.name}' changes in place what others read"
    return None


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None
