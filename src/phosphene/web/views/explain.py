"""Explain: why this class, and where, by several methods, each shown as soon as it is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from phosphene.errors import InputError, OptionError
from phosphene.render import contrast_labels
from phosphene.store import ExplainRow
from phosphene.tasks import ExplainConfig
from phosphene.web.asks import ExplainAsk
from phosphene.web.desk import Desk
from phosphene.web.pictures import Chosen
from phosphene.web.views.frame import file_url, how_to, render, shown_map
from phosphene.web.worker import Job

MAX_METHODS = 8
MAX_CLASSES = 5


def explain(desk: Desk, ask: ExplainAsk, chosen: Chosen, job: Job) -> Iterator[str]:
    """The maps of a picture, more after each method.

    Raises:
        PhospheneError: for what cannot be asked or computed.
    """
    classifier = desk.classifier(ask.model)
    item = chosen.item(**classifier.preprocess.reading)
    specs = ask.specs
    if ask.layer:
        classifier.layer_name(ask.layer)  # refuses one that there is not, before anything is computed
    if len(specs) > MAX_METHODS:
        raise OptionError(f"{len(specs)} methods; the page takes {MAX_METHODS} at once")
    if ask.classes.startswith("top") and ask.classes[3:].isdigit() and int(ask.classes[3:]) > MAX_CLASSES:
        raise OptionError(f"{ask.classes}: the page takes the {MAX_CLASSES} best at once; use the command for more")
    groups: list[dict[str, Any]] = []
    for number, spec in enumerate(specs):
        config = ExplainConfig((spec,), ask.classes, ask.versus or None, view=ask.view)  # type: ignore[arg-type]
        (row,) = config.checked(classifier).run(classifier, [item], progress=job.progress)
        if row.status == "error":
            raise InputError(row.error or "no answer")
        if not groups:
            picture = file_url(desk.shelf, row.picture) or ""
            groups = [{"target": shown.target, "maps": []} for shown in row.maps]
        for group, shown in zip(groups, row.maps, strict=True):
            parts = (*(shown.beside or ()), shown)
            about = contrast_labels(*(part.target.label for part in parts[:-1])) if shown.beside else ("",)
            group["maps"] += [
                shown_map(desk.shelf, part, picture, chosen.name, text) for part, text in zip(parts, about, strict=True)
            ]
        left = [str(later) for later in specs[number + 1 :]]
        yield _page(desk, replace(ask, picture=chosen.name), row, groups, picture, left)


def _page(
    desk: Desk, ask: ExplainAsk, row: ExplainRow, groups: list[dict[str, Any]], picture: str, left: list[str]
) -> str:
    targets = [group["target"].index for group in groups]
    versus = groups[0]["target"].versus
    calls = how_to(ask, desk.first, targets, None if versus is None else versus.index)
    return render(
        "explain", row=row, name=ask.picture, groups=groups, picture=picture, left=left, calls=calls, versus=versus
    )
