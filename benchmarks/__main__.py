"""python -m benchmarks [--only WORK] [--rounds N] [--quick] [--json] [--save]: measure, print, keep."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.compare import as_json, compare
from benchmarks.machine import describe
from benchmarks.merge import merged
from benchmarks.tables import markdown

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """The whole run; 0 if every work could be measured."""
    from benchmarks.works import WORKS

    names = [work.name for work in WORKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", metavar="WORK", choices=[*names, "windowed", "roofline", "curves"],
                        help=f"one of {', '.join(names)}, windowed, roofline, curves; may be repeated")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="how often each side runs in turn (default 5)")
    parser.add_argument("--quick", action="store_true", help="a fraction of the work: to see that everything runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--save",
        action="store_true",
        help="also keep in benchmarks/results/, beside what earlier runs measured on this machine",
    )
    chosen = parser.parse_args()
    found, failures = measure(chosen.only, chosen.rounds, chosen.save, chosen.quick)
    print(json.dumps(found, indent=1) if chosen.json else markdown(found))
    if chosen.save:
        keep(found, names)
    return 1 if failures else 0


def keep(found: dict[str, Any], names: list[str]) -> None:
    """Write results.json and results.md."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "results.json"
    kept = merged(json.loads(path.read_text(encoding="utf-8")) if path.exists() else None, found, names)
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(kept), encoding="utf-8")


def measure(only: list[str] | None, rounds: int, save: bool, quick: bool) -> tuple[dict[str, Any], int]:
    """(everything measured, how many works failed)."""
    from benchmarks.works import WORKS

    rows: list[dict[str, Any]] = []
    batches: dict[str, int] = {}
    found: dict[str, Any] = {"machine": describe(), "rows": rows}
    failures = 0
    for work in WORKS:
        if only and work.name not in only:
            continue
        if quick:
            work = replace(work, count=work.probe, batches=work.batches[:1], batch_of=None)
        try:
            rows += [as_json(row) for row in compare(work, rounds, batches, say)]
        except RuntimeError as error:
            failures += 1
            say(f"{work.name} could not be measured: {error}")
            found.setdefault("failed", {})[work.name] = str(error)
    if not only or "windowed" in only:
        from benchmarks.windowed import windowed

        found["windowed"] = windowed(rounds, say)
    if not only or "roofline" in only:
        from benchmarks.roofline import roofline

        found["roofline"] = roofline()
    if (only and "curves" in only) or (not only and save):
        from benchmarks.curves import draw

        found["curves"] = draw(RESULTS, say)
    return found, failures


def say(line: str) -> None:
    """Progress, beside what is printed for machines."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
