"""What the axes of a value inside a network are, followed from operation to operation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from phosphene.axes.call import Call, Operations, tensors_in
from phosphene.axes.extent import WHOLE, Extent, Part, extent_made, lays_over, lie_alike, together
from phosphene.axes.names import PLACES, Axes, are_places, fits, layout_of, made_of_places, named
from phosphene.axes.rules import axes_made, axes_resized, joins_images, moves_places, put_around, works_by_value
from phosphene.types import Layout, Made, Size


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
    chooses = False
    """Whether a value of an image itself chose between two of its values, one of which may have been moved."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: Any = WeakTensorKeyDictionary()  # axes
        self._extents: Any = WeakTensorKeyDictionary()  # of all that was made of named values
        self._filled: Any = WeakTensorKeyDictionary()  # what is seen of what was empty, by the first part of it
        self.around: dict[int, tuple[int, int]] = {}
        """By length of an axis of tokens: how many were put before those of places (the class's), and behind them."""
        self._sides: tuple[int, ...] = ()  # of the picture
        self._grids: dict[int, set[Size]] = {}  # of rows and columns, by how many places they make

    def name(self, value: Tensor, names: str) -> Tensor:
        """The value itself, its axes named from now on."""
        self._known[value] = named(value.shape, names)
        if value not in self._extents:
            sides = (float(side) for side, name in zip(value.shape, names, strict=True) if name == PLACES)
            self._extents[value] = Extent(WHOLE, tuple(sides))
        if names == "NCPP" and not self._sides:
            self._sides = tuple(value.shape[2:])
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
        return self._extents[value].part if self.follows(value) else WHOLE

    def layered(self, value: Tensor) -> bool:
        """Whether parts of the picture that lie elsewhere may have been laid over each other in a value.

        Example:
            >>> with Follow() as follow:
            ...     x = follow.name(torch.rand(1, 3, 8, 8), "NCPP")
            ...     left, right = x.chunk(2, dim=3)
            ...     follow.layered(torch.cat([left, right], dim=3)), follow.layered(torch.cat([left, right], dim=1))
            (False, True)
        """
        return self.follows(value) and self._extents[value].layered

    def follows(self, value: Tensor) -> bool:
        """Whether a value was made of a named one, by whatever operations."""
        return value in self._extents

    def axes(self, value: Tensor) -> Axes | None:
        """The axes of a value, or None where they are not known."""
        found: Axes | None = self._known.get(value)
        return found if found is not None and fits(found, value.shape) else None

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

    def made(self, value: Tensor) -> Made | None:
        """What a value is known to have in the place of the picture's rows and columns, or of its square patches.

        Example:
            >>> with Follow() as follow:
            ...     x = follow.name(torch.rand(1, 3, 32, 32), "NCPP")
            ...     maps = torch.nn.functional.avg_pool2d(x, (4, 16))
            ...     follow.made(maps.flatten(2).transpose(1, 2))
            'patches that are not square'
        """
        made, layout = made_of_places(self.axes(value)), self.layout(value)
        if made is not None or layout is None or "T" not in layout:
            return made
        count = int(value.shape[layout.index("T")])
        grids = self._grids.get(count - sum(self.around.get(count, ())), set())
        height, width = self._sides or (1, 1)
        oblong = [abs(math.log(rows * width / (columns * height))) > _OBLONG for rows, columns in grids]
        return "patches that are not square" if oblong and all(oblong) else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values = list(tensors_in((*args, *(kwargs or {}).values())))
        given = {item: self._known[item] for item in values if item in self._known}
        output = func(*args, **(kwargs or {}))
        name = "" if isinstance(func, HigherOrderOperator) else func.overloadpacket.__name__
        if name.startswith("new_") or name.endswith("_like"):  # (of a value it has the type and shape alone)
            return output
        if extents := [self._extents[item] for item in values if item in self._extents]:
            self._extents.update(dict.fromkeys(tensors_in((output,)), together(extents)))
        if given and not isinstance(func, HigherOrderOperator):  # (of attention that is made of a function)
            call = Call(name.strip("_"), args, kwargs or {}, given)
            self.joins = self.joins or joins_images(call)
            self.moves = self.moves or moves_places(call)
            self.chooses = self.chooses or (call.name == "where" and self.moves and self._is_choice(args))
            self.resamples = self.resamples or (call.name.startswith(_RESAMPLING) and self._takes_pixels(args))
            for count, (before, behind) in put_around(call).items():
                first, last = self.around.get(count - before - behind, (0, 0))  # (the class's, then registers)
                self.around[count] = before + first, behind + last
            layered = works_by_value(call) and lays_over(call, self._extents)
            made = [value for value in tensors_in((output,)) if not value.is_nested]  # (of which no shape can be asked)
            for place, value in enumerate(made):
                self._make(call, place, value)
                if layered:
                    self._extents[value] = replace(self._extents[value], layered=True)
                if value._base is not None and value in self._known and func._schema.is_mutable:
                    self._fill(value._base, value)
        return output

    def _make(self, call: Call, place: int, value: Tensor) -> None:
        """Note what is known of one output of a call."""
        self._extents[value] = extent_made(call, place, value, self._extents[value])
        axes = axes_made(call, value)
        if axes is not None and fits(axes, value.shape):
            self._known[value] = axes
            if len(sides := [axis[0][1] for axis in axes if len(axis) == 1 and are_places(axis)]) == 2:
                self._grids.setdefault(sides[0] * sides[1], set()).add((sides[0], sides[1]))
        elif value in self._known:  # written in place by what is not known
            del self._known[value]

    def _is_choice(self, args: Any) -> bool:
        """Whether one value, of the one image that is looked at, says which of two others of it is taken whole."""
        made_of_it = (isinstance(value, Tensor) and self.follows(value) for value in args)
        return len(args) == 3 and all(made_of_it) and args[0].numel() == 1

    def _takes_pixels(self, args: Any) -> bool:
        """Whether a grid, or boxes, take pixels, and are made of the picture, or take them from elsewhere."""
        values, grid = args[:2]
        if not self.follows(values) or self._extents[values].pixels != list(values.shape[2:]):
            return False
        if grid.ndim == 2:  # boxes, (image, x, y, x, y) in units of their own
            sides = grid.new_tensor([*values.shape[:1:-1]])
            grid, plain = grid[:, 1:].unflatten(1, (2, 2)) * args[2] / sides * 2 - 1, grid.new_tensor([[-1], [1]])
        else:
            plain = F.affine_grid(torch.eye(2, 3)[None].to(grid), [1, 1, *grid.shape[1:3]], align_corners=bool(args[4]))
        return self.follows(args[1]) or bool((grid - plain).abs().amax() > _ELSEWHERE)

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
        call = Call("constant_pad_nd", (part, pads), {}, {part: self._known[part]})
        extent = extent_made(call, 0, whole, self._extents[part])
        if whole in self._filled:  # the next part: it lies where it did, or was moved
            if not lie_alike(extent.part, self._filled[whole]):
                self.moves, self._extents[whole] = True, replace(self._extents[whole], layered=True)
            return
        self._filled[whole], self._extents[whole] = extent.part, extent
        for at, axis in enumerate(self._known[part]):
            before, behind = pads[-2 - 2 * at], pads[-1 - 2 * at]
            if part.ndim == 3 and before + behind and are_places(axis):
                self.around[whole.shape[at]] = before, behind
        if (axes := axes_resized(call, whole)) is not None:
            self._known[whole] = axes


# Of the half of a side: by less a grid only looks a pixel or two around.
_ELSEWHERE = 0.1
# By what patches that overlap, or leave a rest, may be longer than wide, and are square all the same.
_OBLONG = math.log(1.3)
# What takes pixels by a grid, or out of boxes.
_RESAMPLING = ("grid_sampler_2d", "roi_align", "roi_pool")
