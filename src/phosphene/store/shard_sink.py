"""Rows into Parquet shards: a shard is there when its file has its name, and is never touched again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from phosphene.errors import OptionError
from phosphene.files import is_file, join, remove
from phosphene.store.begin import begin, remove_partial_files, write_manifest
from phosphene.store.plan import Plan
from phosphene.store.rows import Row
from phosphene.store.shards import (
    SHARD_SCHEMA,
    UNFINISHED,
    MapType,
    Record,
    ShardFormat,
    arrow,
    done_in_shards,
    has_shards,
    read_shard,
    records_of,
    shard_name,
    shard_names,
    write_shard,
)
from phosphene.store.sink import Sink, register_sink


def in_shards(plan: Plan, format: ShardFormat, size: int) -> Plan:
    """The plan of a run that is kept in shards of so many pictures, which decide it too.

    Raises:
        OptionError: for shards of no picture.
    """
    if size < 1:
        raise OptionError(f"shards of {size} pictures; give 1 or more")
    cut = {"size": size, "maps": format.maps, "overlays": format.overlays, "columns": dict(format.columns)}
    return replace(plan, facts={**plan.facts, "shards": {**cut, "schema": SHARD_SCHEMA}})


@register_sink("shards")
class ShardSink(Sink):
    """A folder of Parquet shards beside manifest.json and plan.jsonl, on a disk or behind a URL.

    With a plan shard n holds the rows of its n-th `shard_size` keys, in their order, whatever the order they were
    written in; without keys, the rows as they came. Rows of shards that are not finished wait in memory: killed, the
    run loses them and no others. Ended early by `close` it keeps them aside for when the run is gone on with.

    Args:
        place: path or URL of the folder; None for a new one under ./phosphene-runs.
        plan: what the run is to do.
        overwrite: replace the run that is there.
        resume: go on with the run that is there.
        shard_size: pictures in a shard.
        maps: type that map values are kept with, "none", "float16" or "float32".
        overlays: whether overlays are kept, as JPEG in a column of their own.
        columns: the source's own columns with their types, as Source.column_types gives them.

    Raises:
        MissingExtraError: without pyarrow.

    Example:
        >>> import numpy as np
        >>> from phosphene.store import Asset, ExplainRow, MapRow, TargetRow
        >>> with ShardSink(str(tmp / "run"), Plan("explain", ("a.jpg",))) as sink:
        ...     map = MapRow("cam", TargetRow(281, "tabby"), map=Asset("cam.npy", np.eye(2)))
        ...     sink.write(ExplainRow("a.jpg", "photos/a.jpg", maps=(map,)))
        >>> from pyarrow import parquet
        >>> parquet.read_table(tmp / "run" / "part-00000.parquet")["map_shape"].to_pylist()
        [[2, 2]]
    """

    def __init__(
        self,
        place: str | None,
        plan: Plan,
        *,
        overwrite: bool = False,
        resume: bool = False,
        shard_size: int = 1000,
        maps: MapType = "float16",
        overlays: bool = False,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        arrow()
        self.format = ShardFormat(maps, overlays, columns or {})
        self.size = shard_size
        self.plan = in_shards(plan, self.format, shard_size)
        self.place, self._manifest = begin(place, self.plan, overwrite=overwrite, resume=resume)
        self._positions = {key: index for index, key in enumerate(plan.keys or ())}
        self._waiting: dict[int, dict[str, list[Record]]] = defaultdict(dict)
        self._kind = ""
        if resume:
            remove_partial_files(self.place)
        self._next = max(shard_names(self.place), default=-1) + 1
        if resume and has_shards(self.place):
            self._take_up_unfinished()
            self.done = done_in_shards(self.place, self._manifest, plan.keys)
        self._closed = False

    def write(self, row: Row) -> None:
        """Take a row; with the last one of its shard the shard is written.

        Raises:
            OptionError: for a row whose key is not in the plan, or of a kind that shards do not hold.
            OutputError: if the shard cannot be written.
        """
        if self.plan.keys is not None and row.key not in self._positions:
            raise OptionError(f"{row.key}: is not in the plan of {self.place}")
        self._kind = row.kind
        number = self._number(row.key)
        waiting = self._waiting[number]
        waiting[row.key] = records_of(row, self.format)
        if len(waiting) == self._count(number):
            self._finish(number)

    def close(self, *, complete: bool = True, **facts: Any) -> None:
        """Write what waits, and what is known now to the manifest."""
        if self._closed:
            return
        self._closed = True
        for number in sorted(self._waiting):
            if self.plan.keys is None and complete:
                self._finish(number)
            else:
                self._write(number, shard_name(number) + UNFINISHED)
        written = shard_names(self.place)
        expected = None if self.plan.keys is None else -(-len(self.plan.keys) // self.size)
        self._manifest |= facts
        self._manifest["complete"] = complete and expected in (None, len(written))
        self._manifest["shard_files"] = len(written)
        write_manifest(self.place, self._manifest)

    def _number(self, key: str) -> int:
        return self._next if self.plan.keys is None else self._positions[key] // self.size

    def _count(self, number: int) -> int:
        """How many pictures a shard has in the end."""
        return self.size if self.plan.keys is None else min(self.size, len(self.plan.keys) - number * self.size)

    def _finish(self, number: int) -> None:
        self._write(number, shard_name(number))
        remove(self.place, shard_name(number) + UNFINISHED)
        del self._waiting[number]
        self._next = max(self._next, number + 1)

    def _write(self, number: int, name: str) -> None:
        waiting = self._waiting[number]
        keys = sorted(waiting, key=self._positions.__getitem__) if self._positions else list(waiting)
        about = {"phosphene.kind": self._kind, "phosphene.plan": self.plan.digest}
        write_shard(self.place, name, (record for key in keys for record in waiting[key]), self.format, about)

    def _take_up_unfinished(self) -> None:
        """Rows that were kept aside when the run was ended early wait again."""
        total = self._next if self.plan.keys is None else -(-len(self.plan.keys) // self.size)
        for number in range(total + 1):
            name = shard_name(number) + UNFINISHED
            if not is_file(join(self.place, name)):
                continue
            if is_file(join(self.place, shard_name(number))):  # killed between finishing it and cleaning up
                remove(self.place, name)
                continue
            records, about = read_shard(self.place, name)
            self._kind = about.get("phosphene.kind", self._kind)
            for key, group in groupby(records, key=lambda record: record["key"]):
                self._waiting[number][key] = list(group)
