"""Rows kept in memory, with their arrays and pictures: for Python and for the page."""

from __future__ import annotations

from typing import Any

from phosphene.store.plan import Plan
from phosphene.store.rows import Row
from phosphene.store.sink import Sink, register_sink


@register_sink("memory")
class MemorySink(Sink):
    """A list of rows; their files stay the assets that they are.

    Example:
        >>> from phosphene.store import PredictRow
        >>> with MemorySink() as sink:
        ...     sink.write(PredictRow("a.jpg", "photos/a.jpg"))
        >>> [row.key for row in sink.rows], sink.complete
        (['a.jpg'], True)
    """

    def __init__(
        self, place: str | None = None, plan: Plan | None = None, *, overwrite: bool = False, resume: bool = False
    ) -> None:
        self.rows: list[Row] = []
        self.facts: dict[str, Any] = {}
        self.complete = False

    def write(self, row: Row) -> None:
        """Keep the row."""
        self.rows.append(row)

    def close(self, *, complete: bool = True, **facts: Any) -> None:
        """Keep the facts."""
        self.complete = complete
        self.facts |= facts
