"""Audit: the pictures of a run, filtered and sorted, a page at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from phosphene.errors import reason
from phosphene.store import Asset
from phosphene.web.asks import AuditAsk
from phosphene.web.audited import Audited, Facts, page_of
from phosphene.web.desk import Desk
from phosphene.web.views.frame import how_to, render
from phosphene.web.worker import Job


def audit(desk: Desk, ask: AuditAsk, job: Job) -> Iterator[str]:
    """The pictures that fit, with what the network said and its first map.

    Raises:
        PhospheneError: for no run, or an order that there is not.
    """
    run = desk.run(ask.run)
    job.progress(0, 0, f"Reading {run.name}")
    chosen = run.chosen(ask.find, ask.show, ask.sort)
    here, page, pages = page_of(chosen, ask.page)
    cards = [_card(desk, run, facts, run.rows[facts.number]) for facts in here]
    ask = replace(ask, run=run.name, page=page)
    known = [row.is_right for row in run.facts if row.is_right is not None]
    yield render(
        "audit",
        cards=cards,
        count=len(chosen),
        total=len(run.facts),
        page=page,
        pages=pages,
        run=run,
        accuracy=sum(known) / len(known) if known else None,
        failed=sum(row.status == "error" for row in run.facts),
        cut=run.is_cut,
        calls=how_to(ask, desk.first),
    )


def _card(desk: Desk, run: Audited, facts: Facts, row: Any) -> dict[str, Any]:
    files = {"picture": getattr(row, "picture", None), "overlay": getattr(row, "overlay", None)}
    maps = [shown for shown in getattr(row, "maps", ()) if shown.overlay is not None]
    if maps:
        files["overlay"], files["raw"] = maps[0].overlay, maps[0].map
    kept: dict[str, Asset] = {what: run.content(file) for what, file in files.items() if file is not None}
    urls = desk.shelf.put({f"{what}-{PurePath(file.name).name}": file for what, file in kept.items()})
    named = {what: urls[f"{what}-{PurePath(file.name).name}"] for what, file in kept.items()}
    return {
        "facts": facts,
        "error": reason(row.error or "", facts.path),
        "name": PurePath(facts.path).name,
        "urls": named,
        "method": maps[0].method if maps else "",
        "target": maps[0].target.label if maps else "",
    }
