"""How a value inside a network lies on the picture: frames are put around it, parts are cut out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from phosphene.axes.call import Call
from phosphene.axes.names import Axes, are_places, axis_length

# (from, to) along the rows and along the columns of a picture, as shares of them.
Part = tuple[tuple[float, float], tuple[float, float]]
WHOLE: Part = ((0.0, 1.0), (0.0, 1.0))


@dataclass(frozen=True)
class Extent:
    """What a value has of the picture.

    Args:
        part: of the picture, below 0 and above 1 where a frame was put around it.
        sides: of the whole picture, in pixels of the value or of what it was made of.
        layered: whether parts of the picture that lie elsewhere may have been laid over each other in it.
    """

    part: Part
    sides: tuple[float, ...]
    layered: bool = False

    @property
    def pixels(self) -> list[int]:
        """How many pixels it has along rows and columns, as long as it is made of pixels."""
        return [round((high - low) * side) for (low, high), side in zip(self.part, self.sides, strict=False)]


def together(extents: Sequence[Extent]) -> Extent:
    """What several extents cover, in pixels of the first."""
    first, *others = extents
    (top, bottom), (left, right) = first.part
    for other in others:
        (start, end), (begin, stop) = other.part
        top, bottom, left, right = min(top, start), max(bottom, end), min(left, begin), max(right, stop)
    return Extent(((top, bottom), (left, right)), first.sides, any(extent.layered for extent in extents))


def lie_alike(one: Part, other: Part, sides: Sequence[int] = (0, 1)) -> bool:
    """Whether two parts are about the same: features shifted by little, or around a picture that goes on, are."""
    return all(abs(a - b) < _FAR for side in sides for a, b in zip(one[side], other[side], strict=True))


def lays_over(call: Call, extents: Mapping[Tensor, Extent]) -> bool:
    """Whether a call value by value, or one that joins channels, has at each place what lies elsewhere in the picture.

    Where it joins rows, columns or tokens its parts may differ along these.
    """
    placed = [(_places(axes), extents[value].part) for value, axes in call.given.items()]
    (places, first), *others = [(places, part) for places, part in placed if places] or [([], WHOLE)]
    along = int(call.argument(1, "dim", 0)) % len(next(iter(call.given.values()))) if call.name == "cat" else None
    sides = [side for side, at in enumerate(places if len(places) == 2 else [*places, *places]) if at != along]
    return any(not lie_alike(first, part, sides) for _, part in others)


def _places(axes: Axes) -> list[int]:
    """Which axes are of places, more than one of them."""
    return [at for at, axis in enumerate(axes) if are_places(axis) and axis_length(axis) > 1]


def extent_made(call: Call, place: int, output: Tensor, extent: Extent) -> Extent:
    """The extent of one output of a call, the `place`-th, of which the arguments together have `extent`."""
    axes = call.of(0) or ()
    rows_and_columns = [at for at, axis in enumerate(axes) if are_places(axis)]
    if len(rows_and_columns) != 2 or len(extent.sides) != 2:
        return extent
    found, whole = list(extent.part), list(extent.sides)
    for side, at in enumerate(rows_and_columns):
        length = axis_length(axes[at])
        low, high = found[side]
        are_pixels = extent.pixels[side] == length
        if call.name.startswith("upsample"):
            whole[side] *= output.shape[at] / length if are_pixels else 1
        elif are_pixels or call.name in _CUTTING:
            before, behind = (max(0.0, one) * length / (high - low) for one in (-low, high - 1))
            start, stop = _ends(call, place, at, length, (before, behind))
            if not are_pixels:  # a cut of features takes back what was put around, or nothing that counts
                start = min(start, before) if start <= before + 0.5 else 0
                stop = max(stop, length - behind) if stop >= length - behind - 0.5 else length
            found[side] = (low + (high - low) * start / length, low + (high - low) * stop / length)
    return Extent((found[0], found[1]), tuple(whole), extent.layered)


def _ends(call: Call, place: int, at: int, length: int, around: tuple[float, float]) -> tuple[float, float]:
    """(first, end) of what one output has of an axis, of which so much was put around the picture."""
    count = len(call.of(0) or ())
    if call.name in ("constant_pad_nd", "pad", "reflection_pad2d", "replication_pad2d"):
        pads, last = list(call.argument(1, "pad", ())), 2 * (count - 1 - at)
        before, behind = pads[last : last + 2] if len(pads) > last + 1 else (0, 0)
        return -before, length + behind
    if (reach := _reach(call, at - count)) >= 0:  # (what was put around for a convolution it takes back)
        before, behind = (one if one <= reach + 0.5 else reach for one in around)
        return before, length - behind
    if call.name not in _CUTTING or int(call.argument(_CUTTING[call.name], "dim", 0)) % count != at:
        return 0, length
    if call.name == "slice":
        step = call.argument(4, "step", 1)
        first, end, _ = slice(call.argument(2, "start"), call.argument(3, "end")).indices(length)
        return (0, length) if first < step > 1 and end > length - step else (first, end)
    sizes = call.argument(1, "split_size", length)
    if isinstance(sizes, int):
        return place * sizes, min(length, (place + 1) * sizes)
    return sum(sizes[:place]), sum(sizes[: place + 1])


def _reach(call: Call, at: int) -> float:
    """How many pixels on each side a convolution or a pooling of windows that overlap leaves out; else -1."""
    dilation = [1]
    if call.name == "convolution" and not call.args[6]:
        size, (stride, padding, dilation) = call.args[1].shape[2:], call.args[3:6]
    elif call.name in ("max_pool2d_with_indices", "avg_pool2d"):
        size, stride, padding = call.args[1], call.argument(2, "stride", []), call.argument(3, "padding", [0])
    else:
        return -1.0
    kernel, step, pad, apart = (one[at if len(one) > 1 else 0] for one in (size, stride or size, padding, dilation))
    return float(max(0, apart * (kernel - 1) / 2 - pad)) if kernel > step else -1.0


# Of a side of the picture: by less features are only shifted.
_FAR = 0.25

# What takes parts of an axis, and where that axis is named.
_CUTTING = {"slice": 1, "split": 2, "split_with_sizes": 2}
