"""Saliency-driven class impressions: one object of a class, grown where a first rough impression was strongest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.registry import register_recipe
from phosphene.runtime import input_gradient
from phosphene.synthesis.ascent import (
    Moment,
    Rule,
    Step,
    ascend,
    clip,
    every,
    multiply,
    part_of,
    preconditioned,
    unit_rms,
    within,
)
from phosphene.synthesis.augment import Affine, Augmentation, Crop
from phosphene.synthesis.canvas import (
    Preset,
    canvas_size,
    half_side,
    moved_to_middle,
    noisy_mean,
    settings_of,
    takes_size,
)
from phosphene.synthesis.masks import disc, distance_from, strongest_disc
from phosphene.synthesis.norms import norm_statistics
from phosphene.synthesis.objectives import Objective, of_target
from phosphene.synthesis.priors import total_variation_gradient, total_variation_step
from phosphene.synthesis.schedules import Schedule, linear
from phosphene.synthesis.streams import Streams
from phosphene.synthesis.weights import saliency_weight
from phosphene.types import Score, Size, Target


@dataclass(frozen=True)
class Settings:
    """The numbers of a preset; see `sci`."""

    steps: int
    pre_steps: int
    pre_rate: float
    rate: float
    last_rate: float
    finish: int
    finish_rate: float
    score: Score
    start: Literal["pre_ci", "noise"]
    activation: Literal["change", "evidence"]
    place: Literal["found", "middle"]
    kept: float
    noise: float
    precondition: float
    color: float
    mask: Literal["growing", "fixed", "none"]
    radius: float
    first_radius: float
    grow: int
    soft: float
    finish_soft: float
    weight: Literal["A", "B", "none"]
    tv: float
    tv_every: int
    tv_where: Literal["everywhere", "inside"]
    tv_kind: Literal["sign", "meeting"]
    pull: float
    last_pull: float
    finish_pull: float
    reach: float
    view: float
    looks: int
    residual: float
    statistics: float
    rotation: float
    scale: tuple[float, float]
    shift: float


PRESETS = {
    "best": Settings(
        steps=200,
        pre_steps=24,
        pre_rate=0.03,
        rate=0.03,
        last_rate=0.012,
        finish=40,
        finish_rate=0.01,
        score="logit",
        start="pre_ci",
        activation="evidence",
        place="middle",
        kept=27 / 224,
        noise=0.05,
        precondition=1.0,
        color=0.5,
        mask="fixed",
        radius=63 / 224,
        first_radius=27 / 224,
        grow=110,
        soft=8 / 224,
        finish_soft=63 / 224,
        weight="none",
        tv=0.0012,
        tv_every=1,
        tv_where="everywhere",
        tv_kind="meeting",
        pull=0.004,
        last_pull=0.003,
        finish_pull=0.07,
        reach=48 / 224,
        view=128 / 224,
        looks=8,
        residual=0.5,
        statistics=0.0,
        rotation=12.0,
        scale=(0.75, 1.2),
        shift=16 / 224,
    ),
    "paper": Settings(
        steps=400,
        pre_steps=20,
        pre_rate=0.1,
        rate=0.02,
        last_rate=0.02,
        finish=0,
        finish_rate=0.02,
        score="logit",
        start="pre_ci",
        activation="change",
        place="found",
        kept=48 / 224,
        noise=1.0,
        precondition=0.0,
        color=0.0,
        mask="growing",
        radius=150 / 224,
        first_radius=1 / 224,
        grow=150,
        soft=0.0,
        finish_soft=0.0,
        weight="A",
        tv=0.004,
        tv_every=1,
        tv_where="everywhere",
        tv_kind="sign",
        pull=0.0,
        last_pull=0.0,
        finish_pull=0.0,
        reach=1.0,
        view=1.0,
        looks=1,
        residual=1.0,
        statistics=0.0,
        rotation=5.0,
        scale=(0.95, 1.05),
        shift=16 / 224,
    ),
}

# Features near the border of what the network looks at are those of the empty surroundings.
_WITHIN = 0.9


@register_recipe(title="Saliency-driven class impression", paper="addepalli2020", presets=tuple(PRESETS))
def sci(
    classifier: Classifier,
    target: Target,
    streams: Streams,
    *,
    preset: Preset = "best",
    steps: int | None = None,
    pre_steps: int | None = None,
    pre_rate: float | None = None,
    rate: float | None = None,
    last_rate: float | None = None,
    finish: int | None = None,
    finish_rate: float | None = None,
    score: Score | None = None,
    start: Literal["pre_ci", "noise"] | None = None,
    activation: Literal["change", "evidence"] | None = None,
    place: Literal["found", "middle"] | None = None,
    kept: float | None = None,
    noise: float | None = None,
    precondition: float | None = None,
    color: float | None = None,
    mask: Literal["growing", "fixed", "none"] | None = None,
    radius: float | None = None,
    first_radius: float | None = None,
    grow: int | None = None,
    soft: float | None = None,
    finish_soft: float | None = None,
    weight: Literal["A", "B", "none"] | None = None,
    tv: float | None = None,
    tv_every: int | None = None,
    tv_where: Literal["everywhere", "inside"] | None = None,
    tv_kind: Literal["sign", "meeting"] | None = None,
    pull: float | None = None,
    last_pull: float | None = None,
    finish_pull: float | None = None,
    reach: float | None = None,
    view: float | None = None,
    looks: int | None = None,
    residual: float | None = None,
    statistics: float | None = None,
    rotation: float | None = None,
    scale: tuple[float, float] | None = None,
    shift: float | None = None,
) -> Iterator[Step]:
    """One object that the classifier takes for the class, and nothing else: a pre-impression, its best disc, growth.

    A few large steps over the whole image give a pre-CI. The most activated disc (equation 5) is kept, the rest of the
    image set back, and the object is developed again by small steps inside a disc, which may grow:
    ``I += rate * W * mask * g / rms(g)``, W the weight of equations 2-4. Apart from that, a step down the total
    variation (equation 1) is made once in `tv_every` iterations on the whole image, so that what is not
    held up by the class fades out.

    Where the paper gives a number the preset `paper` has it: t = 150, C2 = 4, the radius 1 to 150 pixels of 224 over
    150 steps. All other numbers are ours: steps, rates, total variation, augmentation, the disc of
    equation 5. The preset `best` differs: its gradient is preconditioned by the
    spectrum and the colors of natural images, so it is nearly, not wholly, free of data; the disc is chosen by the
    evidence in it, which corners of strong contrast do not have, and moved to the middle; the last radius is small
    enough for one object; there is no weight, which made pictures noisier and less readable to others; each step is the
    mean of several looks under wide moves, since what only one look sees others do not read; for the same reason
    gradients through residual branches count half; the disc has its last radius from the first step on; the network
    looks closely at it while the object grows, and at the whole image in the last steps; each step pulls what lies
    far from the disc's center back to the mean image and the last steps draw most in the middle, so that one object
    stays; a step of total variation never overshoots. None of an option takes the preset's value.

    Args:
        classifier: the network that remembers.
        target: one class, or unit, per image.
        streams: the images' random numbers.
        preset: best or paper.
        steps: number of steps in all.
        pre_steps: how many of them make the pre-CI; at most a third.
        pre_rate: root mean square of a step of the pre-CI, in [0, 1] units.
        rate: root mean square inside the mask of the first step after it.
        last_rate: the same of the last step; linear between.
        finish: how many steps at the end look at the whole image, so that the class is seen in it at that size too; at
            most half of those after the pre-CI.
        finish_rate: rate of the first of these, linear to a quarter of it at the last.
        score: logit, probability (its logarithm) or margin.
        start: where the second run starts: pre_ci inside the disc, or noise, the start image everywhere.
        activation: what the disc of equation 5 is chosen by: change, |pre-CI - start| (our reading of the paper), or
            evidence, the positive part of gradient x (pre-CI - start).
        place: where the disc's content is developed again: where it was found, or moved to the middle of the image.
        kept: radius of the disc of equation 5, as a fraction of the shorter side, at most half of it.
        noise: the start image is the mean image +- noise; from 1 on uniform over the whole range.
        precondition: power of 1/f on the gradient; 0 for the plain gradient.
        color: power of the natural colors' covariance on the gradient, where it is preconditioned.
        mask: growing or fixed disc, or none.
        radius: final radius as a fraction of the shorter side.
        first_radius: radius at the first step, likewise.
        grow: steps over which the disc grows.
        soft: width of the disc's edge, as a fraction of the shorter side.
        finish_soft: the same in the last steps; with a wide edge they draw most in the middle, so that the class's
            evidence has one center.
        weight: A, B or none.
        tv: size of a step down the total variation, in [0, 1] units; after the pre-CI in proportion to the rate, so
            that it does not take away what the small last steps draw.
        tv_every: once in so many iterations; 0 never.
        tv_where: everywhere, or inside the mask only.
        tv_kind: sign, the plain subgradient, or meeting, which does not overshoot.
        pull: how strongly each step pulls what lies far from the disc's center back to the mean image: a value keeps
            exp(-pull * (distance / reach)^2) of its difference.
        last_pull: the same at the last step of the growth; linear between.
        finish_pull: the same at the last step of `finish`, linear from `last_pull` on; these steps hold what the class
            needs against it: what else lies far from the center fades, and with it second centers of evidence.
        reach: distance at which the pull is `pull`, as a fraction of the shorter side.
        view: side of the part, about the disc's center, that the network looks at, as a fraction of the image's; for
            discs in the middle, and only where the network takes images of other sizes.
        looks: how many differently augmented looks a step is the mean of; each costs as much as a step with one.
        residual: what gradients through residual branches are multiplied by; below 1 more goes past the branches, and
            other networks read the picture more readily.
        statistics: weight of the distance to the statistics in the network's batch norms (norm_statistics) after the
            pre-CI; it makes nothing of a network without them.
        rotation: augmentation: degrees.
        scale: augmentation: low and high.
        shift: augmentation: fraction of the shorter side.

    Yields:
        Steps; extras: `pre_ci` (N, C, H, W), `center` (N, 2) in pixels and `radius` (N,) of the disc.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((32, 32), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> last = list(sci(classifier, Target.of(1), Streams.of(0, [1]), steps=6))[-1]
        >>> last.images.shape, last.stage, sorted(last.extras)
        (torch.Size([1, 3, 32, 32]), 'finish', ['center', 'pre_ci', 'radius'])

    References:
        addepalli2020; olah2017 for the preconditioning; wu2020 for the residual branches.
    """
    given = {name: value for name, value in locals().items() if name in Settings.__dataclass_fields__}
    own = settings_of(PRESETS, preset, **given)
    size = canvas_size(classifier)
    begin = noisy_mean(classifier, streams, own.noise, "range" if own.noise >= 1 else "uniform")
    target = target.expand(len(streams))
    parts = _Parts(own, size, classifier, streams, of_target(classifier, target, own.score))
    first = min(own.pre_steps, own.steps // 3)
    last_steps = min(own.finish, (own.steps - first) // 2)

    last = begin
    for step in part_of(parts.pre_ci(begin, first), 0, own.steps):
        last = step.images
        yield step

    radius = half_side(size, own.kept)
    centers = strongest_disc(_activation(own, classifier, target, last, begin), radius)
    shown = {"pre_ci": last, "center": centers, "radius": last.new_full((len(last),), float(radius))}
    if own.place == "middle" and own.mask != "none":
        last, centers = (
            moved_to_middle(last, centers),
            centers.new_tensor([[size[0] // 2, size[1] // 2]]).expand_as(centers),
        )
    if own.start == "noise":
        last = begin
    elif own.mask != "none":
        inside = disc(centers, radius, size, parts.pixels(own.soft))
        last = torch.lerp(begin, last, inside.to(begin).expand_as(begin))

    growth = own.steps - first - last_steps
    for step in part_of(parts.post_ci(last, centers, growth), first, own.steps, **shown):
        last = step.images
        yield step
    yield from part_of(parts.finish(last, centers, last_steps), first + growth, own.steps, **shown)


def _activation(own: Settings, classifier: Classifier, target: Target, pre_ci: Tensor, begin: Tensor) -> Tensor:
    """(N, H, W) how activated each place of the pre-CI is."""
    change = pre_ci - begin
    if own.activation == "change":
        return change.abs().sum(dim=1)
    if own.activation != "evidence":
        raise OptionError(f"activation '{own.activation}' is unknown; choose change or evidence")
    _, gradient = input_gradient(classifier, pre_ci, target)
    return (gradient * change).clamp(min=0).sum(dim=1)


@dataclass(frozen=True)
class _Parts:
    """The runs that the settings make for images of a size, and the rules of these runs."""

    settings: Settings
    size: Size
    classifier: Classifier
    streams: Streams
    objective: Objective

    def pre_ci(self, begin: Tensor, steps: int) -> Iterator[Step]:
        """A few large steps over the whole image."""
        own = self.settings
        return ascend(
            self.classifier,
            self.objective,
            begin,
            steps=steps,
            streams=self.streams,
            looks=own.looks,
            residual=own.residual,
            rate=own.pre_rate,
            augmentations=self.augmentations,
            direction=[preconditioned(own.precondition, own.color), unit_rms()],
            after=[*self.fading(), clip],
            stage="pre-CI",
        )

    def post_ci(self, begin: Tensor, centers: Tensor, steps: int) -> Iterator[Step]:
        """The object grown inside its disc."""
        looked_at = self.looking() if self.settings.place == "middle" else []
        pull = linear(self.settings.pull, self.settings.last_pull)
        return self._developed(begin, centers, steps, self.mask(centers), self.rate, pull, looked_at, "post-CI")

    def finish(self, begin: Tensor, centers: Tensor, steps: int) -> Iterator[Step]:
        """Last steps inside the whole disc, seen in the whole image."""
        pull = linear(self.settings.last_pull, self.settings.finish_pull)
        return self._developed(begin, centers, steps, self.last_mask(centers), self.finish_rate, pull, [], "finish")

    def _developed(
        self,
        begin: Tensor,
        centers: Tensor,
        steps: int,
        where: Callable[[Moment], Tensor] | None,
        rate: Schedule,
        pull: Schedule,
        looked_at: list[Augmentation],
        stage: str,
    ) -> Iterator[Step]:
        own, objective = self.settings, self.objective
        if own.statistics > 0:
            objective = objective - own.statistics * norm_statistics(self.classifier, _WITHIN)
        return ascend(
            self.classifier,
            objective,
            begin,
            steps=steps,
            streams=self.streams,
            looks=own.looks,
            residual=own.residual,
            rate=rate,
            augmentations=[*self.augmentations, *looked_at],
            direction=[
                preconditioned(own.precondition, own.color),
                unit_rms(where),
                saliency_weight(own.weight, where),
                *([] if where is None else [multiply(where)]),
            ],
            after=[*self.fading(rate, where if own.tv_where == "inside" else None), *self.pulling(centers, pull), clip],
            stage=stage,
        )

    def pixels(self, fraction: float) -> float:
        return fraction * min(self.size)

    @property
    def augmentations(self) -> list[Augmentation]:
        own = self.settings
        return [Affine(own.rotation, own.scale, self.pixels(own.shift))]

    @property
    def rate(self) -> Schedule:
        return linear(self.settings.rate, self.settings.last_rate)

    @property
    def finish_rate(self) -> Schedule:
        return linear(self.settings.finish_rate, self.settings.finish_rate / 4)

    def mask(self, centers: Tensor) -> Callable[[Moment], Tensor] | None:
        """The mask at each step, or None for none."""
        own = self.settings
        if own.mask == "none":
            return None
        if own.mask not in ("growing", "fixed"):
            raise OptionError(f"mask '{own.mask}' is unknown; choose growing, fixed or none")
        radii = linear(own.first_radius if own.mask == "growing" else own.radius, own.radius, max(1, own.grow))

        def at(moment: Moment) -> Tensor:
            if moment.memory.get("disc.step") is not moment.gradient:
                edge = self.pixels(own.soft)
                radius = self.pixels(radii(moment.step, moment.steps))
                moment.memory["disc.step"] = moment.gradient
                moment.memory["disc"] = disc(centers, radius, self.size, edge)
            return moment.memory["disc"]

        return at

    def last_mask(self, centers: Tensor) -> Callable[[Moment], Tensor] | None:
        """The mask of the last steps, at its last radius, or None for none."""
        if self.settings.mask == "none":
            return None
        whole = disc(centers, self.pixels(self.settings.radius), self.size, self.pixels(self.settings.finish_soft))
        return lambda _moment: whole

    def looking(self) -> list[Augmentation]:
        """The part in the middle that the network looks at; all of it where the network takes one size only."""
        part = (round(self.settings.view * self.size[0]), round(self.settings.view * self.size[1]))
        if self.settings.view >= 1 or not takes_size(self.classifier, part):
            return []
        corner = ((self.size[0] - part[0]) // 2, (self.size[1] - part[1]) // 2)
        return [Crop(part, corner)]

    def pulling(self, centers: Tensor, pull: Schedule) -> list[Rule]:
        """Far from the centers every step goes a little back to the mean image."""
        own = self.settings
        if own.pull == own.last_pull == own.finish_pull == 0:
            return []
        squares = distance_from(centers, self.size).square() / max(self.pixels(own.reach), 1e-6) ** 2
        fill = self.classifier.mean_image

        def pulled(images: Tensor, moment: Moment) -> Tensor:
            share = torch.exp(-pull(moment.step, moment.steps) * squares)
            return torch.lerp(fill.to(images).expand_as(images), images, share.to(images))

        return [pulled]

    def fading(self, rate: Schedule | None = None, where: Callable[[Moment], Tensor] | None = None) -> list[Rule]:
        """The step of total variation: apart from the class's, once in k iterations; as large as the rate allows."""
        own = self.settings
        if own.tv_every == 0 or own.tv == 0:
            return []

        def step(images: Tensor, moment: Moment) -> Tensor:
            size = own.tv * (rate(moment.step, moment.steps) / max(own.rate, 1e-30) if rate else 1.0)
            if own.tv_kind == "meeting":
                return total_variation_step(images, size)
            return images - size * total_variation_gradient(images)

        return [every(own.tv_every, step if where is None else within(where, step))]
