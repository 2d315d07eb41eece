"""The few types that everything else passes around: frozen, data only, no model and no file."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsIndex, TypeVar, overload

from phosphene.errors import NotFoundError, OptionError, suggest

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from phosphene.targets import Target

Score = Literal["logit", "probability", "margin"]
Size = tuple[int, int]
Display = Literal["signed", "positive", "range", "percentile"]
"""How a map is colored: about zero, from zero on, over its own range where its zero says nothing, or about zero the
strongest places alone, by percentiles."""
Render = Literal["overlay", "map", "both"]
"""How a map is shown: laid on its picture, by itself, or both beside each other."""
ReportMode = Literal["none", "single", "pages"]
"""Whether a run's report is not written, one file with all pictures in it, or an index with pages."""
Background = Literal["keep", "fade", "transparent"]
"""What becomes of the places of a drawn picture that were little developed: nothing, they fade, or are transparent."""
Layout = str
"""Which axis of a layer's output is which: images N, channels C, rows H and columns W, or tokens T; of `LAYOUTS`.

Of tokens also how many of them, before and behind those of places, are no places: NTC:1+5. What is kept of a layer
whose tokens come first, TNC, has its images first like any other.
"""
Made = Literal["frequencies", "mixtures of all places", "patches that are not square"]
"""What a network has in the place of the picture's places: made of all of them at once, or laid out by their sides."""

LAYOUTS = ("NCHW", "NHWC", "NTC", "NCT", "TNC")


class Drawing(Protocol):
    """What shows results: the room that draws, which puts itself into DRAWN_BY."""

    def html(self, result: Any) -> str:
        """For notebooks: pictures with what they are."""

    def png(self, result: Any) -> bytes:
        """For front ends without HTML."""

    def show(self, result: Any) -> None:
        """In a notebook below the cell, elsewhere in a window."""

    def save(self, result: Any, path: str | os.PathLike[str]) -> None:
        """As a picture, or as a page for a name that ends in .html."""


# Types know no pictures; a result of them that is looked at asks here.
DRAWN_BY: list[Drawing] = []


class Shown:
    """A result that shows itself: picture, class, probability, method, scale."""

    def _repr_html_(self) -> str | None:
        return DRAWN_BY[0].html(self) if DRAWN_BY else None

    def _repr_png_(self) -> bytes | None:
        return DRAWN_BY[0].png(self) if DRAWN_BY else None

    def show(self) -> None:
        """Show it: in a notebook below the cell, elsewhere in the system's viewer of pictures.

        Raises:
            OutputError: if there is no viewer.
        """
        for drawing in DRAWN_BY:
            drawing.show(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it into a file: as a picture (.png, .jpg, .webp ...), or as a page that holds them (.html).

        Raises:
            OptionError: for an ending that says no format.
            OutputError: if the file cannot be written.
        """
        for drawing in DRAWN_BY:
            drawing.save(self, path)


Item = TypeVar("Item")


class Results(list[Item], Shown):
    """Several results, which show themselves one below the other.

    Example:
        >>> found = Results([1, 2, 3])
        >>> found[1:], type(found[1:]).__name__
        ([2, 3], 'Results')
    """

    @overload
    def __getitem__(self, key: SupportsIndex) -> Item: ...

    @overload
    def __getitem__(self, key: slice) -> Results[Item]: ...

    def __getitem__(self, key: SupportsIndex | slice) -> Item | Results[Item]:
        """One of them, or the Results of a slice."""
        found = super().__getitem__(key)
        return Results(found) if isinstance(key, slice) else found  # type: ignore[arg-type, return-value]


def seed_number(seed: Any) -> int:
    """The seed of random numbers as PyTorch takes it.

    Raises:
        OptionError: for what is no whole number of 63 bits.

    Example:
        >>> seed_number(3)
        3
    """
    try:
        number = None if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = None
    if number is None or not 0 <= number < 1 << 63:
        raise OptionError(f"seed={seed!r} must be a whole number from 0 to 2**63 - 1")
    return number


def short_seed(seed: int) -> int:
    """The seed as NumPy and scikit-learn take it: its last 32 bits.

    Example:
        >>> short_seed(7), short_seed(2**32 + 7)
        (7, 7)
    """
    return seed % (1 << 32)


def whole_number(value: Any, name: str, least: int = 1) -> int:
    """A whole number of any library.

    Raises:
        OptionError: for what is none, or too small.

    Example:
        >>> whole_number(3, "count")
        3
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise OptionError(f"{name}={value!r} must be a whole number, at least {least}")
    return number


@dataclass(frozen=True)
class Layer:
    """A named module that ran.

    Args:
        name: dotted.
        kind: its class.
        shape: of its output for one image.
        order: its turn in the order of completion.
        calls: how often it ran.
        layout: which axis of its output holds the channels; None where it is not known.
        fed: the same of what it was given.
        rows: of its output for one image: more than one where windows, or steps in time, are rows of their own.
        placed: whether an axis of its output is known to be one of the image's places.
        moved: whether an operation up to it may have put places where others were.
        made: what it has in the place of the picture's rows and columns, or of its square patches.
        seen: (from, to) along rows and columns of the part of the picture that it is made of, as shares of them.
        resampled: whether a grid of the network's own may have taken the pixels before it from elsewhere.
        chosen: whether the picture itself may have said if its places lie elsewhere.
        layered: whether parts of the picture that lie elsewhere may have been laid over each other in it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    order: int
    calls: int = 1
    layout: Layout | None = None
    fed: Layout | None = None
    rows: int = 1
    placed: bool = False
    moved: bool = False
    made: Made | None = None
    seen: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 1.0), (0.0, 1.0))
    resampled: bool = False
    chosen: bool = False
    layered: bool = False


@dataclass(frozen=True)
class View:
    """Which part of a picture the network saw: the whole is resized to `scaled`, then `crop` is cut out.

    Args:
        original: (height, width) of the picture after EXIF rotation, in pixels.
        scaled: (height, width) that the whole picture is resized to.
        crop: (top, left, height, width) of the part shown to the network, in pixels of `scaled`.

    Example:
        >>> View((300, 451), (256, 384), (16, 80, 224, 224)).box
        (93.958..., 18.75, 357.041..., 281.25)
    """

    original: Size
    scaled: Size
    crop: tuple[int, int, int, int]

    @property
    def size(self) -> Size:
        """(height, width) of what the network sees, in its own pixels."""
        return self.crop[2], self.crop[3]

    @property
    def scale(self) -> tuple[float, float]:
        """Original pixels per network pixel, (vertical, horizontal)."""
        return self.original[0] / self.scaled[0], self.original[1] / self.scaled[1]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) of the part that was seen, in original pixels, half-open."""
        (top, left, height, width), (sy, sx) = self.crop, self.scale
        return left * sx, top * sy, (left + width) * sx, (top + height) * sy


# Compared as objects: tensors have no single answer to whether they are equal.
@dataclass(frozen=True, eq=False)
class Attribution(Shown):
    """Maps that say how much each place of each image matters to a target: raw, signed, on the device.

    Args:
        maps: (N, h, w) float32 on the method's native grid; the values the paper defines.
        target: the resolved target, one class per image.
        score: (N,) value of the target's score on the clean images.
        spec: the method and its options, as a spec that parses back to the same.
        offset: (y, x) of the centre of cell (0, 0), in network pixels (the first pixel's centre is 0.5).
        stride: (y, x) network pixels between neighbouring cells.
        size: (height, width) of the images in network pixels.
        evidence: (N, h', w') what is laid on the picture where that differs from `maps` (occlusion's
            drop of probability per pixel), one cell a pixel; None where the maps are it.
        reconstruction: (N, C, h, w) on the grid of `maps`, signed: all channels of what deconvnet and
            guided_backprop bring back, which is their picture; None for other methods.
        views: one View per image, where the images were cut out of larger pictures.
        pictures: the pictures as they were given, for drawing.
        explained: the class of each image with its name and its probability; empty for a unit, or where nobody asked.
        layer: name of the layer that was looked at, if any.
        signed: whether negative values mean evidence against.
        display: how it is meant to be colored: "signed" diverging about zero, "positive" the positive part alone,
            "range" from its own lowest to its highest value, "percentile" diverging, the strongest places alone.
        seconds: wall time per image.
        checks: self-checks per image, such as the completeness error of integrated gradients.
        problems: one line per image, or None: why a map says nothing (NaN, zero everywhere).
        notes: what the user should know about how the maps were made.
    """

    maps: Tensor
    target: Target
    score: Tensor
    spec: str
    offset: tuple[float, float]
    stride: tuple[float, float]
    size: Size
    evidence: Tensor | None = None
    reconstruction: Tensor | None = None
    views: tuple[View, ...] = ()
    pictures: tuple[Any, ...] = ()
    explained: tuple[Prediction, ...] = ()
    layer: str | None = None
    signed: bool = True
    display: Display = "signed"
    seconds: float = 0.0
    checks: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    problems: tuple[str | None, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.maps.shape[0])

    def __repr__(self) -> str:
        names = [str(one) for one in self.explained] or [str(self.target.classes or self.target)]
        where = f" at {self.layer}" if self.layer else ""
        cells = " x ".join(map(str, self.maps.shape[1:]))
        return f"Attribution({self.spec}{where}: {_some(names)}; maps {cells} of {counted(len(self), 'image')})"

    def __getitem__(self, index: int | slice) -> Attribution:
        """The attribution of one image, still with a leading dimension of 1, or of a slice of the images.

        Raises:
            IndexError: for an image that there is not, or a slice that holds none.
        """
        rows = _rows(index, len(self))
        return replace(
            self,
            maps=self.maps[rows],
            target=self.target.of_rows(rows),
            score=self.score[rows],
            evidence=None if self.evidence is None else self.evidence[rows],
            reconstruction=None if self.reconstruction is None else self.reconstruction[rows],
            views=self.views[rows],
            pictures=self.pictures[rows],
            explained=self.explained[rows],
            checks={name: values[rows] for name, values in self.checks.items()},
            problems=self.problems[rows],
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """(N, h, w): `maps` for NumPy."""
        import numpy as np  # here, as types are imported where it is not needed

        if copy is False:
            raise ValueError("the maps are copied for NumPy; take .maps for the tensor itself")
        return np.array(self.maps.detach().cpu().numpy(), dtype=dtype)

    def upsampled(self) -> Tensor:
        """(N, H, W): `heat` with one value for each pixel that the network saw, bilinear between the cells' centers.

        Example:
            >>> from phosphene.targets import Target
            >>> maps = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
            >>> result = Attribution(maps, Target.of(0), torch.zeros(1), "cam", (1.0, 1.0), (2.0, 2.0), (4, 4))
            >>> result.upsampled()[0, 0]
            tensor([0.0000, 0.2500, 0.7500, 1.0000])
        """
        from phosphene.grids import to_network_size  # here, as types are imported where torch is not needed

        if tuple(self.heat.shape[1:]) == self.size and self.heat_grid == ((0.5, 0.5), (1.0, 1.0)):
            return self.heat
        return to_network_size(self.heat, *self.heat_grid, self.size)

    @property
    def heat(self) -> Tensor:
        """(N, h, w) what is laid on the picture: `evidence` where there is one, else `maps`."""
        return self.maps if self.evidence is None else self.evidence

    @property
    def heat_grid(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """(offset, stride) of `heat` in network pixels."""
        return (self.offset, self.stride) if self.evidence is None else ((0.5, 0.5), (1.0, 1.0))


class Spelled(Protocol):
    """What has options and a spelling: a Spec of the registry."""

    @property
    def keywords(self) -> dict[str, Any]:
        """The options."""


@dataclass(frozen=True, eq=False)
class Attributions(Shown):
    """What several methods say of the same images, in the order in which the methods were given.

    Indexed by position, by the spec as it was given or as it is spelled in full, or by a Spec; iterated over, it gives
    each method's Attribution; `keys`, `values` and `items` as a dict has them.

    Args:
        given: the specs as they were given.
        results: the Attribution of each.

    Example:
        >>> from phosphene.targets import Target
        >>> one = Attribution(torch.rand(2, 7, 7), Target.of([0, 1]), torch.zeros(2), "saliency", (16.0,) * 2,
        ...                   (32.0,) * 2, (224, 224))
        >>> found = Attributions(("saliency:sign=abs", "cam"), (one, replace(one, spec="cam")))
        >>> [found[key].spec for key in (0, "saliency:sign=abs", "saliency", "cam")]
        ['saliency', 'saliency', 'saliency', 'cam']
        >>> [one.spec for one in found], len(found[1:]), list(dict(found))
        (['saliency', 'cam'], 1, ['saliency:sign=abs', 'cam'])
    """

    given: tuple[str, ...]
    results: tuple[Attribution, ...]

    def __repr__(self) -> str:
        return f"Attributions({', '.join(self.given)}; {counted(len(self.results[0]), 'image')})"

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Attribution]:
        return iter(self.results)

    def __contains__(self, spec: object) -> bool:
        return str(spec) in (*self.given, *(one.spec for one in self.results))

    @overload
    def __getitem__(self, key: slice) -> Attributions: ...

    @overload
    def __getitem__(self, key: SupportsIndex | str | Spelled) -> Attribution: ...

    def __getitem__(self, key: slice | SupportsIndex | str | Spelled) -> Attribution | Attributions:
        """The Attribution at a position or of a spec, or the Attributions of a slice of the methods.

        Raises:
            IndexError: for a position that there is not.
            NotFoundError: for a spec that was not given, with the nearest that were.
        """
        if isinstance(key, slice):
            return Attributions(self.given[key], self.results[key])
        if isinstance(key, SupportsIndex):
            index = operator.index(key)
            if not -len(self) <= index < len(self):
                raise IndexError(f"method {index} of {len(self)} ({', '.join(self.given)})")
            return self.results[index]
        names = (*self.given, *(one.spec for one in self.results))
        if str(key) not in names:
            listing = ", ".join(self.given)
            raise NotFoundError(f"no attribution '{key}'{suggest(str(key), self.given)} (there are: {listing})")
        return self.results[names.index(str(key)) % len(self.results)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Raises OptionError: maps of several methods lie on grids of their own."""
        raise OptionError(f"the maps of several methods are no one array; take one: found[{self.given[0]!r}].maps")

    def keys(self) -> tuple[str, ...]:
        """The specs as they were given."""
        return self.given

    def values(self) -> tuple[Attribution, ...]:
        """The Attribution of each."""
        return self.results

    def items(self) -> Iterator[tuple[str, Attribution]]:
        """Each spec as it was given, with its Attribution."""
        return zip(self.given, self.results, strict=True)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def percent(share: float) -> str:
    """A share in whole percent; what is rounded to nothing is less than one, not none; a plain score is none.

    Example:
        >>> percent(0.52), percent(0.0001), percent(-11.04)
        ('52 %', '<1 %', '-11')
    """
    if is_score(share):
        return f"{share:.3g}"
    return "<1 %" if share < 0.005 else f"{100 * share:.0f} %"


def is_score(value: float, among: Iterable[float | None] = ()) -> bool:
    """Whether what should be a share is none, as of a network whose head gives plain scores.

    Args:
        value: the share.
        among: those of the same network beside it: if one is none, all are none.

    Example:
        >>> is_score(-11.0), is_score(3.2), is_score(1.0000001), is_score(0.5, [3.2, 0.5])
        (True, True, False, True)
    """
    return not all(-1e-3 <= one <= 1.001 for one in (value, *among) if one is not None)


def counted(count: int, what: str) -> str:
    """So many of something, as people say it.

    Example:
        >>> counted(1, "shard"), counted(2, "shard")
        ('1 shard', '2 shards')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _rows(index: int | slice, count: int) -> slice:
    """The rows of `count` that an index or a slice with a positive step means, as a slice from the start."""
    if isinstance(index, slice):
        chosen = range(count)[index]
        if chosen.step < 1:
            raise IndexError(f"images {index}: give a step of 1 or more")
    else:
        place = operator.index(index)
        chosen = range(place % count, place % count + 1) if -count <= place < count else range(0)
    if not chosen:
        raise IndexError(f"image {index} of {count}")
    return slice(chosen.start, chosen.stop, chosen.step)


@dataclass(frozen=True)
class Contrast(Shown):
    """Why one class and not another: three maps of each image, to be seen side by side with one color scale.

    Args:
        one: what speaks for the class.
        other: what speaks for the class it is told apart from.
        difference: the map of the difference of both scores; negative is evidence for the other class.
        labels: (the one, the other) by name, for each image.
    """

    one: Attribution
    other: Attribution
    difference: Attribution
    labels: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        names = [f"{one}, not {other}" for one, other in self.labels]
        return f"Contrast({self.difference.spec}: {_some(names)}; {counted(len(self), 'image')})"

    def __len__(self) -> int:
        return len(self.difference)

    def __getitem__(self, index: int | slice) -> Contrast:
        """The contrast of one image, or of a slice of the images."""
        one, other, difference = (part[index] for part in self.parts)
        return Contrast(one, other, difference, self.labels[_rows(index, len(self))])

    @property
    def parts(self) -> tuple[Attribution, Attribution, Attribution]:
        """The one, the other, the difference."""
        return self.one, self.other, self.difference


@dataclass(frozen=True)
class Impression(Shown):
    """An image made from a classifier alone, and how it came to be.

    Args:
        image: (C, H, W) in [0, 1], on the CPU.
        target: what it was made for: a class, several (a fused image), or a unit.
        spec: the recipe and its options, as a spec that parses back to the same.
        preset: the recipe's preset.
        seed: of its random numbers.
        steps: steps that were done.
        scores: the objective at each step, at the augmented image.
        probabilities: per class of the target, its probability at each step at the augmented image; empty for a unit.
        frames: (F, C, H, W) the image along the way, or None.
        frame_steps: the steps at which the frames were taken.
        extras: what the recipe wants shown, such as the pre-CI and its disc.
        seconds: wall time, its share of its batch's.
        stopped: whether it was stopped before its recipe was done.
        label: what it was made for, by name.
    """

    image: Tensor
    target: Target
    spec: str
    preset: str
    seed: int
    steps: int
    scores: tuple[float, ...] = ()
    probabilities: tuple[tuple[float, ...], ...] = ()
    frames: Tensor | None = None
    frame_steps: tuple[int, ...] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    stopped: bool = False
    label: str = ""

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.image.shape[1:]))
        return f"Impression({self.label or self.target}; {self.spec}, seed {self.seed}, {self.steps} steps, {size} px)"


@dataclass(frozen=True)
class Prediction:
    """One line of a classifier's answer."""

    index: int
    label: str
    probability: float

    def __str__(self) -> str:
        """The class with its probability in whole percent; NaN is none.

        Example:
            >>> str(Prediction(281, "tabby", 0.52)), str(Prediction(0, "tench", 0.0001))
            ('tabby 52 %', 'tench <1 %')
        """
        if self.probability != self.probability:
            return self.label
        return f"{self.label} {percent(self.probability)}"


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the original picture, half-open: a box of the whole picture is (0, 0, width, height).

    Args:
        x0: left edge.
        y0: upper edge.
        x1: right edge, beyond the last column.
        y1: lower edge, beyond the last row.

    Example:
        >>> Box(10, 20, 30, 60).area
        800
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not (self.x0 < self.x1 and self.y0 < self.y1):
            raise OptionError(f"box {tuple(self)} is empty or turned round; give x0 < x1 and y0 < y1")

    def __iter__(self) -> Iterator[float]:
        return iter((self.x0, self.y0, self.x1, self.y1))

    @property
    def area(self) -> float:
        """In square pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


@dataclass(frozen=True)
class Record:
    """One row of a run: where it came from, whether it worked, and what it made."""

    path: str
    status: Literal["ok", "error"]
    error: str | None = None
    values: Mapping[str, object] = field(default_factory=dict)
