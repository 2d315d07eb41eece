"""The tables of docs/zoo.md between their marks: where they are written, how they are read, and the peers they name."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
PEERS = PAGE.with_name("peers.md")
END = "<!-- end of what was measured -->"


def begin(part: str) -> str:
    """The mark before what is measured of a task, or of the default layers."""
    return f"<!-- measured: python -m tests.zoo.table {part} -->"


def measured(part: str) -> str:
    """What stands between the marks of a part."""
    return PAGE.read_text(encoding="utf-8").partition(begin(part))[2].partition(END)[0]


def replace(part: str, lines: list[str]) -> None:
    """Write what stands between the marks of a part."""
    before, mark, rest = PAGE.read_text(encoding="utf-8").partition(begin(part))
    if not mark:
        raise SystemExit(f"{PAGE.name} has no mark for {part}: {begin(part)}")
    text = "\n".join([f"{before}{mark}", "", *lines, "", f"{END}{rest.partition(END)[2]}"])
    PAGE.write_text(text, encoding="utf-8")


def rows(task: str) -> dict[str, dict[str, str]]:
    """By method and column what a task's table says; none before it was measured."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in measured(task).splitlines() if "|" in line
    ]
    found = {}
    for line in lines[2:]:
        name = re.search(r"`([\w:]+)`", line[0])
        assert name is not None, f"no method in {line}"
        found[name.group(1)] = dict(zip(lines[0][1:], line[1:], strict=True))
    return found


def equal_to(method: str, task: str) -> str:
    """The libraries that docs/peers.md names beside a method, on networks of a task."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in PEERS.read_text("utf-8").splitlines()]
    named = (cells[2] for cells in lines if len(cells) == 5 and f"`{method}`" in cells[0] and cells[1] == task)
    return ", ".join(dict.fromkeys(name for cell in named for name in cell.split(", ")))
