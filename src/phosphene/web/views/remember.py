"""Remember: what the network keeps of classes, drawn while one looks on."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from typing import Any

from phosphene.errors import CancelledError, OptionError, ResourceError
from phosphene.images import to_pil
from phosphene.store import Asset, ImpressionRow, asset_bytes
from phosphene.synthesis.ascent import Step
from phosphene.tasks import ImpressConfig, Progress
from phosphene.tasks.impressions import Job as Drawing
from phosphene.tasks.impressions import Watch
from phosphene.web.asks import RememberAsk
from phosphene.web.desk import Desk
from phosphene.web.views.frame import file_url, how_to, render
from phosphene.web.worker import Job

MAX_CLASSES = 4
MAX_STEPS = 600
_SECONDS_BETWEEN = 0.4


def remember(desk: Desk, ask: RememberAsk, job: Job) -> Iterator[str]:
    """The images on their way, several times a second, then what the network reads in them; stopped, what there is.

    Raises:
        PhospheneError: for what cannot be asked.
    """
    classifier = desk.classifier(ask.model)
    if not ask.classes or len(ask.classes) > MAX_CLASSES:
        raise OptionError(f"choose one to {MAX_CLASSES} classes")
    if ask.fuse and len(ask.classes) < 2:
        raise OptionError("choose two classes or more to fuse")
    if not 0 <= ask.steps <= MAX_STEPS:
        raise OptionError(f"{ask.steps} steps; the page takes up to {MAX_STEPS}, the command any number")
    config = ImpressConfig(
        ask.classes, None, ask.spec, ask.preset or None, ask.steps or None, fused=ask.fuse, seed=ask.seed
    )
    drawings = config.jobs(classifier)
    names = [" + ".join(classifier.labels[index] for index in drawing.target.classes) for drawing in drawings]
    rows: list[ImpressionRow] = []
    try:
        # One by one: what was drawn before a stop is kept.
        for row in config.run(classifier, drawings, progress=_stoppable(job), watch=_live(job, names)):
            rows.append(row)  # noqa: PERF402
    except CancelledError:
        if not rows:
            raise
    yield _page(desk, ask, rows, drawings)


def _stoppable(job: Job) -> Progress:
    """The job's progress, which ends the drawing, with what there is, also when its time is over."""

    def progress(done: int, total: int, text: str) -> None:
        try:
            job.progress(done, total, f"Step {done} of {total}: {text}")
        except ResourceError as error:
            raise CancelledError(str(error)) from None

    return progress


def _live(job: Job, names: Sequence[str]) -> Watch:
    """Shows the images as they are, now and then."""
    shown = 0.0

    def watch(step: Step) -> None:
        nonlocal shown
        if time.monotonic() - shown >= _SECONDS_BETWEEN:
            shown = time.monotonic()
            pictures = [Asset("live.jpg", to_pil(image), {"quality": 80}) for image in step.images]
            inline = [f"data:image/jpeg;base64,{base64.b64encode(asset_bytes(one)).decode()}" for one in pictures]
            job.tell(value=render("growing", images=list(zip(inline, names, strict=True)), step=step))

    return watch


def _page(desk: Desk, ask: RememberAsk, rows: Sequence[ImpressionRow], drawings: Sequence[Drawing]) -> str:
    targets = list(dict.fromkeys(index for drawing in drawings for index in drawing.target.classes))
    made: list[dict[str, Any]] = [
        {
            "row": row,
            "name": " + ".join(share.label for share in row.classes),
            "image": file_url(desk.shelf, row.image),
            "strip": file_url(desk.shelf, row.strip),
        }
        for row in rows
    ]
    return render("remember", made=made, calls=how_to(ask, desk.first, targets))
