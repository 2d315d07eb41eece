"""locate: pictures x classes -> masks and boxes in the pictures' own pixels, a row for each picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, ClassVar

from phosphene.devices import clock
from phosphene.errors import ModelError, NumericalError, OptionError, printable
from phosphene.images import picture_size
from phosphene.localization.presets import LocalizationPreset
from phosphene.localization.segment import SegmentName
from phosphene.registry import format_spec, parse_spec
from phosphene.runtime import Prepared
from phosphene.sources import Item
from phosphene.store import Asset, LocateRow, Row, picture_folder
from phosphene.targets import BestClasses, EachClass, typed_classes
from phosphene.tasks.map_rows import REPORT_SIDE
from phosphene.tasks.object_rows import object_row
from phosphene.tasks.objects import Evidence, Located, configured, cut_out, evidence, overview
from phosphene.tasks.ranking import Ranking
from phosphene.tasks.task import Progress, Say, answered, computed, pictures_of
from phosphene.types import Prediction


@dataclass(frozen=True)
class LocateConfig:
    """Which classes are looked for in pictures, by which maps, cut how.

    Args:
        preset: with the methods and the segmentation that are to be used.
        classes: a class by index, WordNet id or name, several of them, or 'topK' for the K best of each picture; or
            what that means for a classifier.
        seed: of the methods that draw random numbers.
        batch_size: images that go through the network together; with K classes so many fewer pictures.
        is_drawn: whether boxes and the steps to them are drawn; without them rows hold values and masks alone.

    Example:
        >>> LocateConfig.of(["cam"], segment="threshold").described()["methods"]
        ['cam']
    """

    preset: LocalizationPreset
    classes: str | tuple[str, ...] | EachClass = "top1"
    seed: int = 0
    batch_size: int = 8
    is_drawn: bool = True
    rows: ClassVar[type[Row]] = LocateRow

    @classmethod
    def of(
        cls, methods: Sequence[str] = (), *, segment: SegmentName | None = None, preset: str = "best", **options: Any
    ) -> LocateConfig:
        """A config from what is typed: methods and a segmentation instead of those of a preset."""
        return cls(configured(preset, [parse_spec(method) for method in methods], segment), **options)

    def checked(self, classifier: Prepared) -> LocateConfig:
        """The same, once its classes are understood.

        Raises:
            NotFoundError: for a class that there is not.
        """
        typed_classes(self.classes, classifier.labels)
        return self

    def described(self) -> dict[str, Any]:
        """All options but the seed, as the manifest of a run has them."""
        return {
            "classes": self.classes,
            "preset": self.preset.name,
            "methods": [format_spec(parse_spec(method)) for method in self.preset.methods],
            "segment": self.preset.segment,
            "batch_size": self.batch_size,
        }

    def pictures_at_once(self, classifier: Prepared) -> int:
        """How many pictures make a batch: fewer where several classes are looked for in each.

        One alone on a CPU, where the first answer would be late.
        """
        if classifier.device.type == "cpu":
            return 1
        return max(1, self.batch_size // typed_classes(self.classes, classifier.labels).count)

    def run(
        self,
        classifier: Prepared,
        items: Sequence[Item],
        *,
        start: int = 0,
        progress: Progress | None = None,
        say: Say | None = None,
        first: bool = False,
    ) -> Iterator[LocateRow]:
        """A row for each item, in order; a picture in which nothing can be located is a row with its error.

        The maps of all items are made before the first row; objects are cut out when their row is asked for.

        Raises:
            OptionError: for options that make no sense, or methods that the network does not allow.
        """
        found = computed(classifier, items, lambda network, group: _searched(self, network, group, progress, say))
        for number, (item, result) in enumerate(zip(items, found, strict=True)):
            yield _row(self, item, picture_folder(start + number, item.path), result, progress)


@dataclass(frozen=True, eq=False)
class _Searched:
    """What was computed for one picture: its best classes, those that are looked for, and the evidence for each."""

    predicted: tuple[Prediction, ...]
    classes: tuple[Prediction, ...]
    evidence: tuple[Evidence, ...]
    seconds: float
    note: str | None


def _searched(
    config: LocateConfig, classifier: Prepared, items: Sequence[Item], progress: Progress | None, say: Say | None
) -> Sequence[_Searched | str]:
    begin = clock(classifier.device)
    pictures = pictures_of(items)
    ranking = Ranking.of(classifier, pictures, config.preset)
    odds = ranking.odds
    answers = odds.isfinite().all(dim=1).tolist()
    if not all(answers):
        return answered(items, answers, lambda some: _searched(config, classifier, some, progress, say))
    asked = typed_classes(config.classes, classifier.labels)
    chosen = asked.chosen(odds)
    count = len(chosen[0])
    if say is not None:
        for item, row, likely in zip(items, chosen, odds, strict=True):
            say(item, ", ".join(str(Prediction(one, classifier.labels[one], float(likely[one]))) for one in row))
    copies = [picture for picture in pictures for _ in range(count)]
    classes = [index for row in chosen for index in row]
    label = "+".join(config.preset.methods)
    passes = None if progress is None else lambda done, total: progress(done, total, label)
    try:
        maps = evidence(classifier, copies, classes, config.preset, seed=config.seed, progress=passes)
    except ModelError as error:  # pictures are laid out in sizes that the network takes: it is none of these
        raise OptionError(str(error)) from error
    seconds = (clock(classifier.device) - begin) / len(items)
    found = []
    for number, row in enumerate(chosen):
        best = odds[number].topk(min(5, odds.shape[1])).indices.tolist()
        predicted, sought = (
            tuple(Prediction(index, classifier.labels[index], float(odds[number, index])) for index in some)
            for some in (best, row)
        )
        note = ranking.note(number, row) if isinstance(asked, BestClasses) else None
        found.append(_Searched(predicted, sought, tuple(maps[number * count : (number + 1) * count]), seconds, note))
    return found


def _row(
    config: LocateConfig, item: Item, folder: str, result: _Searched | str, progress: Progress | None
) -> LocateRow:
    row = LocateRow(item.key, item.path, label=item.label, columns=dict(item.columns) or None)
    if item.picture is not None:
        row = replace(row, size=picture_size(item.picture))
    if isinstance(result, str) or item.picture is None:
        return replace(row, status="error", error=str(result))
    found = []
    for number, (prediction, seen) in enumerate(zip(result.classes, result.evidence, strict=True)):
        if progress is not None:
            text = f"{PurePath(item.path).name}, cutting out {prediction.label}"
            progress(number, len(result.classes), printable(text))
        try:
            found.append(cut_out(item.picture, seen, config.preset, prediction))
        except NumericalError as error:
            row = replace(row, status="error", error=str(error))
    if config.is_drawn:
        boxes = overview(item.picture, found, REPORT_SIDE)
        row = replace(row, overlay=Asset(f"{folder}/boxes.jpg", boxes, {"quality": 90}))
    return replace(
        row,
        predicted=result.predicted,
        objects=tuple(object_row(folder, item.picture, thing, is_drawn=config.is_drawn) for thing in found),
        method=", ".join(dict.fromkeys("+".join(thing.methods) for thing in found)) or "+".join(config.preset.methods),
        notes=_notes(found, result.note),
        seconds=result.seconds,
    )


def _notes(found: Sequence[Located], reading: str | None) -> tuple[str, ...] | None:
    """What stands beside the objects of a picture, and what explain reads in it instead."""
    notes = [f"{thing.label}: {note}" for thing in found for note in thing.notes]
    return tuple(dict.fromkeys([*notes, *([reading] if reading else [])])) or None
