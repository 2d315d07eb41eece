"""The run behind `phosphene evaluate craft`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safetensors.numpy import save

from phosphene.evaluation.craft import craft
from phosphene.runs.common import Common
from phosphene.runs.samples import chosen_files
from phosphene.runs.session import Session
from phosphene.targets import TargetLike, resolve_one


def find_concepts(
    images: Sequence[str],
    common: Common,
    *,
    target: TargetLike,
    layer: str | None = None,
    concepts: int = 10,
    crops: int = 10,
    size: float = 1 / 3,
    designs: int = 32,
    limit: int = 50,
) -> dict[str, Any]:
    """Concepts found in pictures; importances, crops and maps that show them, directions and a report.

    Returns:
        The JSON answer of the command: {"run", "report", "images", "target", "layer", "crops", "left_over", "score",
        "rebuilt_score", "unmoved", "notes", "rows", "errors", "charts", "vectors"}.
    """
    files = chosen_files(images, limit)
    classifier = common.load()
    resolve_one(target, classifier.labels)
    with Session.start(
        "craft", common, classifier, images=list(images), target=str(target), layer=layer, concepts=concepts,
        crops=crops, size=size, designs=designs, limit=limit,
    ) as session:  # fmt: skip
        found = craft(
            classifier,
            files,
            target=target,
            layer=layer,
            concepts=concepts,
            crops=crops,
            size=size,
            designs=designs,
            seed=common.seed,
            progress=common.announce,
        )
        folder = session.folder
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
        return session.finish(
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
