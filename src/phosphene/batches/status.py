"""How far a run in shards is: from its manifest and the last kilobytes of its shards."""

from __future__ import annotations

import os
from typing import Any

from phosphene.errors import InputError
from phosphene.store import ShardCounts, is_locked, open_run, shard_counts, shard_names


def batch_status(place: str | os.PathLike[str]) -> dict[str, Any]:
    """What is done of a run, and whether it is under way, was stopped, or is complete.

    Args:
        place: folder or URL of the run.

    Returns:
        {"run", "command", "state", "complete", "pictures", "planned", "rows", "ok", "failed", "shards",
        "planned_shards", "damaged"}: pictures and rows are those of the finished shards; the state is "under way",
        "stopped" or "complete", or None of a run that is not complete where nobody can tell, as behind a URL.

    Raises:
        InputError: if it is no run in shards.
    """
    run = open_run(place)
    shards = run.manifest.get("shards")
    if shards is None:
        raise InputError(f"{place}: is no run in shards; 'phosphene report' shows it")
    planned = run.manifest["plan"]["count"]
    counts, damaged, names = ShardCounts(), [], shard_names(run.place)
    for name in names.values():
        try:
            counts += shard_counts(run.place, name)
        except InputError:
            damaged.append(name)
    complete = counts.pictures == planned
    return {
        "run": run.place,
        "command": run.command,
        "state": _state(is_locked(run.place), complete),
        "complete": complete,
        "pictures": counts.pictures,
        "planned": planned,
        "rows": counts.rows,
        "ok": counts.rows - counts.failed,
        "failed": counts.failed,
        "shards": len(names) - len(damaged),
        "planned_shards": None if planned is None else -(-planned // shards["size"]),
        "damaged": damaged,
    }


def _state(is_locked: bool | None, complete: bool) -> str | None:
    if is_locked:
        return "under way"
    return "complete" if complete else None if is_locked is None else "stopped"
