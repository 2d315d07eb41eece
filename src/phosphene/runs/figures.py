"""The run behind `phosphene figures`: the figures of papers, made and written down with what holds in them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from phosphene import figures as made
from phosphene.errors import PhospheneError
from phosphene.evaluation.ground_truth import Truth, read_truth
from phosphene.figures import Drawn, Figure, LeftOutError, Material
from phosphene.images import expand_paths
from phosphene.report import write_report
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.session import Session
from phosphene.runtime import Prepared, prepare
from phosphene.store import without_nan
from phosphene.zoo import load_classifier


def draw_figures(
    paper: str,
    common: CommonOptions,
    *,
    pooling: str | None = None,
    judge: str | None = None,
    pictures: Sequence[str] = (),
    class_folders: str | None = None,
    images: Sequence[str] = (),
    boxes: str | None = None,
    quick: bool = False,
) -> dict[str, Any]:
    """Make the figures of a paper, or of all: PNG files, figures.json and index.html in the run folder.

    A figure that fails is one with its error, and the others are made; one that needs what was not given is left out.

    Args:
        paper: name of a paper or of a figure ("sci-3"), or "all".
        common: the common options.
        pooling: spec of a network with max-pooling and plain ReLUs.
        judge: spec of a network that took no part.
        pictures: folders of pictures, or pictures, for the features of layers.
        class_folders: a folder with a folder of pictures per class.
        images: pictures with true boxes.
        boxes: the file of their boxes.
        quick: a twentieth of the steps.

    Returns:
        The JSON answer of the command: {"run", "index", "figures_json", "figures": [...]}.

    Raises:
        NotFoundError: for an unknown paper.
    """
    wanted = made.figures(paper)
    classifier = common.load()
    given: dict[str, Any] = {
        "pooling": None if pooling is None else _loaded(pooling, common),
        "judge": None if judge is None else _loaded(judge, common),
        "pictures": tuple(expand_paths(list(pictures))),
        "class_folders": None if class_folders is None else Path(class_folders),
        "truths": _truths(classifier, images, boxes),
        "seed": common.seed,
        "quick": quick,
        "announce": common.announce,
    }
    common = replace(common, report=common.report or "none")  # the index is the report
    session = Session.start("figures", common, classifier, paper=paper, quick=quick, pooling=pooling, judge=judge)
    rows: list[dict[str, Any]] = []
    try:
        with Material.of(classifier, **given) as material:
            for number, figure in enumerate(wanted):
                common.announce(number, len(wanted), f"{figure.paper} {figure.number}")
                rows.append(_row(session, figure, material))
                session.folder.save_json("figures.json", {"figures": rows})  # what is done is there if it is killed
    except KeyboardInterrupt:
        _finished(session, rows, complete=False)
        raise
    common.announce(len(wanted), len(wanted), "figures")
    return _finished(session, rows)


def _finished(session: Session, rows: list[dict[str, Any]], *, complete: bool = True) -> dict[str, Any]:
    session.folder.save_json("figures.json", {"figures": rows})
    answer = session.finish(complete=complete, figures=rows)
    index = write_report(session.folder.path, "pages", name="index.html")
    return {**answer, "index": str(index), "figures_json": str(session.folder.path / "figures.json")}


def _loaded(spec: str, common: CommonOptions) -> Prepared:
    return prepare(load_classifier(spec, device=common.device), precision=common.precision)


def _truths(classifier: Prepared, images: Sequence[str], boxes: str | None) -> tuple[Truth, ...]:
    if boxes is None:
        return ()
    return tuple(read_truth(boxes, expand_paths(list(images)), classifier.labels))


def _row(session: Session, figure: Figure, material: Material) -> dict[str, Any]:
    row: dict[str, Any] = {
        "paper": figure.paper,
        "number": figure.number,
        "title": figure.title,
        "claim": figure.claim,
        "command": figure.command,
    }
    begun = time.perf_counter()
    try:
        drawn: Drawn = figure.draw(material)
    except LeftOutError as error:
        return {**row, "status": "left out", "error": str(error), "verdict": None}
    except PhospheneError as error:
        return {**row, "status": "error", "error": str(error), "verdict": None}
    parts = {name: session.folder.save_image(f"{figure.name}-{name}.png", part) for name, part in drawn.parts.items()}
    return {
        **row,
        "status": "ok",
        "error": None,
        "verdict": drawn.verdict,
        "checks": {name: bool(holds) for name, holds in drawn.checks.items()},
        "facts": without_nan(drawn.facts),
        "picture": session.folder.save_image(f"{figure.name}.png", drawn.picture),
        "parts": parts,
        "seconds": time.perf_counter() - begun,
    }
