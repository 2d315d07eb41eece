"""What the axes of a value inside a network are: images, channels or places, followed from operation to operation.

The lengths of the axes say nothing: 48 channels on 64 x 8 places look like 48 x 64 places of 8 channels. So the axes
of the images are named, and each operation of torch hands the names on to what it makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from phosphene.types import Layout

# An axis is a product of factors, each with a name and a length: windows cut out of an image make an axis of images
# times places, from which the places come back. A factor without a name is "".
Factor = tuple[str, int]
Axes = tuple[tuple[Factor, ...], ...]

IMAGES, CHANNELS, PLACES = "N", "C", "P"
# What a Fourier transform makes of an axis of places.
FREQUENCIES = "F"

# (from, to) along the rows and along the columns of a picture, as shares of them.
Part = tuple[tuple[float, float], tuple[float, float]]
Sides = tuple[float, ...]
WHOLE: Part = ((0.0, 1.0), (0.0, 1.0))


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
    tokens, images = ({name for name, _ in axis} for axis in axes[:2])
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
    return any(name == PLACES for axis in others for name, _ in axis)


def has_frequencies(axes: Axes | None) -> bool:
    """Whether an axis is known to be one of frequencies of the image's rows or columns.

    Example:
        >>> with Follow() as follow:
        ...     x = follow.name(torch.rand(1, 3, 8, 8), "NCPP")
        ...     has_frequencies(follow.axes(torch.fft.fft2(x).abs())), has_frequencies(follow.axes(x))
        (True, False)
    """
    return any(name == FREQUENCIES for axis in axes or () for name, _ in axis)


def are_channels(axis: tuple[Factor, ...]) -> bool:
    """Whether an axis is one of channels, and of nothing else.

    Example:
        >>> [are_channels(axis) for axis in named((8, 8), "CP")]
        [True, False]
    """
    return _purity(axis) == 1


def _purity(axis: tuple[Factor, ...]) -> float:
    """How much of an axis is channels: 1 for nothing else, 0 for places; an axis of length 1 may be either."""
    names = [name for name, length in axis if length > 1 or name]
    return sum(name == CHANNELS for name in names) / len(names) if names else 0.25


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that sees PyTorch's operations, none of which is being compiled."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # To keep it from compiling this code PyTorch would load its compiler first, for two seconds, and each operation
        # would go through two more functions.
        return False


class Follow(Operations):
    """Inside, the axes of what is computed from named values are known.

    Example:
        >>> with Follow() as follow:
        ...     x = follow.name(torch.rand(1, 3, 8, 8), "NCPP")
        ...     layout_of(follow.axes(torch.relu(x).permute(0, 2, 3, 1)))
        'NHWC'
    """

    joins = False
    """Whether one value was made of several images, by a sum or a sort over their axis."""
    moves = False
    """Whether an operation may have put places where others were."""
    resamples = False
    """Whether a grid may have taken pixels of the picture from elsewhere than where they went."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: Any = WeakTensorKeyDictionary()
        self._followed: Any = WeakTensorKeyDictionary()
        self._seen: Any = WeakTensorKeyDictionary()
        self._filled: Any = WeakTensorKeyDictionary()  # what is seen of what was empty, by the first part of it
        self._sides: Any = WeakTensorKeyDictionary()  # of the whole picture, in places of a value that has its pixels
        self.around: dict[int, tuple[int, int]] = {}
        """By length of an axis of tokens: how many were put before those of places (the class's), and behind them."""

    def name(self, value: Tensor, names: str) -> Tensor:
        """The value itself, its axes named from now on."""
        self._known[value] = named(value.shape, names)
        if value not in self._followed:
            self._seen[value] = WHOLE
            self._sides[value] = tuple(side for side, name in zip(value.shape, names, strict=True) if name == PLACES)
        self._followed[value] = True
        return value

    def seen(self, value: Tensor) -> Part:
        """The part of the picture that a value is made of: slices of whole pixels leave some out, frames add to them.

        Resized pixels count too. What is cut off of features counts as far as it takes back what was put around the
        picture; mostly it takes back what was put around them.

        Example:
            >>> with Follow() as follow:
            ...     x = follow.name(torch.rand(1, 3, 8, 8), "NCPP")
            ...     follow.seen(x[:, :, 2:-2].relu())
            ((0.25, 0.75), (0.0, 1.0))
        """
        found: Part = self._seen.get(value, WHOLE)
        return found

    def follows(self, value: Tensor) -> bool:
        """Whether a value was made of a named one, by whatever operations."""
        return value in self._followed

    def axes(self, value: Tensor) -> Axes | None:
        """The axes of a value, or None where they are not known."""
        found: Axes | None = self._known.get(value)
        return found if found is not None and _fits(found, value.shape) else None

    def layout(self, value: Tensor) -> Layout | None:
        """Which axis of a value holds the channels, and of tokens which are no places; None where it is not known.

        Example:
            >>> with Follow() as follow:
            ...     x = follow.name(torch.rand(1, 4, 8), "NPC")
            ...     follow.layout(torch.cat([torch.zeros(1, 1, 8), x], dim=1))
            'NTC:1+0'
        """
        found = layout_of(self.axes(value))
        if found not in ("NTC", "NCT", "TNC"):
            return found
        around = self.around.get(int(value.shape[found.index("T")]))
        return found if around is None else f"{found}:{around[0]}+{around[1]}"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values = list(tensors_in((*args, *(kwargs or {}).values())))
        given = {item: self._known[item] for item in values if item in self._known}
        output = func(*args, **(kwargs or {}))
        if any(item in self._followed for item in values):
            self._followed.update(dict.fromkeys(tensors_in((output,)), True))
            parts = [self._seen[item] for item in values if item in self._seen]
            self._seen.update(dict.fromkeys(tensors_in((output,)), _together(parts)))
            sides = next((self._sides[item] for item in values if item in self._sides), ())
            self._sides.update(dict.fromkeys(tensors_in((output,)), sides))
        if given and not isinstance(func, HigherOrderOperator):  # (of attention that is made of a function)
            made = [value for value in tensors_in((output,)) if not value.is_nested]  # (of which no shape can be asked)
            known = _Call(func.overloadpacket.__name__.strip("_"), args, kwargs or {}, given)
            self.joins = self.joins or known.joins_images()
            self.moves = self.moves or known.moves_places()
            self.resamples = self.resamples or (known.name.startswith("grid_sampler_2d") and self._takes_pixels(args))
            self.around |= known.put_around()
            for place, value in enumerate(made):
                self._seen[value], self._sides[value] = known.part(place, value, self.seen(value), self._sides[value])
                axes = known.axes(value)
                if axes is not None and _fits(axes, value.shape):
                    self._known[value] = axes
                elif value in self._known:  # written in place by what is not known
                    del self._known[value]
                if value._base is not None and value in self._known and func._schema.is_mutable:
                    self._fill(value._base, value)
        return output

    def _takes_pixels(self, args: Any) -> bool:
        """Whether a grid takes pixels that is made of the picture, or is not the grid of its pixels."""
        values, grid = args[:2]
        pixels = [
            round((high - low) * side)
            for (low, high), side in zip(self.seen(values), self._sides.get(values, ()), strict=False)
        ]
        if pixels != list(values.shape[2:]):
            return False
        plain = F.affine_grid(torch.eye(2, 3)[None].to(grid), [1, 1, *grid.shape[1:3]], align_corners=bool(args[4]))
        return grid in self._followed or bool((grid - plain).abs().amax() > _ELSEWHERE)

    def _fill(self, whole: Tensor, part: Tensor) -> None:
        """Let what was empty, and is written into in part, have the part's axes: the rest lies around it as a frame."""
        known = whole in self._known and whole not in self._filled
        if known or whole.ndim != part.ndim or not whole.is_contiguous():
            return
        pads: list[int] = []
        for at in reversed(range(whole.ndim)):
            first = (part.storage_offset() - whole.storage_offset()) // whole.stride(at) % whole.shape[at]
            apart = part.shape[at] > 1 and part.stride(at) != whole.stride(at)
            pads += [0, 0] if apart else [first, whole.shape[at] - first - part.shape[at]]
        call = _Call("constant_pad_nd", (part, pads), {}, {part: self._known[part]})
        seen, sides = call.part(0, whole, self._seen[part], self._sides[part])
        if whole in self._filled:  # the next part: it lies where it did, or was moved
            self.moves = self.moves or not _alike(seen, self._filled[whole])
            return
        self._followed[whole] = True
        self._filled[whole] = self._seen[whole] = seen
        self._sides[whole] = sides
        for at, axis in enumerate(self._known[part]):
            before, behind = pads[-2 - 2 * at], pads[-1 - 2 * at]
            if part.ndim == 3 and before + behind and {name for name, _ in axis} == {PLACES}:
                self.around[whole.shape[at]] = before, behind
        if (axes := call.resized(whole)) is not None:
            self._known[whole] = axes


def tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among the arguments or results of an operation, those in lists too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def _together(parts: Sequence[Part]) -> Part:
    """What several parts of a picture cover."""
    if not parts:
        return WHOLE
    (top, bottom), (left, right) = parts[0]
    for (first, last), (start, end) in parts[1:]:
        top, bottom, left, right = min(top, first), max(bottom, last), min(left, start), max(right, end)
    return (top, bottom), (left, right)


def _alike(one: Part, other: Part) -> bool:
    """Whether two parts are about the same: features shifted by little, or around a picture that goes on, are."""
    return all(abs(a - b) < _FAR for a, b in zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True))


def _fits(axes: Axes, shape: Sequence[int]) -> bool:
    return len(axes) == len(shape) and all(
        math.prod(length for _, length in axis) == side for axis, side in zip(axes, shape, strict=True)
    )


class _Call:
    """One call of an operation on values of which some have known axes.

    Args:
        name: of the operation, without underscores around it.
        args: its arguments.
        keywords: those given by name.
        given: the axes of its tensors, as far as known.
    """

    def __init__(self, name: str, args: Any, keywords: Mapping[str, Any], given: Mapping[Tensor, Axes]) -> None:
        self.name, self.args, self.keywords, self.given = name, args, keywords, given

    def axes(self, output: Tensor) -> Axes | None:
        """The axes of one output."""
        try:
            return _RULES.get(self.name, _Call.alike)(self, output)
        except (TypeError, ValueError, LookupError):  # an overload with other arguments than the rule knows
            return None

    def joins_images(self) -> bool:
        """Whether it makes one value of several images."""
        place = 1 if self.name in ("addmm", "baddbmm", "addbmm") else 0
        axes, rule = self.of(place), _RULES.get(self.name)
        if not axes:
            return False
        if rule is _Call.reduced:
            joined = self._reduced()
        elif rule in (_Call.multiplied, _Call.linear):
            joined = {len(axes) - 1}
        elif self.name in _ALONG:
            joined = {int(self.argument(_ALONG[self.name], "dim", -1)) % len(axes)}
        else:
            return False
        return any(name == IMAGES and length > 1 for one in joined for name, length in axes[one])

    def moves_places(self) -> bool:
        """Whether places may lie elsewhere in what it makes."""
        axes = self.of(0)
        if self.name in _MOVING or axes is None:
            return self.name in _MOVING
        places = [place for place, axis in enumerate(axes) if any(name == PLACES for name, _ in axis)]
        if _RULES.get(self.name) is _Call.permuted:
            kept = [place for place in self._order(len(axes)) if place in places]
            return kept != places
        return False

    def part(self, place: int, output: Tensor, part: Part, sides: Sides) -> tuple[Part, Sides]:
        """(what one output has of the picture, the sides of all of it in its pixels) where its arguments have these."""
        axes = self.of(0)
        rows_and_columns = [at for at, axis in enumerate(axes or ()) if {name for name, _ in axis} == {PLACES}]
        if axes is None or len(rows_and_columns) != 2 or len(sides) != 2:
            return part, sides
        found, whole = list(part), list(sides)
        for side, at in enumerate(rows_and_columns):
            length = _length(axes[at])
            low, high = part[side]
            pixels = round((high - low) * sides[side]) == length
            if pixels and self.name.startswith("upsample"):
                whole[side] *= output.shape[at] / length
            if self.name.startswith("upsample") or not (pixels or self.name in _CUTTING):
                continue
            before, behind = (max(0.0, one) * length / (high - low) for one in (-low, high - 1))
            start, stop = self._cut(place, at, length, len(axes), (before, behind))
            if not pixels:  # a cut of features takes back what was put around, or nothing that counts
                start = min(start, before) if start <= before + 0.5 else 0
                stop = max(stop, length - behind) if stop >= length - behind - 0.5 else length
            found[side] = (low + (high - low) * start / length, low + (high - low) * stop / length)
        return (found[0], found[1]), tuple(whole)

    def _cut(self, place: int, at: int, length: int, count: int, around: tuple[float, float]) -> tuple[float, float]:
        """(first, end) of what one output has of an axis of `count`, of which so much was put around the picture."""
        if self.name in ("constant_pad_nd", "pad", "reflection_pad2d", "replication_pad2d"):
            pads, last = list(self.argument(1, "pad", ())), 2 * (count - 1 - at)
            before, behind = pads[last : last + 2] if len(pads) > last + 1 else (0, 0)
            return -before, length + behind
        if (reach := self._reach(at - count)) >= 0:  # (what was put around for a convolution it takes back)
            before, behind = (one if one <= reach + 0.5 else reach for one in around)
            return before, length - behind
        if self.name not in _CUTTING or int(self.argument(_CUTTING[self.name], "dim", 0)) % count != at:
            return 0, length
        if self.name == "slice":
            step = self.argument(4, "step", 1)
            first, end, _ = slice(self.argument(2, "start"), self.argument(3, "end")).indices(length)
            return (0, length) if first < step > 1 and end > length - step else (first, end)
        sizes = self.argument(1, "split_size", length)
        if isinstance(sizes, int):
            return place * sizes, min(length, (place + 1) * sizes)
        return sum(sizes[:place]), sum(sizes[: place + 1])

    def _reach(self, at: int) -> float:
        """How many pixels on each side a convolution or a pooling of windows that overlap leaves out; else -1."""
        dilation = [1]
        if self.name == "convolution" and not self.args[6]:
            size, (stride, padding, dilation) = self.args[1].shape[2:], self.args[3:6]
        elif self.name in ("max_pool2d_with_indices", "avg_pool2d"):
            size, stride, padding = self.args[1], self.argument(2, "stride", []), self.argument(3, "padding", [0])
        else:
            return -1.0
        kernel, step, pad, apart = (one[at if len(one) > 1 else 0] for one in (size, stride or size, padding, dilation))
        return float(max(0, apart * (kernel - 1) / 2 - pad)) if kernel > step else -1.0

    def put_around(self) -> dict[int, tuple[int, int]]:
        """The length of an axis of places to which others' values were put, and how many before and behind."""
        if self.name != "cat":
            return {}
        parts = [self.given.get(part) for part in self.args[0]]
        known = [index for index, axes in enumerate(parts) if axes is not None]
        if len(known) != 1 or len(parts) == 1:
            return {}
        axes = parts[known[0]] or ()
        along = int(self.argument(1, "dim", 0)) % len(axes)
        if {name for name, length in axes[along] if length > 1} != {PLACES}:
            return {}
        lengths = [int(part.shape[along]) for part in self.args[0]]
        return {sum(lengths): (sum(lengths[: known[0]]), sum(lengths[known[0] + 1 :]))}

    def of(self, place: int) -> Axes | None:
        """The axes of the argument at a place."""
        value = self.argument(place)
        return self.given.get(value) if isinstance(value, Tensor) else None

    def argument(self, place: int, name: str = "", default: Any = None) -> Any:
        """An argument by place or name."""
        return self.args[place] if place < len(self.args) else self.keywords.get(name, default)

    def alike(self, output: Tensor) -> Axes | None:
        """Axes of an operation value by value: those of the operands, which are broadcast to the output."""
        fitting = [axes for axes in self.given.values() if len(axes) == output.ndim]
        found = []
        for place, length in enumerate(output.shape):
            known = [axes[place] for axes in fitting if _length(axes[place]) == length]
            if not known:
                return None
            # (What was expanded to a length has no name.)
            found.append(next((axis for axis in known if any(name for name, _ in axis)), known[0]))
        return tuple(found)

    def resized(self, output: Tensor) -> Axes | None:
        """Axes of an operation that makes axes longer or shorter, but leaves each what it is."""
        fitting = [axes for axes in self.given.values() if len(axes) == output.ndim]
        # Of several that are joined those with places: a class's token goes with those of the patches; but not where
        # tokens beside it were picked out.
        first = next(filter(has_places, fitting), fitting[0] if fitting else None)
        along = int(self.argument(1, "dim", 0)) if self.name == "cat" else None
        if first is not None and along is not None and {name for name, _ in first[along]} == {PLACES}:
            first = next((axes for axes in fitting if any(not name and n > 1 for name, n in axes[along])), first)
        return None if first is None else tuple(map(_of_length, first, output.shape))

    def attended(self, output: Tensor) -> Axes | None:
        """Axes of attention: the tokens are those of the queries."""
        query, key = self.of(0), self.of(1)
        if query is not None and len(query) == output.ndim:
            return query
        return None if key is None else (*key[:-2], (("", output.shape[-2]),), key[-1])

    def picked(self, output: Tensor) -> Axes | None:
        """Axes of values that are picked out: an axis of another length is no grid of places any more."""
        given = self.of(0)
        if given is None or len(given) != output.ndim:
            return None
        pairs = zip(given, output.shape, strict=True)
        return tuple(axis if _length(axis) == length else (("", length),) for axis, length in pairs)

    def transformed(self, output: Tensor) -> Axes | None:
        """Axes of a Fourier transform: places become frequencies, and come back."""
        given = self.of(0)
        if given is None:
            return None
        turned = {place % output.ndim for place in self.args[1]}
        names = {PLACES: FREQUENCIES, FREQUENCIES: PLACES}
        return tuple(
            ((names.get(axis[0][0], axis[0][0]), length),) if place in turned and len(axis) == 1 else axis
            for place, (axis, length) in enumerate(zip(given, output.shape, strict=True))
        )

    def in_parts(self, output: Tensor) -> Axes | None:
        """Axes of complex numbers as pairs of real ones."""
        given = self.of(0)
        return None if given is None else (*given, (("", 2),))

    def regrouped(self, output: Tensor) -> Axes | None:
        """Axes of a view of another shape."""
        given = self.of(0)
        return None if given is None else _regrouped(given, output.shape)

    def permuted(self, output: Tensor) -> Axes | None:
        given = self.of(0)
        return None if given is None else tuple(given[place] for place in self._order(output.ndim))

    def _order(self, count: int) -> list[int]:
        """Which of `count` axes stands where after they were permuted."""
        if self.name in ("permute", "permute_copy"):
            return [place % count for place in self.args[1]]
        order = list(range(count))
        one, other = (int(self.argument(1, "dim0", 0)) % count, int(self.argument(2, "dim1", 1)) % count)
        order[one], order[other] = other, one
        return order

    def turned(self, output: Tensor) -> Axes | None:
        """Axes of `.t()` and `.T`."""
        given = self.of(0)
        return None if given is None else tuple(reversed(given))

    def expanded(self, output: Tensor) -> Axes | None:
        given = self.of(0)
        if given is None:
            return None
        added = output.ndim - len(given)
        known = [(), *[()] * added, *given][1:]
        return tuple(
            axis if _length(axis) == length else (("", length),)
            for axis, length in zip(known, output.shape, strict=True)
        )

    def selected(self, output: Tensor) -> Axes | None:
        """Axes without the one along which one value was taken."""
        given = self.of(0)
        if given is None:
            return None
        gone = int(self.argument(1, "dim", 0)) % len(given)
        return (*given[:gone], *given[gone + 1 :])

    def stacked(self, output: Tensor) -> Axes | None:
        given = next(iter(self.given.values()))
        new = int(self.argument(1, "dim", 0)) % output.ndim
        return (*given[:new], (("", output.shape[new]),), *given[new:])

    def reduced(self, output: Tensor) -> Axes | None:
        given = self.of(0)
        if given is None or output.ndim not in (len(given), len(given) - len(self._reduced())):
            return None
        gone = self._reduced()
        if output.ndim == len(given):
            return tuple(() if place in gone and len(axis) else axis for place, axis in enumerate(given))
        return tuple(axis for place, axis in enumerate(given) if place not in gone)

    def _reduced(self) -> set[int]:
        count, place = len(self.of(0) or ()), 2 if "norm" in self.name else 1  # after the order of a norm
        dims = self.argument(place, "dim")
        dims = range(count) if dims is None else [dims] if isinstance(dims, int) else dims
        return {place % count for place in dims}

    def multiplied(self, output: Tensor) -> Axes | None:
        """Axes of a product of matrices: the rows of the one, the columns of the other."""
        start = 1 if self.name in ("addmm", "baddbmm", "addbmm") else 0
        one, other = self.of(start), self.of(start + 1)
        if one is None and other is None:
            return None
        if one is None:
            assert other is not None
            return (*other[:-2], (("", output.shape[-2]),), other[-1]) if len(other) == output.ndim else None
        column = other[-1] if other is not None else ((_mixed(one), output.shape[-1]),)
        return (*one[:-1], column) if len(one) == output.ndim else None

    def linear(self, output: Tensor) -> Axes | None:
        given = self.of(0)
        return None if given is None else (*given[:-1], ((_mixed(given), output.shape[-1]),))

    def maps(self, output: Tensor) -> Axes | None:
        """Axes of a convolution or pooling: channels, then places."""
        names = {3: "NCP", 4: "NCPP"}.get(output.ndim)
        if names is not None and has_frequencies(self.of(0)):
            names = names.replace(PLACES, FREQUENCIES)
        return None if names is None else named(output.shape, names)


def _length(axis: tuple[Factor, ...]) -> int:
    return math.prod(length for _, length in axis)


def _of_length(axis: tuple[Factor, ...], length: int) -> tuple[Factor, ...]:
    if _length(axis) == length:
        return axis
    names = {name for name, _ in axis}
    return ((names.pop() if len(names) == 1 else "", length),)


def _mixed(axes: Axes) -> str:
    """What a linear layer makes of the last axis: channels, but where it mixes the places of channels elsewhere."""
    before = {name for axis in axes[:-1] for name, _ in axis}
    of_places = {name for name, length in axes[-1] if length > 1} == {PLACES}
    return PLACES if of_places and CHANNELS in before else CHANNELS


def _regrouped(axes: Axes, shape: Sequence[int]) -> Axes | None:
    """The factors of the axes, in order, dealt out to the sides of another shape; a factor may be cut in two.

    Example:
        >>> _regrouped(named((1, 8, 6), "NPC"), (2, 4, 6))
        ((('P', 2),), (('P', 4),), (('C', 6),))
    """
    waiting = [factor for axis in axes for factor in axis if factor[1] != 1]
    found: list[tuple[Factor, ...]] = []
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


# Of the half of a side: by less a grid only looks a pixel or two around.
_ELSEWHERE = 0.1
# Of a side of the picture: by less features are only shifted.
_FAR = 0.25

# What runs along one axis and leaves its length, and where that axis is named.
_ALONG = {
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "sort", "argsort", "softmax"), 1),
    **dict.fromkeys(("topk", "kthvalue"), 2),
}

# What may put values elsewhere along their axes; what takes parts of an axis, and where that axis is named.
_MOVING = {
    "flip",
    "roll",
    "rot90",
    "gather",
    "index",
    "index_select",
    "take",
    "grid_sampler",
    "grid_sampler_2d",
    "as_strided",
}
_CUTTING = {"slice": 1, "split": 2, "split_with_sizes": 2}

_Rule = Callable[[_Call, Tensor], Axes | None]
_RULES: dict[str, _Rule] = {}
for _rule, _names in (
    (_Call.regrouped, "view unsafe_view reshape reshape_alias flatten unflatten squeeze unsqueeze view_copy"),
    (_Call.permuted, "permute permute_copy transpose transpose_copy swapaxes"),
    (_Call.turned, "t numpy_T"),
    (_Call.expanded, "expand expand_copy"),
    (_Call.selected, "select unbind"),
    (_Call.stacked, "stack"),
    (
        _Call.reduced,
        "sum nansum mean amax amin aminmax logsumexp norm linalg_vector_norm prod var std var_mean std_mean all any "
        "argmax argmin max min median nanmedian count_nonzero",
    ),
    (_Call.multiplied, "mm bmm addmm baddbmm"),
    (_Call.linear, "linear"),
    (
        _Call.maps,
        "convolution conv2d conv1d mkldnn_convolution cudnn_convolution slow_conv2d_forward thnn_conv2d "
        "convolution_overrideable pixel_shuffle pixel_unshuffle im2col col2im grid_sampler_2d grid_sampler",
    ),
    (
        _Call.resized,
        "slice narrow split split_with_sizes chunk cat constant_pad_nd pad reflection_pad2d "
        "replication_pad2d avg_pool2d adaptive_avg_pool2d max_pool2d max_pool2d_with_indices adaptive_max_pool2d "
        "fractional_max_pool2d upsample_nearest2d upsample_bilinear2d upsample_bilinear2d_aa upsample_bicubic2d "
        "upsample_bicubic2d_aa upsample_nearest_exact2d avg_pool1d max_pool1d adaptive_avg_pool1d reflection_pad1d",
    ),
    (
        _Call.attended,
        "scaled_dot_product_flash_attention_for_cpu scaled_dot_product_attention_math "
        "scaled_dot_product_efficient_attention scaled_dot_product_flash_attention",
    ),
    (_Call.picked, "index index_select gather topk"),
    (_Call.transformed, "fft_c2c fft_r2c fft_c2r"),
    (_Call.in_parts, "view_as_real"),
):
    _RULES.update(dict.fromkeys(_names.split(), _rule))
