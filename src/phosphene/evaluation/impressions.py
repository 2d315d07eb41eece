"""Impressions measured: do their maker, and networks that took no part, read the class; is there one object?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.evaluation.pieces import Keep, Piece, measured_now
from phosphene.images import to_pil
from phosphene.metrics.bootstrap import bootstrap_interval
from phosphene.metrics.photographs import photograph_distance
from phosphene.registry import Spec
from phosphene.render import Sheet, Tile, numbers, shown_as
from phosphene.runtime import Prepared, prepare
from phosphene.tasks.impressions import Job, Progress, batched, synthesize
from phosphene.tasks.read_impressions import Judgement, OwnReading, judge_impressions, read_impressions
from phosphene.types import Impression, Shown
from phosphene.zoo import load_classifier


@dataclass(repr=False)
class ImpressionScores(Shown):
    """What one recipe made and how it was read, image by image in the order of the jobs.

    Args:
        recipe: its spec.
        jobs: what was asked for.
        images: (C, H, W) each, in [0, 1].
        own: readings by the maker.
        judged: readings by the judges, as many for each image as there are; None of a unit.
        steps: steps of each image.
        seconds: wall time of each image, its share of its batch's.
    """

    recipe: str
    jobs: list[Job] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    own: list[OwnReading] = field(default_factory=list)
    judged: list[list[Judgement | None]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"ImpressionScores({self.recipe}, {len(self.jobs)} images)"

    def add(self, job: Job, made: Impression, own: OwnReading, judged: list[Judgement | None]) -> None:
        """One more image with its readings."""
        self.jobs.append(job)
        self.images.append(made.image)
        self.own.append(own)
        self.judged.append(judged)
        self.steps.append(made.steps)
        self.seconds.append(made.seconds)

    def read(self, judge: int = 0) -> list[Judgement]:
        """The readings of one of the judges, without the images it did not see."""
        return [one for all_of_them in self.judged for one in all_of_them[judge : judge + 1] if one is not None]

    def row(self) -> dict[str, object]:
        """The means over the images, with 95 % bootstrap intervals, and the weakest class of the index.

        What a judge reads is there once for the first judge, by itself, and in `judges` for each of them.
        """
        probabilities = [one.classes[0].probability for one in self.own if one.classes]
        indices = [one.single_object_index for one in self.own if one.single_object_index is not None]
        counts = [one.object_count for one in self.own if one.object_count is not None]
        per_class = self.index_per_class()
        judges = [_judge_row(self.read(index)) for index in range(max(map(len, self.judged), default=0))]
        first = judges[0] if judges else _judge_row([])
        return {
            "recipe": self.recipe,
            "images": len(self.jobs),
            "probability": _mean(probabilities),
            "judge": first["model"],
            "judge_probability": first["probability"],
            "judge_probability_ci": first["probability_ci"],
            "judge_top1": first["top1"],
            "judge_top5": first["top5"],
            "judges": judges,
            "single_object_index": _mean(indices),
            "single_object_index_ci": _interval(indices),
            "weakest_class": min(per_class, key=lambda name: per_class[name]) if per_class else None,
            "weakest_class_index": min(per_class.values()) if per_class else None,
            "one_object": _mean([float(count == 1) for count in counts]),
            "photograph_distance": _mean([float(photograph_distance(image[None])) for image in self.images]),
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


@shown_as(ImpressionScores)
def _scores_sheet(found: ImpressionScores) -> Sheet:
    keys = (
        "images",
        "probability",
        "judge_probability",
        "judge_top1",
        "single_object_index",
        "one_object",
        "ms_per_step",
    )
    row = found.row()
    head = (
        "recipe",
        "images",
        "probability",
        "judge's",
        "judge's first",
        "single-object index",
        "one object",
        "ms a step",
    )
    tiles = []
    for image, own, judged in zip(found.images, found.own, found.judged, strict=True):
        readings = [f"{one.model}: {one.best[0]}" for one in judged if one is not None]
        tiles.append(Tile(to_pil(image), (", ".join(map(str, own.classes)), *readings)))
    table = (head, numbers([found.recipe, *(row[key] for key in keys)]))
    return Sheet(tuple(tuple(tiles[start : start + 4]) for start in range(0, len(tiles), 4)), table=table)


def measure_impressions(
    classifier: Classifier | nn.Module | str,
    jobs: Sequence[Job],
    recipe: str | Spec,
    judge: Classifier | Sequence[Classifier] | None = None,
    *,
    batch_size: int | None = None,
    keep: Keep = measured_now,
    progress: Progress | None = None,
) -> ImpressionScores:
    """Make the images of all jobs by one recipe and have them read.

    Args:
        classifier: the network that remembers: a Classifier, a network, or a spec for load_classifier.
        jobs: one image each.
        recipe: the recipe and its options.
        judge: a network that took no part, or several; None for none.
        batch_size: images made side by side; None chooses.
        keep: gives the images that are known already and takes the new ones.
        progress: called as by `impress`.

    Returns:
        The images and all readings; `row()` sums them up.
    """
    classifier, found = prepare(load_classifier(classifier)), ImpressionScores(str(recipe))
    judges = [] if judge is None else [judge] if isinstance(judge, Classifier) else list(judge)
    for batch in batched(jobs, classifier, batch_size):
        before = len(found.jobs)
        told = None if progress is None else partial(_among_all, progress, before, len(batch), len(jobs))
        where = f"{recipe}: images {before + 1} to {before + len(batch)}"
        piece = keep(where, partial(_images, classifier, batch, recipe, batch_size, told))
        for number, (job, facts) in enumerate(zip(batch, piece.values["images"], strict=True)):
            made = Impression(
                torch.from_numpy(piece.arrays[str(number)]), job.target, str(recipe), seed=job.seed, **facts
            )
            own = read_impressions(classifier, [made])[0]
            judged = [judge_impressions(one, [made], classifier, objects=True)[0] for one in judges]
            found.add(job, made, own, judged)
    return found


def _images(
    classifier: Prepared, batch: Sequence[Job], recipe: str | Spec, batch_size: int | None, progress: Progress | None
) -> Piece:
    """The images of jobs that are made side by side, and how long that took."""
    made = list(synthesize(classifier, batch, recipe, batch_size=batch_size, progress=progress))
    facts = [{"preset": one.preset, "steps": one.steps, "seconds": one.seconds, "label": one.label} for one in made]
    return Piece({"images": facts}, {str(number): one.image.numpy() for number, one in enumerate(made)})


def _among_all(progress: Progress, before: int, size: int, count: int, done: int, total: int, text: str) -> None:
    """The steps of a batch among those of all images."""
    steps = total // size
    progress(before * steps + done, count * steps, text)


def _judge_row(read: Sequence[Judgement]) -> dict[str, object]:
    """What one judge read, in the mean: its name, probability, first and first five, and what its maps show."""
    probabilities = [one.probability for one in read]
    counts = [one.object_count for one in read if one.object_count is not None]
    return {
        "model": read[0].model if read else None,
        "probability": _mean(probabilities),
        "probability_ci": _interval(probabilities),
        "top1": _mean([float(one.top1) for one in read]),
        "top5": _mean([float(one.top5) for one in read]),
        "coverage": _mean([one.coverage for one in read if one.coverage is not None]),
        "one_object": _mean([float(count == 1) for count in counts]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(torch.tensor(values, dtype=torch.float64, device="cpu").mean()) if values else None


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    return bootstrap_interval(values) if len(values) > 1 else None
