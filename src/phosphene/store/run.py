"""open_run: what a run folder holds, whether it was finished, killed, made in shards, or by an older version."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from phosphene.errors import InputError
from phosphene.files import is_file, is_url, join, names_in
from phosphene.path_match import numbered
from phosphene.store.begin import read_plan, read_raw_manifest
from phosphene.store.folder_sink import read_rows
from phosphene.store.row_json import row_from_json, row_to_json
from phosphene.store.rows import ROW_KINDS, Row
from phosphene.store.run_folder import ROWS
from phosphene.store.shards import done_in_shards, has_shards, rows_in_shards


@dataclass(frozen=True)
class Run:
    """A run as it is now. What it is to do, what is done and what is missing are told by keys.

    Args:
        place: path or URL of its folder.
        manifest: how it was made; `plan` in it says how many rows there are to be.
    """

    place: str
    manifest: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Run({self.place}: {self.command}, {'complete' if self.is_complete else 'not complete'})"

    @property
    def command(self) -> str:
        """What made it."""
        return str(self.manifest["command"])

    @property
    def listing(self) -> str | None:
        """The key under which `answer` lists the rows; None for a run that has none."""
        kind = _kind_of(self.command)
        return ROW_KINDS[kind].listing if kind in ROW_KINDS else None

    @property
    def is_complete(self) -> bool:
        """Whether it was ended with every row there."""
        return self.manifest.get("complete") is True

    @cached_property
    def planned(self) -> tuple[str, ...] | None:
        """The keys of all rows that it is to have; None if that was not known before."""
        return read_plan(self.place)

    @cached_property
    def done(self) -> frozenset[str]:
        """The keys of the rows that are there."""
        if has_shards(self.place):
            return done_in_shards(self.place, self.manifest, self.planned)
        return frozenset(row.key for row in self)

    @property
    def missing(self) -> tuple[str, ...] | None:
        """The keys that are planned and not there, in the order of the plan; None if no plan says."""
        return None if self.planned is None else tuple(key for key in self.planned if key not in self.done)

    @property
    def failed(self) -> tuple[str, ...]:
        """The keys of the rows that hold an error."""
        return tuple(row.key for row in self if getattr(row, "status", "ok") == "error")

    def __iter__(self) -> Iterator[Row]:
        """The rows as they were written, one at a time in memory."""
        if has_shards(self.place):
            return rows_in_shards(self.place)
        if is_file(join(self.place, ROWS)) or "plan" in self.manifest:
            return read_rows(self.place)
        return _rows_of_manifest(self.manifest)

    def rows(self) -> list[Row]:
        """All rows in the order of the plan; of a key that was written twice the later one."""
        latest = {row.key: row for row in self}
        if self.planned is None:
            return list(latest.values())
        return [latest[key] for key in self.planned if key in latest]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files in the run's folder and below, sorted; those being written left out."""
        return tuple(_files(self.place, ""))

    def path(self, name: str | os.PathLike[str]) -> str:
        """Where a file of the run lies.

        Raises:
            InputError: for a name that leads out of the run, as a manifest from elsewhere may hold.
        """
        name = os.fspath(name)
        if is_url(name) or Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{name}: is not in the run {self.place}")
        return join(self.place, name)

    def answer(self) -> dict[str, Any]:
        """Manifest and rows in one, the rows listed by the key of their kind: images, impressions, layers."""
        listed: dict[str, list[dict[str, Any]]] = defaultdict(list)
        if self.listing is not None:
            listed[self.listing] = []
        for row in (row for row in self.rows() if row.listing):
            shown = row_to_json(row)
            del shown["kind"]
            listed[row.listing].append(shown)
        return {**self.manifest, **{name: rows for name, rows in listed.items() if rows or name not in self.manifest}}


def open_run(place: str | os.PathLike[str]) -> Run:
    """The run in a folder, finished or not.

    Args:
        place: path or URL of the folder.

    Raises:
        InputError: if the folder is no run, or was made by a newer phosphene.

    Example:
        >>> from phosphene.store import MemorySink, Plan, PredictRow, open_sink
        >>> with open_sink("folder", str(tmp / "run"), Plan("predict", ("a.jpg", "b.jpg"))) as sink:
        ...     sink.write(PredictRow("a.jpg", "photos/a.jpg"))
        >>> run = open_run(tmp / "run")
        >>> run.is_complete, sorted(run.done), run.missing
        (False, ['a.jpg'], ('b.jpg',))
    """
    place = os.fspath(place)
    return Run(place, read_raw_manifest(place))


def read_manifest(place: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a run with its rows in it, as reports read it.

    Raises:
        InputError: if the folder is no run, or was made by a newer phosphene.
    """
    run = open_run(place)
    return dict(run.manifest) if "plan" not in run.manifest else run.answer()


def _rows_of_manifest(manifest: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a run that was written at its end, all in the manifest."""
    kind = _kind_of(manifest["command"])
    if kind not in ROW_KINDS:
        return
    listed = manifest.get(ROW_KINDS[kind].listing, ())
    keys = numbered(str(row.get("path") or row.get("image") or row.get("layer")) for row in listed)
    for key, row in zip(keys, listed, strict=True):
        yield row_from_json({"kind": kind, "key": key, **row})


def _kind_of(command: str) -> str:
    """The kind of rows that a command makes."""
    return "impress" if command == "fuse" else command


def _files(folder: str, prefix: str) -> Iterator[str]:
    for name, is_dir in names_in(folder):
        if is_dir:
            yield from _files(join(folder, name), f"{prefix}{name}/")
        elif not name.endswith(".partial"):
            yield prefix + name
