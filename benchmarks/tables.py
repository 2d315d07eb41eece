"""The results as a Markdown page."""

from __future__ import annotations

from typing import Any


def markdown(found: dict[str, Any]) -> str:
    """The whole result, for people."""
    machine = "\n".join(f"- {key}: {value}" for key, value in found["machine"].items())
    lines = ["# Side by side", "", machine, "", _table(found["rows"])]
    if found.get("windowed"):
        lines += [
            "",
            "## Exact windowed occlusion against plain batches of the same windows",
            "",
            _table(found["windowed"]),
        ]
    if found.get("roofline"):
        lines += ["", "## Roofline", "", *_roofline(found["roofline"])]
    if found.get("curves"):
        lines += ["", "## Cost as it grows", "", "![images, side, windows, batch](curves.png)"]
    lines += ["", "Times are milliseconds per unit, medians of runs in turn; ratio is the median of the pairs, its"]
    lines += ["smallest and largest beside it. Each side runs in a process of its own. Errors are max|a-b|/max|b|, the"]
    lines += ["largest over the images; the rank correlation of `exact` is with the peer, of `fast` with `exact`."]
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "(nothing measured)"
    keys = list(rows[0])
    body = [[_cell(row[key]) for key in keys] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [keys, ["---"] * len(keys), *body])


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _roofline(found: dict[str, Any]) -> list[str]:
    plain = [f"- {key}: {_cell(value)}" for key, value in found.items() if not isinstance(value, dict)]
    nested = [
        f"- {key}: " + ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
        for key, value in found.items()
        if isinstance(value, dict)
    ]
    return [*plain, *nested]
