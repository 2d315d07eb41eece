"""The run behind `phosphene evaluate faithfulness`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phosphene.evaluation.faithfulness import Protocol, faithfulness
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.measurement import Measurement, files_told
from phosphene.runs.samples import chosen_files
from phosphene.targets import resolve_one


def measure_faithfulness(
    images: Sequence[str],
    methods: Sequence[str],
    common: CommonOptions,
    *,
    classes: str = "top1",
    protocol: Protocol = "coarse",
    measures: Sequence[str] = (),
    limit: int = 50,
    masks: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Insertion, deletion, average drop and increase of methods over pictures; a table, curves and a report.

    Returns:
        The JSON answer of the command: {"run", "report", "images", "rows", "baselines", "errors", "charts"}.
    """
    classifier = common.load()
    target = resolve_one(classes, classifier.labels)
    files = chosen_files(images, limit)
    with Measurement(
        "faithfulness", common, classifier, inputs=files, resume=resume, images=list(images), methods=list(methods),
        classes=classes, protocol=protocol, measures=list(measures), limit=limit, masks=masks, **files_told(files),
    ) as run:  # fmt: skip
        found = faithfulness(
            classifier,
            files,
            methods,
            target=target,
            protocol=protocol,
            measures=measures,
            masks=masks,
            seed=common.seed,
            keep=run.keep,
            progress=common.step,
        )
        charts = {kind: run.folder.save_image(f"{kind}.png", found.chart(kind)) for kind in ("deletion", "insertion")}
        return run.finish(
            images=found.images,
            rows=[one.row() for one in found.methods],
            baselines={one.method: one.row() for one in found.baselines},
            errors=[{"path": record.path, "error": record.error} for record in found.broken],
            charts=charts,
        )
