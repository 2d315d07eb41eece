"""The run behind `phosphene evaluate craft`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from safetensors.numpy import save

from phosphene.evaluation.craft import craft
from phosphene.evaluation.craft_options import CraftOptions
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.measurement import Measurement, files_told
from phosphene.runs.samples import chosen_files
from phosphene.targets import TargetLike, resolve_one


def find_concepts(
    images: Sequence[str],
    common: CommonOptions,
    *,
    target: TargetLike,
    layer: str | None = None,
    limit: int = 50,
    resume: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Concepts found in pictures; importances, crops and maps that show them, directions and a report.

    Args:
        images: files and folders of the class's pictures.
        common: the common options.
        target: the class, or another target.
        layer: where; None finds one.
        limit: how many pictures, 0 for all.
        resume: go on with the run in --out.
        **options: those of CraftOptions.

    Returns:
        The JSON answer of the command: {"run", "report", "images", "target", "layer", "crops", "left_over", "score",
        "rebuilt_score", "unmoved", "notes", "rows", "errors", "charts", "vectors"}.
    """
    chosen = CraftOptions.of(**options)
    files = chosen_files(images, limit)
    classifier = common.load()
    resolve_one(target, classifier.labels)
    with Measurement(
        "craft", common, classifier, inputs=files, resume=resume, images=list(images), target=str(target), layer=layer,
        limit=limit, **asdict(chosen), **files_told(files),
    ) as run:  # fmt: skip
        found = craft(
            classifier,
            files,
            target=target,
            layer=layer,
            seed=common.seed,
            keep=run.keep,
            progress=common.step,
            **asdict(chosen),
        )
        folder = run.folder
        rows = [
            {
                **row,
                "pictures": {
                    "crops": folder.save_image(f"concept-{one.number}-crops.jpg", found.crops_picture(one), quality=90),
                    "maps": folder.save_image(f"concept-{one.number}-maps.jpg", found.maps_picture(one), quality=90),
                },
            }
            for row, one in zip(found.rows(), found.concepts, strict=True)
        ]
        vectors = {str(one.number): vector for one, vector in zip(found.concepts, found.vectors, strict=True)}
        return run.finish(
            images=len(found.paths),
            target=found.target,
            layer=found.layer,
            crops=found.crop_count,
            left_over=found.left_over,
            score=found.score,
            rebuilt_score=found.rebuilt,
            unmoved=found.unmoved,
            notes=found.notes,
            rows=rows,
            errors=[{"path": record.path, "error": record.error} for record in found.broken],
            charts={"importance": folder.save_image("importance.png", found.chart())},
            vectors=folder.save_bytes("concepts.safetensors", save(vectors)),
        )
