"""What a run measured joins what earlier ones did on the same machine, so that a work can be measured alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Found = dict[str, Any]


def merged(old: Found | None, new: Found, order: Sequence[str]) -> Found:
    """The new results, and of the old ones what was not measured again; those of another machine are dropped.

    Args:
        old: {"machine", "rows", "windowed", "roofline", ...} or None.
        new: likewise.
        order: names of the works, as their rows shall stand.
    """
    if old is None or old["machine"] != new["machine"]:
        return new
    again = {row["work"] for row in new["rows"]}
    rows = [row for row in old["rows"] if row["work"] not in again] + new["rows"]
    rows.sort(key=lambda row: order.index(row["work"]) if row["work"] in order else len(order))
    failed = {
        work: why for work, why in {**old.get("failed", {}), **new.get("failed", {})}.items() if work not in again
    }
    found = {**old, **new, "rows": rows, "failed": failed}
    return {key: value for key, value in found.items() if key != "failed" or value}
