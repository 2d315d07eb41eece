"""impress and fuse: jobs -> images made from a classifier alone, with what networks read in them, a row for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import OptionError
from phosphene.images import to_pil
from phosphene.labels import Labels
from phosphene.maps import disc
from phosphene.registry import Spec, entry
from phosphene.runtime import Prepared
from phosphene.store import Asset, Curve, ImpressionRow, JudgeRow, Row, file_stem
from phosphene.synthesis.canvas import class_count
from phosphene.synthesis.photographs import Photographs
from phosphene.targets import Target, class_target, typed_names
from phosphene.tasks.impressions import Job, Watch, configured, single_targets, synthesize
from phosphene.tasks.read_impressions import eight_bits, judge_impressions, read_impressions
from phosphene.tasks.task import Progress
from phosphene.types import Background, Impression

_STRIP = 8
_ANIMATION = 48


@dataclass(frozen=True)
class ImpressConfig:
    """What is drawn, by which recipe.

    Args:
        classes: names or indices of the classes; of fused images one group of them, or empty for random pairs.
        target: a target of another kind instead of classes, such as a Unit.
        recipe: recipe spec.
        preset: best or paper; None for the recipe's own.
        steps: None for the preset's.
        count: images per class, with one seed after another; of fused images without classes, random pairs.
        frames: whether the way of each image is kept as an animation.
        fused: whether the classes are fused in one image.
        background: what becomes of places that were little developed: keep, fade or transparent; None for the recipe's.
        statistics: a folder of pictures whose statistics stand in for those that the network's norms remember; the
            images are then no longer drawn from the network alone.
        seed: of the first image of each class.

    Example:
        >>> str(ImpressConfig(("tabby",), recipe="class_model", steps=3).spec)
        'class_model:steps=3'
    """

    classes: tuple[str, ...] = ()
    target: Target | None = None
    recipe: str = "sci"
    preset: str | None = None
    steps: int | None = None
    count: int = 1
    frames: bool = False
    fused: bool = False
    background: Background | None = None
    statistics: str | None = None
    seed: int = 0
    rows: ClassVar[type[Row]] = ImpressionRow

    @property
    def spec(self) -> Spec:
        """The recipe with preset and steps.

        Raises:
            OptionError: for a recipe that draws no such images.
        """
        spec = configured(
            self.recipe, self.preset, self.steps, background=self.background, statistics_of=self.statistics
        )
        if bool(entry("recipe", spec.name).traits.get("groups")) != self.fused:
            own, other = ("fuse", "impress") if self.fused else ("impress", "fuse")
            raise OptionError(f"{spec.name} is no recipe of {own}; it is one of phosphene {other}")
        return spec

    def jobs(self, classifier: Prepared) -> tuple[Job, ...]:
        """The images that are to be made, in order.

        Raises:
            OptionError: for neither classes nor a unit, or both.
            InputError: for a folder of statistics that is missing or holds too little.
            NotFoundError: for an unknown class or layer.
        """
        if not self.fused and bool(self.classes) == (self.target is not None):
            raise OptionError("give one or more classes, or --unit LAYER=CHANNEL")
        if self.count < 1:
            raise OptionError(f"--count {self.count}: give 1 or more")
        if self.statistics is not None:
            Photographs.of(self.statistics)  # refuses what is none before anything is made
            if set(self.statistics) & set(",()"):
                raise OptionError(f"--statistics {self.statistics}: rename it, recipes hold no commas or brackets")
        seeds = range(self.seed, self.seed + self.count)
        if self.fused and not self.classes:
            pairs = random_pairs(class_count(classifier), self.count, self.seed)
            return tuple(Job(Target.of(pair), self.seed) for pair in pairs)
        return tuple(Job(target, seed) for target in self._targets(classifier) for seed in seeds)

    def _targets(self, classifier: Prepared) -> list[Target]:
        if self.fused:
            return [class_target(typed_names(self.classes, classifier.labels), classifier.labels)]
        if self.target is not None:
            return single_targets(classifier, self.target)
        return single_targets(classifier, typed_names(self.classes, classifier.labels))

    def described(self, jobs: Sequence[Job]) -> dict[str, Any]:
        """All that decides the rows of these jobs, as the manifest of a run has it."""
        return {"recipe": str(self.spec), "jobs": [[job.name, job.seed] for job in jobs], "frames": self.frames}

    def run(
        self,
        classifier: Prepared,
        jobs: Sequence[Job],
        *,
        start: int = 0,
        judge: Classifier | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> Iterator[ImpressionRow]:
        """A row for each job, in order; stopped by `progress`, rows of what there is, marked so, then CancelledError.

        Args:
            classifier: that the images are made from.
            jobs: of one batch.
            start: number of the first job in the run; keys and names of files have it.
            judge: a network that took no part and reads the images.
            progress: called with (image-steps done, in all, what is being done).
            watch: called after each step with the images on their way.
        """
        spec = self.spec
        frames = _ANIMATION if self.frames else _STRIP
        drawn = synthesize(classifier, jobs, spec, frames=frames, progress=progress, watch=watch)
        for number, made in enumerate(drawn):
            yield self._row(classifier, job_key(start + number, jobs[number], classifier.labels), spec, made, judge)

    def _row(
        self, classifier: Prepared, key: str, spec: Spec, made: Impression, judge: Classifier | None
    ) -> ImpressionRow:
        own = read_impressions(classifier, [made])[0]
        judged = None if judge is None else judge_impressions(judge, [made], classifier)[0]
        return ImpressionRow(
            key,
            own.classes,
            image=Asset(f"{key}.png", _finished(made)),
            recipe=made.spec,
            preset=made.preset,
            steps=made.steps,
            seconds=made.seconds,
            seed=made.seed,
            status="stopped" if made.stopped else "ok",
            unit=None if made.target.classes else str(made.target),
            entropy=own.entropy,
            title=entry("recipe", spec.name).title,
            single_object_index=own.single_object_index,
            object_count=own.object_count,
            judge=None if judged is None else JudgeRow(**vars(judged)),
            curve=_curve(made),
            strip=_strip(key, made),
            data_free=not spec.keywords.get("statistics_of"),
            animation=_animation(key, made) if self.frames else None,
            bands=bands_of(key, made.image, classifier.preprocess),
            **_shown_extras(key, made),
        )


def bands_of(stem: str, image: Tensor, preprocess: Preprocess) -> Asset | None:
    """All bands (H, W, C) of what is no picture of one or three, as read_image reads them for the network."""
    if len(image) in (1, 3):
        return None
    values, black = eight_bits(image).movedim(0, -1), preprocess.black or 0.0
    stored = values if preprocess.white is None else black + (preprocess.white - black) * values
    return Asset(f"{stem}.npy", stored.numpy())


def _finished(made: Impression) -> Image.Image:
    """The picture, with an alpha channel where its surroundings are transparent."""
    picture = to_pil(made.image)
    if "alpha" in made.extras:
        picture.putalpha(Image.fromarray((made.extras["alpha"][0] * 255).round().byte().numpy()))
    return picture


def job_key(number: int, job: Job, labels: Labels) -> str:
    """What an image is called in its run.

    Example:
        >>> job_key(0, Job(Target.of(1), seed=3), Labels(("tabby", "lynx")))
        '001-1-lynx-seed3'
    """
    if not job.target.classes:
        return f"{number + 1:03d}-{file_stem(str(job.target), 40)}-seed{job.seed}"
    names = "-".join(f"{index}-{file_stem(labels[index], 20)}" for index in job.target.classes)
    return f"{number + 1:03d}-{names}-seed{job.seed}"


def random_pairs(classes: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Pairs of different classes, drawn from a seed; a longer list begins with the shorter one.

    Example:
        >>> random_pairs(1000, 3, 0) == random_pairs(1000, 5, 0)[:3]
        True
    """
    if classes < 2:
        raise OptionError("random pairs need a classifier of two classes or more")
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        first = int(torch.randint(classes, (), generator=generator, device="cpu"))
        other = int(torch.randint(classes - 1, (), generator=generator, device="cpu"))
        pairs.append((first, other + (other >= first)))
    return pairs


def _curve(made: Impression, points: int = 160) -> Curve:
    """The probability of each class, or the objective of a unit, along the steps, thinned for the report."""
    values = made.probabilities or tuple((score,) for score in made.scores)
    chosen = sorted({round(position) for position in np.linspace(0, len(values) - 1, min(points, len(values)))})
    return Curve(
        "probability" if made.probabilities else "value",
        tuple(index + 1 for index in chosen),
        tuple(tuple(round(value, 5) for value in values[index]) for index in chosen),
    )


def _strip(key: str, made: Impression) -> Asset | None:
    """The way of the image in a few frames side by side."""
    if made.frames is None:
        return None
    chosen = np.linspace(0, len(made.frames) - 1, min(_STRIP, len(made.frames))).round().astype(int)
    tiles = [_small(_picture(made.frames[index]), 112) for index in chosen]
    gap = 4
    width = sum(tile.width for tile in tiles) + gap * (len(tiles) - 1)
    strip = Image.new("RGB", (width, tiles[0].height), "white")
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + gap
    return Asset(f"{key}-way.jpg", strip, {"quality": 88})


def _animation(key: str, made: Impression) -> Asset | None:
    """The way of the image as an animated WebP that rests on its end."""
    if made.frames is None:
        return None
    first, *others = [_picture(frame) for frame in made.frames]
    times = [60] * len(others) + [1500]
    options = {"save_all": True, "append_images": others, "duration": times, "loop": 0, "quality": 80}
    return Asset(f"{key}.webp", first, options)


def _picture(frame: Tensor) -> Image.Image:
    return to_pil(frame.float() / 255)


def _small(picture: Image.Image, side: int) -> Image.Image:
    factor = side / max(picture.size)
    return picture.resize(
        (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.LANCZOS
    )


def _shown_extras(key: str, made: Impression) -> dict[str, Any]:
    """The pre-CI with its disc, where the recipe has one."""
    if "pre_ci" not in made.extras:
        return {}
    center, radius = made.extras["center"], float(made.extras["radius"])
    image = made.extras["pre_ci"]
    size = (int(image.shape[-2]), int(image.shape[-1]))
    ring = disc(center[None], radius, size)[0] - disc(center[None], max(0.0, radius - 2), size)[0]
    marked = torch.where(ring > 0, torch.ones_like(image), image)
    return {
        "pre_ci": Asset(f"{key}-pre.jpg", to_pil(marked), {"quality": 90}),
        "center": (int(center[0]), int(center[1])),
        "radius": radius,
    }
