"""The run behind `phosphene evaluate concepts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safetensors.numpy import save

from phosphene.evaluation.concepts import concept_sets, tcav
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.measurement import Measurement, files_told
from phosphene.runs.samples import chosen_files
from phosphene.store import file_stem
from phosphene.targets import TargetLike, resolve_one


def measure_concepts(
    images: Sequence[str],
    concepts: Sequence[str],
    random: Sequence[str],
    common: CommonOptions,
    *,
    target: TargetLike,
    layers: Sequence[str] = (),
    sets: int = 10,
    level: float = 0.05,
    limit: int = 50,
    resume: bool = False,
) -> dict[str, Any]:
    """Concepts tested at layers; scores, probabilities, a chart and a report.

    Returns:
        The JSON answer of the command: {"run", "report", "images", "target", "sets", "rows", "errors", "charts",
        "vectors"}, the last a file of directions for each layer.
    """
    groups = concept_sets(concepts, random, sets, common.seed)  # refuses what does not do, before the model is loaded
    files = chosen_files(images, limit)
    classifier = common.load()
    resolve_one(target, classifier.labels)
    looked_at = [*files, *(path for group in groups.values() for path in group)]
    with Measurement(
        "concepts", common, classifier, inputs=looked_at, resume=resume, images=list(images), concepts=list(concepts),
        random=list(random), target=str(target), layers=list(layers), sets=sets, level=level, limit=limit,
        **files_told(looked_at),
    ) as run:  # fmt: skip
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
            keep=run.keep,
            progress=common.step,
        )
        vectors = {
            layer: run.folder.save_bytes(f"{file_stem(layer)}.safetensors", save(dict(of_layer)))
            for layer, of_layer in found.vectors.items()
        }
        run.drop_arrays(but="tests")
        return run.finish(
            images=found.images,
            target=found.target,
            sets=dict(found.sets),
            rows=[one.row() for one in found.tests],
            errors=[{"path": record.path, "error": record.error} for record in found.broken],
            charts={"scores": run.folder.save_image("scores.png", found.chart())},
            vectors=vectors,
        )
