"""A process that writes a run and can be killed at any moment: python -m tests.store.writing KIND DIR COUNT."""

from __future__ import annotations

import sys

from phosphene.store import open_sink
from tests.store.rows import COLUMN_TYPES, explain_row, plan_of


def write(kind: str, place: str, count: int) -> None:
    options = {"shard_size": 20, "maps": "float32", "columns": COLUMN_TYPES} if kind == "shards" else {}
    plan = plan_of(count)
    with open_sink(kind, place, plan, resume=True, **options) as sink:
        print("ready", flush=True)
        for key in plan.keys or ():
            if key not in sink.done:
                sink.write(explain_row(key))


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], int(sys.argv[3]))
