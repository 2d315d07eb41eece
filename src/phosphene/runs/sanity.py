"""The run behind `phosphene evaluate sanity`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from phosphene.evaluation.sanity import MODES, Mode, Protocol, Sanity, SanityChecks, sanity
from phosphene.images import to_pil
from phosphene.registry import entry, parse_spec
from phosphene.render import heat_layer, overlay, scale_of, side_by_side
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.measurement import Measurement, files_told
from phosphene.runs.samples import chosen_files
from phosphene.store import file_stem
from phosphene.targets import resolve_one

# Maps shown of each cascade, the true one aside.
_SHOWN = 6


def check_sanity(
    images: Sequence[str],
    methods: Sequence[str],
    common: CommonOptions,
    *,
    modes: Sequence[Mode] = MODES,
    protocol: Protocol = "blocks",
    classes: str = "top1",
    limit: int = 50,
    masks: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Parameter randomization of methods over pictures; likeness per stage, a verdict each, and a report.

    Returns:
        The JSON answer of the command: {"run", "report", "images", "stages", "rows", "errors", "charts"}.
    """
    classifier = common.load()
    target = resolve_one(classes, classifier.labels)
    files = chosen_files(images, limit)
    with Measurement(
        "sanity", common, classifier, inputs=files, resume=resume, images=list(images), methods=list(methods),
        modes=list(modes), protocol=protocol, classes=classes, limit=limit, masks=masks, **files_told(files),
    ) as run:  # fmt: skip
        found = sanity(
            classifier,
            files,
            methods,
            modes=modes,
            protocol=protocol,
            target=target,
            masks=masks,
            seed=common.seed,
            keep=run.keep,
            progress=common.step,
        )
        names = [stage.name for stage in found.stages]
        charts = {mode: run.folder.save_image(f"{mode}.png", found.chart(mode)) for mode in modes}
        rows = [_row(one) | {"pictures": _strip(run, found, one)} for one in found.methods]
        return run.finish(
            images=found.images,
            stages=names,
            rows=rows,
            errors=[{"path": record.path, "error": record.error} for record in found.broken],
            charts=charts,
        )


def _row(one: Sanity) -> dict[str, Any]:
    return {
        "method": one.method,
        "error": one.error,
        "verdict": one.verdict,
        "chance": one.chance.row(),
        "modes": {
            mode: [{"stage": name, **likeness.row()} for name, likeness in stages.items()]
            for mode, stages in one.stages.items()
        },
        "seconds_per_image": one.seconds,
    }


def _strip(run: Measurement, found: SanityChecks, one: Sanity) -> Any:
    """The first picture's maps along the cascade, each on its own scale."""
    if len(one.examples) < 2:
        return None
    picture = to_pil(found.example)
    display = entry("attribution", parse_spec(one.method).name).display
    steps = (
        torch.linspace(0, len(one.examples) - 1, min(_SHOWN + 1, len(one.examples)), device="cpu")
        .round()
        .int()
        .tolist()
    )
    tiles: list[Image.Image] = []
    for step in steps:
        values = one.examples[step]
        tiles.append(overlay(picture, heat_layer(values, scale_of(values, display))))
    labels = ["intact" if step == 0 else f"down to {found.stages[step - 1].name}" for step in steps]
    return run.folder.save_image(f"{file_stem(one.method)}.jpg", side_by_side(tiles, labels, height=180), quality=88)
