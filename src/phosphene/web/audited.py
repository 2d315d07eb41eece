"""A run that is looked through: its rows with what one filters and sorts by."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from phosphene.errors import InputError, NotFoundError, OptionError, printable
from phosphene.files import read_file
from phosphene.labels import Labels
from phosphene.store import Asset, File, Row, Run, map_files, open_run

# Rows are kept in memory while the page is open; those of shards have their pictures with them.
MAX_ROWS = 50_000
MAX_BYTES = 400_000_000

SHOWN: dict[str, str] = {"all": "all", "right": "right", "wrong": "wrong", "error": "failed"}
_KINDS = ("explain", "predict", "locate")


@dataclass(frozen=True)
class Facts:
    """What one filters and sorts by, of one row.

    Args:
        number: in the order of the run.
        path: of the picture, as it was given.
        status: "ok" or "error".
        best: name of the best class, "" if there is none.
        probability: of the best class.
        margin: to the second.
        label: the true class, by name where the classifier knows it; "" where the source tells none.
        is_right: whether the best class is the true one; None where nobody says.
    """

    number: int
    path: str
    status: str
    best: str = ""
    probability: float = 0.0
    margin: float = 0.0
    label: str = ""
    is_right: bool | None = None


SORTS: dict[str, tuple[str, Callable[[Facts], Any]]] = {
    "order": ("as in the run", lambda row: row.number),
    "unsure": ("least sure first", lambda row: row.probability),
    "sure": ("surest first", lambda row: -row.probability),
    "margin": ("closest call first", lambda row: row.margin),
    "class": ("by best class", lambda row: (row.best, -row.probability)),
    "name": ("by name", lambda row: row.path),
}


@dataclass(frozen=True)
class Audited:
    """A run of explain, predict or locate, and the names of its classes.

    Args:
        run: as it is opened.
        labels: of the classifier that the page has, to compare true classes with.
    """

    run: Run
    labels: Labels

    @classmethod
    def of(cls, place: str, labels: Labels) -> Audited:
        """The run in a folder.

        Raises:
            InputError: if it is none, or of a kind without pictures.
        """
        run = open_run(place)
        if run.command not in _KINDS:
            raise InputError(f"{place}: a run of '{run.command}'; --run takes runs of {', '.join(_KINDS)}")
        return cls(run, labels)

    @property
    def name(self) -> str:
        """What it is called: the name of its folder."""
        return printable(Path(self.run.place.rstrip("/")).name) or "run"

    @cached_property
    def rows(self) -> list[Row]:
        """The rows in the order of the run, as many as there is room for: MAX_ROWS, MAX_BYTES of pictures."""
        with _LOADING:
            latest: dict[str, Row] = {}
            used = 0
            for row in self.run:
                used += _bytes_of(row)
                if used > MAX_BYTES or len(latest) >= MAX_ROWS:
                    break
                latest[row.key] = row
            order = {key: place for place, key in enumerate(self.run.planned or ())}
            return sorted(latest.values(), key=lambda row: order.get(row.key, len(order)))

    @property
    def is_cut(self) -> bool:
        """Whether there are more rows than there is room for."""
        return len(self.rows) < len(self.run.done)

    @cached_property
    def facts(self) -> list[Facts]:
        """What one filters and sorts by, a line for each row."""
        return [self._facts(number, row) for number, row in enumerate(self.rows)]

    def chosen(self, find: str = "", show: str = "all", sort: str = "order") -> list[Facts]:
        """The rows that fit, in an order.

        Args:
            find: part of a path or of a class's name; upper and lower case are the same.
            show: a key of SHOWN.
            sort: a key of SORTS.

        Raises:
            OptionError: for a key that there is not.
        """
        if show not in SHOWN or sort not in SORTS:
            raise OptionError(f"show={show[:30]}, sort={sort[:30]}: choose {', '.join(SHOWN)} and {', '.join(SORTS)}")
        text = find.casefold().strip()
        fits = [
            row
            for row in self.facts
            if _shown(row, show)
            and (not text or any(text in part.casefold() for part in (row.path, row.best, row.label)))
        ]
        return sorted(fits, key=SORTS[sort][1])

    def content(self, file: File) -> Asset:
        """A file of the run with its bytes.

        Raises:
            InputError: for a name that leads out of the run.
        """
        if isinstance(file, Asset):
            return file
        return Asset(file.name, read_file(self.run.path(file)))

    def _facts(self, number: int, row: Any) -> Facts:
        best = list(row.predicted or ())
        if not best:
            best = list(getattr(row, "objects", ()))
        label = str(row.label) if row.label is not None else ""
        if row.status == "error" or not best:
            return Facts(number, row.path, row.status, label=label)
        margin = best[0].probability - best[1].probability if len(best) > 1 else best[0].probability
        label, right = self._truth(label, best[0].index, best[0].label)
        return Facts(number, row.path, row.status, best[0].label, best[0].probability, margin, label, right)

    def _truth(self, label: str, index: int, name: str) -> tuple[str, bool | None]:
        """The true class by name, and whether it is the best one; None where nobody says."""
        if not label:
            return "", None
        try:
            found = self.labels.find(label, part=False)
        except NotFoundError:
            return label, label in (name, str(index)) or None
        return self.labels[found], found == index


def _bytes_of(row: Row) -> int:
    """The bytes that a row holds itself, in files that are not on a disk."""
    sizes: list[int] = []

    def weigh(file: File) -> File:
        if isinstance(file, Asset):
            text = isinstance(file.content, str | bytes)
            sizes.append(len(file.content) if text else np.asarray(file.content).nbytes)  # type: ignore[arg-type]
        return file

    map_files(row, weigh)
    return sum(sizes)


def _shown(row: Facts, show: str) -> bool:
    return {
        "all": True,
        "error": row.status == "error",
        "right": row.is_right is True,
        "wrong": row.is_right is False,
    }[show]


def page_of(rows: Sequence[Facts], page: int, size: int = 24) -> tuple[Sequence[Facts], int, int]:
    """(the rows of a page, its number, how many pages there are); a number beyond the last is the last.

    Example:
        >>> page_of(range(50), 9)
        (range(48, 50), 3, 3)
    """
    pages = max(1, -(-len(rows) // size))
    page = min(max(1, page), pages)
    return rows[(page - 1) * size : page * size], page, pages


_LOADING = threading.Lock()
