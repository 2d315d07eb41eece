"""Compare: two networks or two methods on one picture, and how far they agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phosphene.errors import InputError
from phosphene.geometry import lay_on_original
from phosphene.images import picture_size
from phosphene.metrics.spearman import spearman
from phosphene.render.laid import fitted
from phosphene.store import Asset, ExplainRow, MapRow
from phosphene.tasks import ExplainConfig
from phosphene.web.asks import CompareAsk
from phosphene.web.desk import Desk
from phosphene.web.pictures import Chosen
from phosphene.web.views.frame import file_url, how_to, render, shown_map
from phosphene.web.worker import Job

# Maps are compared on a grid over the picture whose long side has so many cells.
_SIDE = 112


def compare(desk: Desk, ask: CompareAsk, chosen: Chosen, job: Job) -> Iterator[str]:
    """Both maps side by side, what each network says, and the agreement of the maps.

    Raises:
        PhospheneError: for what cannot be asked or computed.
    """
    ask = replace(ask, picture=chosen.name)
    sides: list[dict[str, Any]] = []
    rows: list[ExplainRow] = []
    for number, side in enumerate(ask.sides):
        job.progress(number, 2, f"Asking {'this' if number == 0 else 'the other'} side")
        classifier = desk.classifier(side.model)
        item = chosen.item(**classifier.preprocess.reading)
        (row,) = (
            ExplainConfig(side.specs, side.classes).checked(classifier).run(classifier, [item], progress=job.progress)
        )
        if row.status == "error":
            raise InputError(row.error or "no answer")
        rows.append(row)
        picture = file_url(desk.shelf, row.picture) or ""
        tile = shown_map(desk.shelf, row.maps[0], picture, chosen.name)
        sides.append({"model": classifier.name, "predicted": row.predicted, "map": tile, "target": row.maps[0].target})
    size = fitted(picture_size(item.picture), _SIDE)  # type: ignore[arg-type]
    laid = [_laid(row.maps[0], size) for row in rows]
    agreement = None if None in laid else float(spearman(laid[0][None], laid[1][None]))  # type: ignore[index]
    targets = {side["target"].index for side in sides}
    calls = how_to(ask, desk.first, [] if len(targets) > 1 else list(targets))
    yield render("compare", sides=sides, agreement=agreement, name=chosen.name, calls=calls, same=len(targets) == 1)


def _laid(row: MapRow, size: tuple[int, int]) -> Tensor | None:
    """The map on a grid over the picture; zero where the network saw nothing."""
    file = row.evidence or row.map
    if not isinstance(file, Asset) or row.grid is None or row.view is None:
        return None
    offset, stride = (row.grid.offset, row.grid.stride) if row.evidence is None else ((0.5, 0.5), (1.0, 1.0))
    return lay_on_original(torch.from_numpy(np.asarray(file.content)), offset, stride, row.view, size=size)
