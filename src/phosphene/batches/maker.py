"""The one function that makes a shard, whoever runs it: read ahead, compute, judge, audit, write."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import singledispatchmethod
from itertools import islice
from typing import Any

from phosphene.allocator import give_back_freed_memory
from phosphene.batches.masks import Mask, shares
from phosphene.batches.work import Made, Shard, Tell, Work
from phosphene.cancel import Cancel
from phosphene.errors import InputError, MissingExtraError, NotFoundError, OptionError, PhospheneError, printable
from phosphene.runtime import Prepared
from phosphene.sources import Entry, Item
from phosphene.sources.ahead import load_ahead
from phosphene.store import (
    ExplainRow,
    LocateRow,
    MapRow,
    ObjectRow,
    Record,
    Row,
    ShardCounts,
    records_of,
    shard_name,
    write_shard,
)
from phosphene.store.rows import as_array
from phosphene.targets import EachClass
from phosphene.tasks import LocateConfig


def quiet(_number: int, _counts: ShardCounts) -> None:
    """Tell nobody."""


class ShardMaker:
    """Makes any shard of a run, with one classifier.

    Args:
        work: what holds for the run.
        classifier: that work.model would load; None loads it, as in a process of its own. There as many threads read
            ahead as compute, and one, since other workers want the cores as well.
    """

    def __init__(self, work: Work, classifier: Prepared | None = None) -> None:
        self.work = work
        self.threads = None if classifier is not None or work.model.threads is None else work.model.threads + 1
        self.classifier = work.model.load() if classifier is None else classifier
        self._meant: dict[str, tuple[int, ...]] = {}
        self._has_worked = False
        located = work.masks is not None and work.masks.is_located
        self._locate = LocateConfig.of(is_drawn=False) if located else None

    def make(self, shard: Shard, tell: Tell = quiet, cancel: Cancel | None = None) -> Made:
        """Compute a shard and put it in its place.

        Args:
            shard: the pictures.
            tell: called after each batch.
            cancel: ends it between two batches; nothing is written then.

        Raises:
            OutputError: if it cannot be written.
        """
        begin, clock = time.perf_counter(), _Waiting()
        about = {"phosphene.kind": self.work.task.rows.kind, "phosphene.plan": self.work.plan}
        records = self._told(shard, tell, self._records(shard.entries, clock, cancel))
        counts = write_shard(self.work.place, shard_name(shard.number), records, self.work.format, about)
        give_back_freed_memory()
        return Made(shard.number, counts, time.perf_counter() - begin, clock.seconds)

    def try_out(self, shard: Shard, tell: Tell = quiet) -> None:
        """Compute a shard and write nothing: to see whether it can be computed at all."""
        for _ in self._told(shard, tell, self._records(shard.entries, _Waiting())):
            pass

    @property
    def pictures_at_once(self) -> int:
        """How many pictures go through the network together."""
        return self.work.task.pictures_at_once(self.classifier)

    def _told(self, shard: Shard, tell: Tell, batches: Iterable[list[Record]]) -> Iterator[Record]:
        done = ShardCounts()
        for records in batches:
            yield from records
            done += ShardCounts.of(records)
            tell(shard.number, done)

    def _records(
        self, entries: Sequence[Entry], waiting: _Waiting, cancel: Cancel | None = None
    ) -> Iterator[list[Record]]:
        """The records of each batch. Batches are cut from the shard: the same whenever and by whom it is made."""
        size = self.pictures_at_once
        # The next batch is read while this one is computed.
        window = 2 * size + 2 * (self.threads or 4)
        reading = self.classifier.preprocess.reading
        items = load_ahead(entries, threads=self.threads, window=window, cancel=cancel, **reading)
        for start in range(0, len(entries), size):
            with waiting:
                batch = list(islice(items, size))
            rows = self._rows(batch, start)
            masks = self._masks(batch, rows)
            yield [record for item, row in zip(batch, rows, strict=True) for record in self._of(row, masks[item.key])]

    def _rows(self, items: Sequence[Item], start: int) -> list[Row]:
        """A row for each item; where a batch cannot be computed its pictures one by one.

        Raises:
            Exception: if not one of several pictures can be computed, nor any before; that is not about pictures.
        """
        task, found = self.work.task, self.classifier
        try:
            rows = list(task.run(found, items, start=start, first=not self._has_worked))
        except (OptionError, MissingExtraError):
            raise  # the same for every picture
        except Exception as error:  # whatever a network makes of one picture costs that picture alone
            if len(items) == 1:
                broken = [replace(items[0], picture=None, error=_reason(items[0], error))]
                return list(task.run(found, broken, start=start))
            rows = [row for number, item in enumerate(items) for row in self._rows([item], start + number)]
            if not self._has_worked and all(_is_broken(row) for row in rows):
                raise
        self._has_worked = self._has_worked or not all(_is_broken(row) for row in rows)
        return rows

    def _of(self, row: Row, mask: Mask | dict[int | None, Mask] | str | None) -> list[Record]:
        """The records of a row, with what only who holds the classifier can say."""
        judged = self._judged(row)
        records = records_of(row, self.work.format)
        if isinstance(mask, str):
            return [record | judged | {"status": "error", "error": record["error"] or mask} for record in records]
        found = self._audited(row, mask)
        return [record | judged | share for record, share in zip(records, found or [{}] * len(records), strict=True)]

    def _judged(self, row: Any) -> dict[str, Any]:
        """The class that a label means, if it is one, and whether the best class is among those that it means."""
        meant = self._meant_by(row.label)
        correct = row.predicted[0].index in meant if meant and row.predicted else None
        return {"label_index": meant[0] if len(meant) == 1 else None, "correct": correct}

    def _meant_by(self, label: str | None) -> tuple[int, ...]:
        if label is None:
            return ()
        if label not in self._meant:
            self._meant[label] = meant_classes(self.classifier, label)
        return self._meant[label]

    def _masks(self, items: Sequence[Item], rows: Sequence[Row]) -> dict[str, Any]:
        """For each picture its mask, its objects' masks by class, why there is none, or None, by key."""
        masks = self.work.masks
        if masks is None:
            return dict.fromkeys(item.key for item in items)
        if self._locate is not None:
            return {item.key: self._located(item, row) for item, row in zip(items, rows, strict=True)}
        found: dict[str, Any] = {}
        for item in items:
            try:
                found[item.key] = masks.read(item)
            except InputError as error:
                found[item.key] = str(error)
        return found

    def _located(self, item: Item, row: Row) -> dict[int, Mask | None] | str | None:
        """The mask of each class that a row explains: `locate` averages views, and may see another one as the best."""
        maps = row.maps if isinstance(row, ExplainRow) else ()
        classes = tuple(dict.fromkeys(shown.target.index for shown in maps if shown.target.index is not None))
        if self._locate is None or not classes:
            return {}
        (found,) = replace(self._locate, classes=EachClass(classes)).run(self.classifier, [item])
        return found.error or {thing.index: as_mask(thing) for thing in found.objects}

    @singledispatchmethod
    def _audited(self, _row: Row, _mask: Any) -> list[dict[str, Any]]:
        """The shares of each record; none for rows without maps."""
        return []

    @_audited.register
    def _(self, row: ExplainRow, mask: Any) -> list[dict[str, Any]]:
        return [_map_shares(shown, mask) for shown in row.maps]

    @_audited.register
    def _(self, row: LocateRow, mask: Any) -> list[dict[str, Any]]:
        return [_object_shares(found, mask) for found in row.objects]


def _is_broken(row: Row) -> bool:
    return getattr(row, "status", "ok") == "error"


def _reason(item: Item, error: Exception) -> str:
    return (
        str(error)
        if isinstance(error, PhospheneError)
        else printable(f"{item.path}: {type(error).__name__}: {' '.join(str(error).split())}")
    )


def _map_shares(shown: MapRow, mask: Any) -> dict[str, Any]:
    own = mask.get(shown.target.index) if isinstance(mask, dict) else mask
    pixels, values = as_array(shown.evidence), as_array(shown.map)
    if own is None or values is None or shown.grid is None:
        return {}
    if pixels is not None:  # what is laid on the picture where that is not the map, one value a pixel
        return shares(pixels, own, replace(shown.grid, offset=(0.5, 0.5), stride=(1.0, 1.0)), shown.view)
    return shares(values, own, shown.grid, shown.view)


def _object_shares(found: ObjectRow, mask: Any) -> dict[str, Any]:
    own = as_mask(found) if mask is None or isinstance(mask, dict) else mask
    values = as_array(found.map)
    return {} if own is None or values is None else shares(values, own)


def as_mask(found: ObjectRow) -> Mask | None:
    """(H, W) the mask of an object."""
    values = as_array(found.mask)
    return None if values is None else values > 0


def find_class(classifier: Prepared, label: str) -> int | None:
    """The class that a label of a source means: an index, a WordNet id or a whole name; None if it means none."""
    try:
        return classifier.labels.find(label, part=False)
    except NotFoundError:
        return None


def meant_classes(classifier: Prepared, label: str) -> tuple[int, ...]:
    """The classes that a label means: one, or of a picture with several those of ``A|B``; none if any is unknown."""
    one = find_class(classifier, label)
    if one is not None or "|" not in label:
        return () if one is None else (one,)
    each = [find_class(classifier, part.strip()) for part in label.split("|")]
    return tuple(found for found in each if found is not None) if None not in each else ()


class _Waiting:
    """Seconds that were waited for pictures."""

    def __init__(self) -> None:
        self.seconds = self._since = 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *_error: object) -> None:
        self.seconds += time.perf_counter() - self._since
