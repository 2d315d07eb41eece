"""Several sources one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import tee
from typing import Any

from phosphene.path_match import numbered
from phosphene.sources.item import Entry
from phosphene.sources.source import ColumnType, Source


class Joined(Source):
    """The pictures of several sources, in order; what each is called stands before its keys.

    Args:
        parts: (prefix of the keys, source) of each; an empty prefix leaves the keys as they are.

    Example:
        >>> from phosphene.sources import Files
        >>> Joined([("", Files("a.jpg")), ("more/", Files("a.jpg"))]).keys()
        ['a.jpg', 'more/a.jpg']
    """

    def __init__(self, parts: Sequence[tuple[str, Source]]) -> None:
        self.parts = tuple(parts)

    @property
    def column_types(self) -> Mapping[str, ColumnType]:
        """Those of all parts; a column that two of them type differently is text."""
        types: dict[str, ColumnType] = {}
        for _, source in self.parts:
            for name, kind in source.column_types.items():
                types[name] = kind if types.get(name, kind) == kind else "string"
        return types

    def entries(self) -> Iterator[Entry]:
        """The entries of all parts, each with the columns of all."""
        types = self.column_types
        found, again = tee((prefix + entry.key, entry) for prefix, source in self.parts for entry in source.entries())
        for key, (_, entry) in zip(numbered(key for key, _ in again), found, strict=True):
            columns = {name: _typed(entry.columns.get(name), kind) for name, kind in types.items()}
            yield replace(entry, key=key, columns=columns)


def _typed(value: Any, kind: ColumnType) -> Any:
    return value if value is None or kind != "string" else str(value)
