"""The run behind `phosphene evaluate impressions`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phosphene.classifier import Classifier
from phosphene.evaluation.impressions import ImpressionScores, measure_impressions
from phosphene.images import to_pil
from phosphene.registry import parse_spec
from phosphene.render import contact_sheet
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.impress import load_judge
from phosphene.runs.measurement import Measurement
from phosphene.store import file_stem
from phosphene.tasks.impressions import Job, configured, single_targets
from phosphene.tasks.read_impressions import Judgement, OwnReading, check_judge
from phosphene.types import whole_number


def evaluate_impressions(
    classes: Sequence[str],
    recipes: Sequence[str],
    common: CommonOptions,
    *,
    count: int = 1,
    judge: str | Sequence[str | Classifier] = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Impressions of classes by recipes: what their maker and a judge read, a contact sheet each, a table.

    Args:
        classes: names or indices.
        recipes: recipe specs.
        common: the common options.
        count: images per class, with one seed after another.
        judge: spec of the judge, or several specs or networks; auto or none.
        resume: go on with the run in --out.

    Returns:
        The JSON answer of the command: {"run", "report", "rows": [...]}.
    """
    classifier = common.load()
    whole_number(count, "--count")
    targets = single_targets(classifier, list(classes))
    jobs = [Job(target, common.seed + number) for target in targets for number in range(count)]
    specs = [configured(recipe, None, None) for recipe in recipes]
    loaded = [load_judge(one, common) for one in ([judge] if isinstance(judge, str) else judge)]
    readers = [one for one in loaded if one is not None]
    for reader in readers:
        check_judge(reader, classifier, targets)
    with Measurement(
        "impressions",
        common,
        classifier,
        resume=resume,
        classes=[classifier.labels[target.classes[0]] for target in targets],
        recipes=[str(spec) for spec in specs],
        count=count,
        judge=readers[0].name if readers else None,
        judges=[reader.name for reader in readers],
    ) as run:
        rows = []
        for spec in specs:

            def show(done: int, total: int, _line: str, name: str = str(spec)) -> None:
                common.step(done, total, name)

            found = measure_impressions(
                classifier, jobs, parse_spec(spec, "recipe"), readers, keep=run.keep, progress=show
            )
            sheet = contact_sheet([to_pil(image) for image in found.images], captions(found))
            shown = run.folder.save_image(f"{file_stem(found.recipe)}.jpg", sheet, quality=88)
            rows.append({**found.row(), "sheet": shown, "impressions": per_image(found)})
        return run.finish(rows=rows)


def captions(found: ImpressionScores) -> list[str]:
    """Lines per image: the class with its probability, the judge's and the index; if fused, a line for each class."""
    return [_caption(own, judged) for own, judged in zip(found.own, found.judged, strict=True)]


def _caption(own: OwnReading, readings: Sequence[Judgement | None]) -> str:
    judged = readings[0] if readings else None
    if len(own.classes) > 1:
        shares = [""] * len(own.classes) if judged is None else [f" / {one.probability:.2f}" for one in judged.classes]
        lines = [f"{a.label[:18]} {a.probability:.2f}{other}" for a, other in zip(own.classes, shares, strict=True)]
        return "\n".join([*lines, "" if judged is None or judged.top5 else "not all in the judge's five"])
    read = [f"{one.probability:.2f}{'' if one.top1 else ' (no)'}" for one in readings if one is not None]
    facts = [f"judge {', '.join(read)}"] if read else []
    if own.single_object_index is not None:
        facts.append(f"index {own.single_object_index:z.2f}")
    return f"{own.classes[0].label[:18]} {own.classes[0].probability:.2f}\n{' '.join(facts)}"


def per_image(found: ImpressionScores) -> list[dict[str, Any]]:
    """One row per image, for tables of one's own."""
    return [
        {
            "classes": [{"index": share.index, "label": share.label} for share in own.classes],
            "seed": job.seed,
            "probability": own.classes[0].probability,
            "judge_probability": judged[0].probability if judged and judged[0] else None,
            "judge_top1": judged[0].top1 if judged and judged[0] else None,
            "judges": [
                {
                    "model": one.model,
                    "probability": one.probability,
                    "top1": one.top1,
                    "top5": one.top5,
                    "coverage": one.coverage,
                    "object_count": one.object_count,
                }
                for one in judged
                if one is not None
            ],
            "single_object_index": own.single_object_index,
            "object_count": own.object_count,
            "steps": steps,
            "seconds": seconds,
        }
        for job, own, judged, steps, seconds in zip(
            found.jobs, found.own, found.judged, found.steps, found.seconds, strict=True
        )
    ]
