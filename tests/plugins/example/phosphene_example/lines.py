"""A sink: a line for each row in a text file, its key and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phosphene.store import Plan, Row, Sink, register_sink


@register_sink("lines")
class Lines(Sink):
    """Lines of a file, written as they come."""

    def __init__(self, place: str, plan: Plan, *, overwrite: bool = False, resume: bool = False) -> None:
        self.file = Path(place)
        before = self.file.read_text().splitlines() if resume and self.file.exists() else []
        self.done = frozenset(line.split("\t")[0] for line in before)
        self.file.write_text("".join(f"{line}\n" for line in before))

    def write(self, row: Row) -> None:
        with self.file.open("a") as file:
            file.write(f"{row.key}\t{getattr(row, 'status', 'ok')}\n")

    def close(self, *, complete: bool = True, **_facts: Any) -> None:
        with self.file.open("a") as file:
            file.write("" if complete else "stopped\n")
