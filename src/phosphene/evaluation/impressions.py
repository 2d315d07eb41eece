"""Impressions measured: does their maker, and a network that took no part, read the class; is there one object?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.metrics.bootstrap import bootstrap_interval
from phosphene.registry import Spec
from phosphene.runtime import Prepared
from phosphene.tasks.impressions import Job, Progress, synthesize
from phosphene.tasks.read_impressions import Judgement, OwnReading, judge_impressions, read_impressions
from phosphene.types import Impression


@dataclass
class ImpressionScores:
    """What one recipe made and how it was read, image by image in the order of the jobs.

    Args:
        recipe: its spec.
        jobs: what was asked for.
        images: (C, H, W) each, in [0, 1].
        own: readings by the maker.
        judged: readings by the judge; None without one.
        steps: steps of each image.
        seconds: wall time of each image, its share of its batch's.
    """

    recipe: str
    jobs: list[Job] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    own: list[OwnReading] = field(default_factory=list)
    judged: list[Judgement | None] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, job: Job, made: Impression, own: OwnReading, judged: Judgement | None) -> None:
        """One more image with its readings."""
        self.jobs.append(job)
        self.images.append(made.image)
        self.own.append(own)
        self.judged.append(judged)
        self.steps.append(made.steps)
        self.seconds.append(made.seconds)

    @property
    def read(self) -> list[Judgement]:
        """The judge's readings, without the images it did not see."""
        return [judged for judged in self.judged if judged is not None]

    def row(self) -> dict[str, object]:
        """The means over the images, with 95 % bootstrap intervals, and the weakest class of the index."""
        probabilities = [one.classes[0].probability for one in self.own if one.classes]
        indices = [one.single_object_index for one in self.own if one.single_object_index is not None]
        counts = [one.object_count for one in self.own if one.object_count is not None]
        per_class = self.index_per_class()
        return {
            "recipe": self.recipe,
            "images": len(self.jobs),
            "probability": _mean(probabilities),
            "judge": self.read[0].model if self.read else None,
            "judge_probability": _mean([one.probability for one in self.read]),
            "judge_probability_ci": _interval([one.probability for one in self.read]),
            "judge_top1": _mean([float(one.top1) for one in self.read]),
            "judge_top5": _mean([float(one.top5) for one in self.read]),
            "single_object_index": _mean(indices),
            "single_object_index_ci": _interval(indices),
            "weakest_class": min(per_class, key=lambda name: per_class[name]) if per_class else None,
            "weakest_class_index": min(per_class.values()) if per_class else None,
            "one_object": _mean([float(count == 1) for count in counts]),
            "steps": _mean([float(count) for count in self.steps]),
            "seconds_per_image": _mean(self.seconds),
            "ms_per_step": 1e3 * sum(self.seconds) / max(1, sum(self.steps)),
        }

    def index_per_class(self) -> dict[str, float]:
        """The mean single-object index of each class over its seeds."""
        values: dict[str, list[float]] = {}
        for one in self.own:
            if one.single_object_index is not None:
                values.setdefault(one.classes[0].label, []).append(one.single_object_index)
        return {label: sum(found) / len(found) for label, found in values.items()}


def measure_impressions(
    classifier: Prepared,
    jobs: Sequence[Job],
    recipe: str | Spec,
    judge: Classifier | None = None,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    seen: Callable[[Job, Impression, OwnReading, Judgement | None], None] | None = None,
) -> ImpressionScores:
    """Make the images of all jobs by one recipe and have them read.

    Args:
        classifier: the network that remembers.
        jobs: one image each.
        recipe: the recipe and its options.
        judge: a network that took no part; None for none.
        batch_size: images made side by side; None chooses.
        progress: called as by `impress`.
        seen: called with each image and its readings as soon as they are there.

    Returns:
        The images and all readings; `row()` sums them up.
    """
    found = ImpressionScores(str(recipe))
    for job, made in zip(
        jobs, synthesize(classifier, jobs, recipe, batch_size=batch_size, progress=progress), strict=True
    ):
        own = read_impressions(classifier, [made])[0]
        judged = None if judge is None else judge_impressions(judge, [made], classifier)[0]
        found.add(job, made, own, judged)
        if seen is not None:
            seen(job, made, own, judged)
    return found


def _mean(values: Sequence[float]) -> float | None:
    return float(torch.tensor(values, dtype=torch.float64, device="cpu").mean()) if values else None


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    return bootstrap_interval(values) if len(values) > 1 else None
