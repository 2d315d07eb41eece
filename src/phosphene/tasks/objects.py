"""locate: where in a picture the classes are. Maps of the whole frame, put together, cut out, boxed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.errors import ModelError, NumericalError, OptionError, warn
from phosphene.geometry import lay_on_original, whole_view
from phosphene.images import Picture, as_pictures, picture_size, preprocess, to_pil
from phosphene.localization.box import bounding_box
from phosphene.localization.presets import LocalizationPreset, preset
from phosphene.localization.segment import Segmentation, SegmentName, segment, segment_name
from phosphene.maps import blur, normalize
from phosphene.registry import Spec, entry, parse_spec
from phosphene.render import Sheet, Tile, doubt, draw_boxes, shown_as, thumbnail
from phosphene.runtime import Prepared, forward, prepare
from phosphene.targets import Target, TargetLike, resolve
from phosphene.tasks.attributions import Progress, attribute, in_the_place_of, needed_view, says_nothing
from phosphene.tasks.deep_features import deep_features
from phosphene.tasks.ranking import Ranking
from phosphene.types import Attribution, Box, Prediction, Results, Shown, Size, View
from phosphene.zoo import load_classifier

# A cut at a picture's own resolution: more pixels than this take a minute and gigabytes.
_MOST_PIXELS = 1_000_000
_ANY_SIZE = 224
_SHOWN_SIDE = 480
_NOTHING = "nothing in the whole frame speaks for the class"
# Share of the frame above half of a map's range, from which on it tells no object from its surroundings.
_MOST = 0.9
# Share of a picture from which on a box is all of it.
_WHOLE = 0.98
_SIZES: WeakKeyDictionary[Classifier, dict[Size, bool]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Located(Shown):
    """One object of one class in one picture.

    Args:
        index: of the class.
        label: its name.
        probability: of the class, in the mean over whole frame and centre crop and their mirror images.
        box: in pixels of the picture, half-open.
        mask: (H, W) boolean at the picture's size.
        evidence: (h, w) in [0, 1], the map that was cut, on a grid over the whole picture.
        segmentation: the cut on that grid.
        point: (x, y) of the map's largest value, in pixels of the picture.
        methods: specs of the methods whose maps were cut.
        note: what the user should know, such as why they are others than were asked for; None for nothing.
        picture: as it was given, for drawing.
        reading: what explain reads in the picture, where that is none of the classes that were found best; else None.
    """

    index: int
    label: str
    probability: float
    box: Box
    mask: NDArray[np.bool_]
    evidence: NDArray[np.float32]
    segmentation: Segmentation
    point: tuple[float, float]
    methods: tuple[str, ...] = ()
    note: str | None = None
    picture: Picture | None = None
    reading: str | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What stands beside the object: the note, that the class is all but ruled out, that the box says little."""
        return tuple(note for note in (self.note, self.unlikely, self._doubtful_box, self.reading) if note)

    @property
    def unlikely(self) -> str | None:
        """What has to be said where the network all but rules out the class: the box is dashed. Else None."""
        return doubt("the class", self.probability, "the box holds")

    @property
    def _doubtful_box(self) -> str | None:
        """What is odd about the box, for people to look."""
        x, y = self.point
        if self.box.area >= _WHOLE * self.mask.size:
            return "the box is the whole picture: the object fills it, or no method here tells it from its surroundings"
        if not (self.box.x0 <= x <= self.box.x1 and self.box.y0 <= y <= self.box.y1):
            return "the map is strongest outside of the box: look at the map"
        return None

    def __repr__(self) -> str:
        x0, y0, x1, y1 = map(round, self.box)
        sure = Prediction(self.index, self.label, self.probability)
        return f"Located({sure}: x {x0} to {x1}, y {y0} to {y1}; {'+'.join(self.methods)})"


@shown_as(Located)
def _located_sheet(found: Located) -> Sheet:
    height, width = found.mask.shape
    picture = Image.new("RGB", (width, height), "gray") if found.picture is None else found.picture
    x0, y0, x1, y1 = map(round, found.box)
    lines = (
        str(Prediction(found.index, found.label, found.probability)),
        f"x {x0} to {x1}, y {y0} to {y1} of {width} x {height} px",
        f"{'+'.join(found.methods)}, cut by {'threshold' if found.segmentation.samples is None else 'graphcut'}",
    )
    shown = overview(picture, [found], _SHOWN_SIDE)
    return Sheet(((Tile(shown, (*lines, *found.notes)),),))


def overview(picture: Picture, found: Sequence[Located], side: int) -> Image.Image:
    """The picture, its long side at most `side` pixels, with the boxes and masks of all objects."""
    small, (height, width) = thumbnail(picture, side), picture_size(picture)
    across, down = small.width / width, small.height / height
    return draw_boxes(
        small,
        [scaled_box(thing.box, across, down) for thing in found],
        [str(Prediction(thing.index, thing.label, thing.probability)) for thing in found],
        [resized_mask(thing.mask, small.size) for thing in found],
        [thing.unlikely is not None for thing in found],
    )


def resized_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at another (width, height)."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def scaled_box(box: Box, across: float, down: float) -> Box:
    """A box in pixels of the picture at another size."""
    return Box(box.x0 * across, box.y0 * down, box.x1 * across, box.y1 * down)


def locate(
    classifier: Classifier | nn.Module | str,
    image: Any,
    *,
    target: TargetLike = None,
    method: str | Spec | Sequence[str | Spec] | None = None,
    segment: SegmentName | None = None,
    preset: str | LocalizationPreset = "best",
    seed: int = 0,
) -> Results[Located]:
    """Where the classes are in one picture: masks and boxes in its own pixels.

    The whole frame is looked at, squashed to squares; nothing is cropped away.

    Args:
        classifier: a Classifier, a network, or a spec for load_classifier such as "embedded".
        image: a path, PIL image, array (H, W, C) or tensor (C, H, W).
        target: one class or several, by index, WordNet id or name; None for the best one.
        method: attribution methods instead of the preset's; the maps of several are put together.
        segment: "graphcut" or "threshold" instead of the preset's own.
        preset: "best", "paper" as Simonyan et al. describe it, or a LocalizationPreset.
        seed: of methods that draw random numbers.

    Returns:
        One Located per class; they show themselves in notebooks.

    Raises:
        InputError: for a picture that cannot be read.
        NotFoundError: for an unknown class, method or preset.
        NumericalError: if the maps say nothing about where the class is.

    Example:
        >>> from skimage.data import chelsea
        >>> (found,) = locate("embedded", chelsea(), target="Egyptian cat", preset="best")
        >>> found.mask.shape, found.box.x1 <= 451
        ((300, 451), True)

    References:
        simonyan2014, section 3.2.
    """
    prepared = prepare(load_classifier(classifier))
    (picture,) = _one(as_pictures(image, **prepared.preprocess.reading))
    way = configured(preset, method, segment)
    goal = resolve(target, prepared.labels)
    if isinstance(goal, Target) and not goal.classes:
        raise OptionError(f"a {goal.kind} has no box; name a class")
    ranking = Ranking.of(prepared, [picture], way)
    odds = ranking.odds[0]
    classes = goal.classes if isinstance(goal, Target) else goal.chosen(odds[None])[0]
    other = None if isinstance(goal, Target) else ranking.note(0, classes)
    maps = evidence(prepared, [picture] * len(classes), classes, way, seed=seed)
    found = Results(
        cut_out(picture, seen, way, Prediction(index, prepared.labels[index], float(odds[index])))
        for index, seen in zip(classes, maps, strict=True)
    )
    for thing in found:
        if thing.note is not None:
            warn(f"{thing.label}: {thing.note}")
    if other is not None:
        found[0] = replace(found[0], reading=other)
    return found


def _one(pictures: list[Picture]) -> list[Picture]:
    if len(pictures) != 1:
        raise OptionError(f"{len(pictures)} pictures; locate takes one at a time")
    return pictures


def configured(
    name: str | LocalizationPreset,
    method: str | Spec | Sequence[str | Spec] | None = None,
    segment: str | None = None,
) -> LocalizationPreset:
    """The preset with other methods or another segmentation, as asked for.

    Example:
        >>> configured("paper", "cam", "threshold").methods
        ('cam',)
    """
    way = preset(name)
    methods = [method] if isinstance(method, str | Spec) else method or ()
    specs = tuple(str(parse_spec(item)) for item in methods)
    if specs:
        way = way.with_methods(specs) if specs != way.methods else replace(way, otherwise=())
    return way if segment is None else replace(way, segment=segment_name(segment))


@dataclass(frozen=True)
class Evidence:
    """What all maps of one picture and class say together.

    Args:
        values: (h, w) in [0, 1] on the working grid over the whole picture.
        problem: why it says nothing, or None.
        deep_features: (h, w, k) what each place looks like to the network, where the cut asks for it.
        fine: whether all of the maps are gradients at single pixels, which are cut by settings of their own.
        way: that it was made in.
        note: why that is another one than was asked for, or None.
    """

    values: NDArray[np.float32]
    problem: str | None
    deep_features: NDArray[np.floating] | None = None
    fine: bool = False
    way: LocalizationPreset | None = None
    note: str | None = None

    @property
    def says_nothing(self) -> str | None:
        """Why it does not tell an object from what is around it; None if it does."""
        if self.problem is None and float((self.values >= 0.5).mean()) > _MOST:
            return "its map is as high nearly everywhere"
        return self.problem


def evidence(
    classifier: Prepared,
    pictures: Sequence[Picture],
    classes: Sequence[int],
    way: LocalizationPreset,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Evidence]:
    """The maps of each picture and class, put together on the way's grid over the whole picture.

    The maps of all methods, sizes and mirror images, each stretched to [0, 1], are averaged: what is hot at one size
    alone is left behind. Sizes that the network does not take are left out. Where the preset's own methods do not run
    on the network, or leave a picture's map flat, others take their place, and the evidence says so. `progress` is
    called with (looks done, in all), and within a look by methods of many passes.
    """
    try:
        found = _evidence(classifier, pictures, classes, way, seed, progress)
    except ModelError as error:
        if not way.otherwise:
            raise
        found = [Evidence(np.zeros(grid_size(picture_size(one)), np.float32), str(error), way=way) for one in pictures]
    for method in way.otherwise:
        empty = [index for index, seen in enumerate(found) if seen.says_nothing is not None]
        if not empty:
            break
        try:
            own = [pictures[index] for index in empty], [classes[index] for index in empty]
            again = _evidence(classifier, *own, way.with_methods((method,)), seed, progress)
        except ModelError:
            continue
        for index, seen in zip(empty, again, strict=True):
            if seen.says_nothing is None:
                note = in_the_place_of(method, "+".join(way.methods), str(found[index].says_nothing))
                found[index] = replace(seen, note=note)
    return [seen if seen.note else replace(seen, note=seen.says_nothing) for seen in found]


def _evidence(
    classifier: Prepared,
    pictures: Sequence[Picture],
    classes: Sequence[int],
    way: LocalizationPreset,
    seed: int,
    progress: Progress | None,
) -> list[Evidence]:
    target = Target.of(classes)
    grids = [grid_size(picture_size(picture), way.grid) for picture in pictures]
    sums = [torch.zeros(grid, dtype=torch.float64, device="cpu") for grid in grids]
    problems: list[str | None] = [None] * len(pictures)
    fine = True
    shown = [(spec, size) for spec in map(parse_spec, way.methods) for size in _sizes_shown(classifier, spec, way)]
    mirrors = [(False, True) if way.mirror and not _is_slow(spec) else (False,) for spec, _ in shown]
    done, total = 0, sum(map(len, mirrors))
    for (spec, size), ways in zip(shown, mirrors, strict=True):
        views = [whole_view(picture_size(picture), size) for picture in pictures]
        images = classifier.preprocessed(pictures, views)
        for mirrored in ways:
            seen = images.flip(-1) if mirrored else images
            result = attribute(classifier, seen, target, spec, seed=seed, progress=_within(progress, done, total))
            power = way.fine.power if way.fine is not None and _is_fine(spec, result) else 1.0
            fine = fine and _is_fine(spec, result)
            for index, (view, grid) in enumerate(zip(views, grids, strict=True)):
                problems[index] = problems[index] or says_nothing(result, index)
                share = None if way.grid is None else way.blur
                laid = _laid(result, index, view, grid, share, power, mirrored).cpu().double()
                sums[index] += torch.nan_to_num(normalize(laid[None])[0], nan=0.0)
            done += 1
            if progress is not None:
                progress(done, total)
    features = _deep_features(classifier, pictures, grids, way)
    return [
        Evidence(
            normalize(values[None])[0].float().numpy(),
            None if bool(values.any()) else problem or _NOTHING,
            seen,
            fine,
            way,
        )
        for values, problem, seen in zip(sums, problems, features, strict=True)
    ]


def _deep_features(
    classifier: Prepared, pictures: Sequence[Picture], grids: Sequence[Size], way: LocalizationPreset
) -> list[NDArray[np.floating] | None]:
    """What the pictures' places look like at the largest size that is looked at, if the way's cut asks for it."""
    count = way.graph_cut.deep_features if way.segment == "graphcut" else 0
    if count == 0:
        return [None] * len(pictures)
    return deep_features(classifier, pictures, _sizes(classifier, way.sizes)[-1], grids, count)


def grid_size(original: Size, side: int | None = 96) -> Size:
    """(h, w) of the working grid: the picture's proportions, never finer than the picture.

    Args:
        original: (height, width) of the picture.
        side: most cells a side; None for the picture's own resolution, of large pictures a million of pixels.

    Example:
        >>> grid_size((300, 451)), grid_size((8, 20)), grid_size((300, 451), None), grid_size((3000, 4000), None)
        ((64, 96), (8, 20), (300, 451), (866, 1155))
    """
    if side is None:
        factor = min(1.0, (_MOST_PIXELS / (original[0] * original[1])) ** 0.5)
    else:
        factor = min(1.0, side / max(original))
    return max(1, round(original[0] * factor)), max(1, round(original[1] * factor))


def _within(progress: Progress | None, looks: int, all_looks: int) -> Progress | None:
    """The progress of a method's passes within one of several looks."""
    if progress is None:
        return None
    return lambda done, total: progress(looks * total + done, all_looks * total)


def _sizes_shown(classifier: Prepared, spec: Spec, way: LocalizationPreset) -> list[Size]:
    """The sizes at which the whole frame is shown to a method."""
    if needed_view(spec, "whole") == "margin":
        return [classifier.preprocess.view(classifier.preprocess.size or (_ANY_SIZE, _ANY_SIZE), "margin").size]
    return _sizes(classifier, (1.0,) if _is_slow(spec) else way.sizes)


def _sizes(classifier: Prepared, factors: Sequence[float]) -> list[Size]:
    """These multiples of the network's input that it takes; its input itself if none."""
    base = classifier.preprocess.size or (_ANY_SIZE, _ANY_SIZE)
    sizes = [(round(base[0] * factor), round(base[1] * factor)) for factor in factors]
    return [size for size in sizes if size == base or _takes(classifier, size)] or [base]


def _is_slow(spec: Spec) -> bool:
    """Methods of hundreds of passes a map: one size is all that can be afforded."""
    return entry("attribution", spec.name).family == "perturbation"


def _is_fine(spec: Spec, result: Attribution) -> bool:
    """Whether a map is a gradient at single pixels; maps of windows and masks are calm, however fine their grid."""
    return max(result.heat_grid[1]) <= 1 and entry("attribution", spec.name).family == "gradient"


def _takes(classifier: Prepared, size: Size) -> bool:
    """Whether the network runs on images of another size than its own; tried once."""
    known = _SIZES.setdefault(classifier, {})
    if size not in known:
        try:
            forward(classifier, classifier.mean_image.expand(1, -1, *size))
            known[size] = True
        except Exception:  # a network that wants its own size fails in its own way
            known[size] = False
    return known[size]


def _laid(
    result: Attribution, index: int, view: View, grid: Size, share: float | None, power: float, mirrored: bool
) -> Tensor:
    """One map of a result on the working grid, the positive part; blurred where its cells are finer than the blur.

    Without a share it is never blurred.
    """
    offset, stride = result.heat_grid
    values = result.heat[index].clamp(min=0) ** power
    if mirrored:
        values = values.flip(-1)
        offset = (offset[0], result.size[1] - offset[1] - stride[1] * (values.shape[-1] - 1))
    if share is not None:
        # Sampled on a coarser grid, single pixels would be picked at random: at least half a cell of blur.
        width = max(share * max(view.size), 0.5 * max(view.size) / max(grid)) / max(stride)
        values = blur(values[None], width)[0] if width >= 1 else values
    return lay_on_original(values, offset, stride, view, size=grid)


def cut_out(picture: Picture, seen: Evidence, way: LocalizationPreset, prediction: Prediction) -> Located:
    """The object that the evidence points at, as a mask and a box in the picture's pixels.

    Raises:
        NumericalError: if the evidence says nothing, and why.
    """
    if seen.problem is not None:
        raise NumericalError(f"{prediction.label}: {seen.problem}")
    original, values, way = picture_size(picture), seen.values, _way_of(seen, way)
    grid = (values.shape[0], values.shape[1])
    # Of many bands the first three are the colors, as where they are shown to people.
    shown = to_pil(picture) if isinstance(picture, Tensor) and len(picture) not in (1, 3) else picture
    colors = preprocess(shown, whole_view(original, grid), channels=3, interpolation="lanczos")
    found = segment(
        values, colors.movedim(0, -1).cpu().double().numpy(), way.settings(fine=seen.fine), seen.deep_features
    )
    mask = to_original(found.mask, original)
    row, column = np.unravel_index(int(values.argmax()), grid)
    point = ((column + 0.5) * original[1] / grid[1], (row + 0.5) * original[0] / grid[0])
    return Located(
        prediction.index,
        prediction.label,
        prediction.probability,
        box=bounding_box(mask),
        mask=mask,
        evidence=values,
        segmentation=found,
        point=(float(point[0]), float(point[1])),
        methods=way.methods,
        note=seen.note,
        picture=picture,
    )


def _way_of(seen: Evidence, way: LocalizationPreset) -> LocalizationPreset:
    """The way asked for, with the maps that the evidence was made of."""
    own = way if seen.way is None else seen.way
    return way if own.methods == way.methods else replace(way.with_methods(own.methods), segment=way.segment)


def to_original(mask: NDArray[np.bool_], original: Size) -> NDArray[np.bool_]:
    """A mask on the working grid at the picture's size, its outline smooth."""
    view = whole_view(original, (mask.shape[0], mask.shape[1]))
    laid = lay_on_original(torch.from_numpy(mask.astype(np.float32)), (0.5, 0.5), (1.0, 1.0), view)
    return np.asarray(laid.numpy() >= 0.5)
