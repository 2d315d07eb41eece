"""The run behind `phosphene evaluate concepts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safetensors.numpy import save

from phosphene.evaluation.concepts import concept_sets, tcav
from phosphene.runs.common import Common
from phosphene.runs.samples import chosen_files
from phosphene.runs.session import Session
from phosphene.store import file_stem
from phosphene.targets import TargetLike, resolve_one


def measure_concepts(
    images: Sequence[str],
    concepts: Sequence[str],
    random: Sequence[str],
    common: Common,
    *,
    target: TargetLike,
    layers: Sequence[str] = (),
    sets: int = 10,
    level: float = 0.05,
    limit: int = 50,
) -> dict[str, Any]:
    """Concepts tested at layers; scores, probabilities, a chart and a report.

    Returns:
        The JSON answer of the command: {"run", "report", "images", "target", "sets", "rows", "errors", "charts",
        "vectors"}, the last a file of directions for each layer.
    """
    concept_sets(concepts, random, sets, common.seed)  # refuses folders that do not do, before the model is loaded
    files = chosen_files(images, limit)
    classifier = common.load()
    resolve_one(target, classifier.labels)
    with Session.start(
        "concepts", common, classifier, images=list(images), concepts=list(concepts), random=list(random),
        target=str(target), layers=list(layers), sets=sets, level=level, limit=limit,
    ) as session:  # fmt: skip
        found = tcav(
            classifier,
            files,
            concepts,
            random,
            target=target,
            layers=layers,
            sets=sets,
            level=level,
            seed=common.seed,
            progress=common.announce,
        )
        vectors = {
            layer: session.folder.save_bytes(f"{file_stem(layer)}.safetensors", save(dict(of_layer)))
            for layer, of_layer in found.vectors.items()
        }
        return session.finish(
            images=found.images,
            target=found.target,
            sets=dict(found.sets),
            rows=[one.row() for one in found.tests],
            errors=[{"path": record.path, "error": record.error} for record in found.broken],
            charts={"scores": session.folder.save_image("scores.png", found.chart())},
            vectors=vectors,
        )
