"""Localization measured: do masks cut from maps give the boxes that people drew?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any

from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.devices import clock
from phosphene.errors import InputError, NumericalError
from phosphene.evaluation.ground_truth import Truth
from phosphene.evaluation.heat import Progress, passes
from phosphene.evaluation.pieces import Keep, Piece, added, measured_now
from phosphene.images import Picture, picture_size, read_image
from phosphene.localization.presets import LocalizationPreset
from phosphene.metrics.bootstrap import bootstrap_interval
from phosphene.metrics.iou import best_iou
from phosphene.metrics.pointing_game import pointing_hit
from phosphene.render import Sheet, Tile, bar_chart, numbers, shown_as
from phosphene.runtime import Prepared, prepare
from phosphene.tasks.notebook import told
from phosphene.tasks.objects import cut_out, evidence
from phosphene.tasks.ranking import posteriors
from phosphene.tasks.stream import no_answer
from phosphene.types import Box, Prediction, Record, Shown
from phosphene.zoo import load_classifier

OVERLAPS = (0.3, 0.5, 0.7)
_BATCH = 8
# Share of a side that a box may reach beyond its picture: people draw to the edge and a little further, and pictures
# are trimmed to a multiple of 8 or 16 pixels afterwards. A box of another size of the picture mostly reaches further.
_BEYOND = 0.1


@dataclass
class LocalizationScores:
    """What one way to localize got, picture by picture.

    Args:
        name: of the baseline, or of the way.
        way: the preset with its methods and segmentation; None for a baseline.
        overlaps: best intersection over union of the true class's box with an instance; 0 where there was no box.
        hits: whether the map's largest value fell on an instance.
        best: whether the true class is the classifier's first answer.
        among: whether it is among the first five.
        dead: how many maps said nothing; they count as wrong.
        notes: what was said of maps, such as which took the place of others, with the number of pictures.
        seconds: in all.
    """

    name: str
    way: LocalizationPreset | None = None
    overlaps: list[float] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)
    best: list[bool] = field(default_factory=list)
    among: list[bool] = field(default_factory=list)
    dead: int = 0
    notes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def add(
        self, box: Box | None, point: tuple[float, float] | None, truth: Truth, rank: int, tolerance: float
    ) -> None:
        """Count one picture: its box, the map's largest place, and where the true class stood in the ranking."""
        self.overlaps.append(0.0 if box is None else best_iou(box, truth.boxes))
        self.hits.append(point is not None and pointing_hit(point, truth.boxes, tolerance=tolerance))
        self.best.append(rank < 1)
        self.among.append(rank < 5)

    @property
    def sums(self) -> dict[str, Any]:
        """What grows with every picture."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("name", "way")}

    def take(self, part: Mapping[str, Any]) -> None:
        """Add what was found of other pictures."""
        for name, value in added(self.sums, part).items():
            setattr(self, name, value)

    @property
    def gt_known(self) -> float:
        """The share of pictures where the box of the true class overlaps an instance by half or more."""
        return sum(overlap >= 0.5 for overlap in self.overlaps) / len(self.overlaps)

    def row(self) -> dict[str, object]:
        """The measures, as the command prints them.

        Only the true class's box can be right, so the localization error follows from that box and the ranking.
        """
        count = len(self.overlaps)
        right = [overlap >= 0.5 for overlap in self.overlaps]
        top5 = [1.0 - (box and named) for box, named in zip(right, self.among, strict=True)]
        row: dict[str, object] = {} if self.way is None else _identity(self.way)
        return row | {
            "gt_known": self.gt_known,
            "gt_known_ci": bootstrap_interval(right),
            "top1_error": 1 - sum(box and named for box, named in zip(right, self.best, strict=True)) / count,
            "top5_error": sum(top5) / count,
            "top5_error_ci": bootstrap_interval(top5),
            "pointing_game": sum(self.hits) / count,
            "box_accuracy": {str(least): sum(value >= least for value in self.overlaps) / count for least in OVERLAPS},
            "mean_overlap": sum(self.overlaps) / count,
            "dead": self.dead,
            "notes": [f"{note} ({count} of {len(self.overlaps)} pictures)" for note, count in self.notes.items()],
            "seconds_per_image": self.seconds / count,
        }


def _identity(way: LocalizationPreset) -> dict[str, object]:
    return {"method": "+".join(way.methods), "segment": way.segment, "preset": way.name}


@dataclass(frozen=True)
class Localization(Shown):
    """The measurements of all ways and of the trivial baselines, and the pictures that could not be used.

    Args:
        images: pictures measured.
        class_top1: share of them whose class the classifier names first, ranked as the first way ranks them.
        class_top5: among the first five.
        rows: one LocalizationScores per way.
        baselines: whole_frame and centre_box.
        broken: what could not be read, or is not the picture that the boxes were drawn on.
    """

    images: int
    class_top1: float
    class_top5: float
    rows: tuple[LocalizationScores, ...]
    baselines: tuple[LocalizationScores, ...]
    broken: tuple[Record, ...]

    def __repr__(self) -> str:
        return f"Localization({len(self.rows)} ways, {self.images} pictures)"


@shown_as(Localization)
def _localization_sheet(found: Localization) -> Sheet:
    named = [(one.name, one.row()) for one in (*found.rows, *found.baselines)]
    keys = ("gt_known", "top1_error", "top5_error", "pointing_game", "seconds_per_image")
    bars = {one.name: one.gt_known for one in (*found.rows, *found.baselines)}
    chart = bar_chart(bars, label="GT-known", quiet=[one.name for one in found.baselines])
    head = ("map and cut", "GT-known", "top-1 error", "top-5 error", "pointing game", "s an image")
    table = (head, *(numbers([name, *(row[key] for key in keys)]) for name, row in named))
    return Sheet(((Tile(chart),),), f"Localization on {found.images} pictures", table)


def localization(
    classifier: Classifier | nn.Module | str,
    truths: Sequence[Truth],
    ways: Sequence[LocalizationPreset],
    *,
    tolerance: float = 0.0,
    seed: int = 0,
    keep: Keep = measured_now,
    progress: Progress | None = None,
) -> Localization:
    """GT-known accuracy, top-1 and top-5 localization error, the pointing game: of ways to localize and of none.

    GT-known: the true class is given, its box must overlap an instance by half. Errors: the class must also be the
    first answer, or among the first five; each answer may have one box, as in the paper. Any instance may match.
    Beside them stand two boxes that no network is needed for: the whole frame, and the centered one of half its area.

    Args:
        classifier: whose answers are measured: a Classifier, a network, or a spec for load_classifier.
        truths: pictures, classes and true boxes; pictures are read a few at a time.
        ways: presets, configured.
        tolerance: of the pointing game, in pixels.
        seed: of methods that draw random numbers.
        keep: gives the pieces that are known already and takes the new ones.
        progress: called with (pictures done, in all, what is being done), and with the passes of a batch of pictures.

    Raises:
        InputError: if no picture could be used.

    References:
        russakovsky2015, section 4.2; simonyan2014, section 3.2; zhang2018 for the pointing game.
    """
    classifier, progress = prepare(load_classifier(classifier)), told(progress)
    rows = tuple(LocalizationScores(" ".join(map(str, _identity(way).values())), way) for way in ways)
    baselines = (LocalizationScores("whole_frame"), LocalizationScores("centre_box"))
    broken: list[Record] = []
    for start in range(0, len(truths), _BATCH):
        look = _Look(classifier, truths[start : start + _BATCH], ways[0])
        where = f"pictures {start + 1} to {start + len(look.truths)}"
        found = keep(where, look.found).values
        broken += [Record(path, "error", why) for path, why in found["broken"]]
        for group in _sharing_maps(rows) if found["ranks"] else ():
            names = ", ".join(measured.name for measured in group)
            told_passes = passes(progress, f"{names}, {where} of {len(truths)}")
            measure = partial(_measured, classifier, look, group, tolerance, seed, told_passes)
            for measured, part in zip(group, keep(f"{where}: {names}", measure).values["rows"], strict=True):
                measured.take(part)
        for measured in baselines:
            for number, size, rank in zip(found["usable"], found["sizes"], found["ranks"], strict=True):
                box = _trivial_box(measured.name, size)
                point = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
                measured.add(box, point, look.truths[number], rank, tolerance)
        if progress is not None:
            progress(start + len(look.truths), len(truths), "localization")
    known = baselines[0]
    if not known.overlaps:
        raise InputError(f"none of the {len(truths)} pictures could be used; the first: {broken[0].error}")
    count = len(known.overlaps)
    return Localization(count, sum(known.best) / count, sum(known.among) / count, rows, baselines, tuple(broken))


@dataclass(frozen=True)
class _Seen:
    """Pictures that can be measured, by their numbers in the batch, the ranks of their classes, and the others."""

    numbers: Sequence[int]
    pictures: Sequence[Picture]
    ranks: Sequence[int]
    broken: Sequence[Record]


@dataclass(frozen=True)
class _Look:
    """A few pictures, which are read and ranked when they are first looked at.

    Args:
        classifier: that ranks the classes.
        truths: of the pictures.
        first: the way by which they are ranked.
    """

    classifier: Prepared
    truths: Sequence[Truth]
    first: LocalizationPreset

    @cached_property
    def seen(self) -> _Seen:
        """The pictures and what is known of them."""
        broken: list[Record] = []
        usable: list[tuple[int, Picture]] = []
        for number, truth in enumerate(self.truths):
            try:
                usable.append((number, _read(truth, **self.classifier.preprocess.reading)))
            except InputError as error:
                broken.append(Record(str(truth.path), "error", str(error)))
        if not usable:
            return _Seen((), (), (), broken)
        odds = posteriors(self.classifier, [picture for _, picture in usable], self.first)
        alive = odds.isfinite().all(dim=1).tolist()
        for (number, _), fine in zip(usable, alive, strict=True):
            broken += [] if fine else [no_answer(self.truths[number].path)]
        usable = [one for one, fine in zip(usable, alive, strict=True) if fine]
        numbers = [number for number, _ in usable]
        return _Seen(numbers, [picture for _, picture in usable], self._ranks(numbers, odds[alive]), broken)

    def found(self) -> Piece:
        """What the boxes that need no network are measured by."""
        return Piece(
            {
                "usable": list(self.seen.numbers),
                "sizes": [list(picture_size(picture)) for picture in self.seen.pictures],
                "ranks": list(self.seen.ranks),
                "broken": [[record.path, record.error] for record in self.seen.broken],
            }
        )

    def ranked_by(self, way: LocalizationPreset) -> Sequence[int]:
        """The ranks of the true classes as a way ranks classes."""
        if way.ranking == self.first.ranking:
            return self.seen.ranks
        return self._ranks(self.seen.numbers, posteriors(self.classifier, self.seen.pictures, way))

    def _ranks(self, numbers: Sequence[int], odds: Tensor) -> list[int]:
        """How many classes the classifier holds for more probable than the true one, for each picture."""
        return [int((row > row[self.truths[number].index]).sum()) for number, row in zip(numbers, odds, strict=True)]


def _read(truth: Truth, **reading: Any) -> Picture:
    picture = read_image(truth.path, **reading)
    height, width = picture_size(picture)
    if truth.size is not None and truth.size != (height, width):
        rows, columns = truth.size
        raise InputError(f"{truth.path}: is {width} x {height}, but its boxes were drawn on {columns} x {rows} pixels")
    for box in truth.boxes:
        over = max(-box.x0 / width, -box.y0 / height, box.x1 / width - 1, box.y1 / height - 1)
        if over > _BEYOND:
            raise InputError(
                f"{truth.path}: is {width} x {height}, but its box {tuple(box)} reaches beyond; "
                "was it drawn on another size?"
            )
    return picture


def _sharing_maps(rows: Sequence[LocalizationScores]) -> list[list[LocalizationScores]]:
    """Ways that differ in the segmentation alone, together: their maps are made once."""
    groups: dict[object, list[LocalizationScores]] = {}
    for measured in rows:
        assert measured.way is not None
        way = measured.way
        key = (way.methods, way.sizes, way.mirror, way.blur, way.fine, way.grid, way.ranking, way.otherwise)
        groups.setdefault(key, []).append(measured)
    return list(groups.values())


def _measured(
    classifier: Prepared,
    look: _Look,
    group: Sequence[LocalizationScores],
    tolerance: float,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Piece:
    """What ways that share their maps get on a few pictures."""
    ways = [measured.way for measured in group if measured.way is not None]
    # A cut may need more than the maps that a threshold is content with.
    way = next((way for way in ways if way.segment == "graphcut"), ways[0])
    truths, pictures = [look.truths[number] for number in look.seen.numbers], look.seen.pictures
    ranks = look.ranked_by(way)
    start = clock(classifier.device)
    maps = evidence(classifier, pictures, [truth.index for truth in truths], way, seed=seed, progress=progress)
    shared = clock(classifier.device) - start
    rows = []
    for way in ways:
        start = clock(classifier.device)
        notes = Counter(seen.note for seen in maps if seen.note is not None)
        measured = LocalizationScores("", way, notes=dict(notes))
        for truth, picture, rank, seen in zip(truths, pictures, ranks, maps, strict=True):
            try:
                found = cut_out(picture, seen, way, Prediction(truth.index, "", 0.0))
                measured.add(found.box, found.point, truth, rank, tolerance)
            except NumericalError:
                measured.dead += 1
                measured.add(None, None, truth, rank, tolerance)
        measured.seconds += shared + clock(classifier.device) - start
        rows.append(measured.sums)
    return Piece({"rows": rows})


def _trivial_box(name: str, size: Sequence[int]) -> Box:
    """The whole frame, or the box of half its area in the middle."""
    height, width = size
    if name == "whole_frame":
        return Box(0, 0, width, height)
    margin = (1 - 0.5**0.5) / 2
    return Box(margin * width, margin * height, (1 - margin) * width, (1 - margin) * height)
