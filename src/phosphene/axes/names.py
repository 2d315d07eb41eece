"""Names of axes: images, channels or places. The lengths of the axes say nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from phosphene.types import Layout, Made

# An axis is a product of factors, each with a name and a length: windows cut out of an image make an axis of images
# times places, from which the places come back. A factor without a name is "".
Factor = tuple[str, int]
Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]

IMAGES, CHANNELS, PLACES = "N", "C", "P"
# What a Fourier transform makes of an axis of places.
FREQUENCIES = "F"
# What weights make of all places of an axis, before the number of those: none of them is a place, until weights make as
# many again (as the hidden layer of an MLP over patches).
MIXED = "M"


def named(shape: Sequence[int], names: str) -> Axes:
    """Axes of one name each.

    Example:
        >>> named((1, 3, 8, 8), "NCPP")
        ((('N', 1),), (('C', 3),), (('P', 8),), (('P', 8),))
    """
    return tuple(((name, length),) for name, length in zip(names, shape, strict=True))


def layout_of(axes: Axes | None) -> Layout | None:
    """Which axis holds the channels, or None where the axes do not say.

    Example:
        >>> layout_of(named((1, 3, 8, 8), "NCPP")), layout_of(named((1, 8, 8, 3), "NPPC"))
        ('NCHW', 'NHWC')
        >>> layout_of(named((1, 3, 64), "NCP")), layout_of(None)
        ('NCT', None)
        >>> layout_of(named((64, 1, 3), "PNC"))
        'TNC'
    """
    if axes is None or len(axes) not in (3, 4):
        return None
    if _have_tokens_first(axes):
        return "TNC"
    first, last = (_purity(axes[place]) for place in (1, -1))
    if first == last:
        return None
    if len(axes) == 4:
        return "NCHW" if first > last else "NHWC"
    return "NCT" if first > last else "NTC"


def _have_tokens_first(axes: Axes) -> bool:
    """Whether places come before the images, as attention takes them unless it is told batch_first."""
    tokens, images = map(names_in, axes[:2])
    return len(axes) == 3 and PLACES in tokens and IMAGES not in tokens and images <= {IMAGES} and _purity(axes[2]) == 1


def is_tokens_first(layout: Layout | None) -> bool:
    """Whether a layer gives its images second, behind its tokens.

    Example:
        >>> is_tokens_first("TNC:1+0"), is_tokens_first("NTC"), is_tokens_first(None)
        (True, False, False)
    """
    return layout is not None and layout.startswith("TNC")


def has_places(axes: Axes | None) -> bool:
    """Whether an axis that is none of channels is known to be one of the image's places, not of learned queries, say.

    Example:
        >>> has_places(named((1, 64, 3), "NPC")), has_places((*named((1,), "N"), (("", 8),), (("C", 3),)))
        (True, False)
    """
    layout = layout_of(axes)
    others = () if layout is None else (axis for axis, what in zip(axes or (), layout, strict=True) if what in "HWT")
    return any(PLACES in names_in(axis) for axis in others)


def made_of_places(axes: Axes | None) -> Made | None:
    """What axes are known to hold that was made of all places of the image's rows or columns at once.

    Example:
        >>> made_of_places(named((1, 3, 8, 5), "NCFF")), made_of_places(named((1, 3, 8, 8), "NCPP"))
        ('frequencies', None)
    """
    first = {name[:1] for axis in axes or () for name in names_in(axis)}
    return "frequencies" if FREQUENCIES in first else "mixtures of all places" if MIXED in first else None


def mixed(axis: Axis, length: int) -> Axis:
    """What weights make of an axis of places, or of such mixtures.

    Example:
        >>> hidden = mixed((("P", 49),), 64)
        >>> hidden, mixed(hidden, 49)
        ((('M49', 64),), (('P', 49),))
    """
    count = axis_length(axis) if are_places(axis) else int(next(iter(axis))[0][1:])
    return ((PLACES if length == count else f"{MIXED}{count}", length),)


def may_be_mixed(axis: Axis) -> bool:
    """Whether an axis is one of places, or of mixtures of them, and of nothing else."""
    return are_places(axis) or (len(axis) == 1 and axis[0][0].startswith(MIXED))


def are_channels(axis: Axis) -> bool:
    """Whether an axis is one of channels, and of nothing else.

    Example:
        >>> [are_channels(axis) for axis in named((8, 8), "CP")]
        [True, False]
    """
    return _purity(axis) == 1


def are_places(axis: Axis) -> bool:
    """Whether an axis is one of places, and of nothing else.

    Example:
        >>> [are_places(axis) for axis in named((8, 8), "CP")]
        [False, True]
    """
    return names_in(axis) == {PLACES}


def names_in(axis: Axis) -> set[str]:
    """The names of an axis' factors."""
    return {name for name, _ in axis}


def _purity(axis: Axis) -> float:
    """How much of an axis is channels: 1 for nothing else, 0 for places; an axis of length 1 may be either."""
    names = [name for name, length in axis if length > 1 or name]
    return sum(name == CHANNELS for name in names) / len(names) if names else 0.25


def axis_length(axis: Axis) -> int:
    """How many values lie along an axis."""
    return math.prod(length for _, length in axis)


def fits(axes: Axes, shape: Sequence[int]) -> bool:
    """Whether axes can be those of a value of a shape."""
    return len(axes) == len(shape) and all(axis_length(axis) == side for axis, side in zip(axes, shape, strict=True))


def resized(axis: Axis, length: int) -> Axis:
    """An axis made longer or shorter; of several factors none is left.

    Example:
        >>> resized((("P", 8),), 4), resized((("N", 2), ("P", 8)), 4)
        ((('P', 4),), (('', 4),))
    """
    if axis_length(axis) == length:
        return axis
    names = names_in(axis)
    return ((names.pop() if len(names) == 1 else "", length),)


def regrouped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """The factors of the axes, in order, dealt out to the sides of another shape; a factor may be cut in two.

    Example:
        >>> regrouped(named((1, 8, 6), "NPC"), (2, 4, 6))
        ((('P', 2),), (('P', 4),), (('C', 6),))
    """
    waiting = [factor for axis in axes for factor in axis if factor[1] != 1]
    found: list[Axis] = []
    for side in shape:
        axis: list[Factor] = []
        missing = int(side)
        while missing > 1 and waiting:
            name, length = waiting.pop(0)
            if missing % length == 0:
                taken = length
            elif length % missing == 0:
                taken = missing
                waiting.insert(0, (name, length // missing))
            else:
                return None
            axis.append((name, taken))
            missing //= taken
        if missing != 1:
            return None
        found.append(tuple(axis))
    return None if waiting else tuple(found)
