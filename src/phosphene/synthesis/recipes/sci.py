"""Saliency-driven class impressions: one object of a class, grown where a first rough impression was strongest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.options import Options, option
from phosphene.registry import register_recipe
from phosphene.runtime import input_gradient
from phosphene.synthesis.ascent import Step, ascend, part_of
from phosphene.synthesis.augment import Affine, Augmentation, Crop
from phosphene.synthesis.canvas import canvas_size, close_view, half_side, moved_to_middle, noisy_mean
from phosphene.synthesis.masks import disc, distance_from, strongest_disc
from phosphene.synthesis.norms import norm_statistics
from phosphene.synthesis.objectives import Objective, of_target
from phosphene.synthesis.priors import total_variation_gradient, total_variation_step
from phosphene.synthesis.schedules import Schedule, linear
from phosphene.synthesis.step_rules import StepRule, StepState, clip, every, multiply, preconditioned, unit_rms, within
from phosphene.synthesis.streams import Streams
from phosphene.synthesis.weights import saliency_weight
from phosphene.targets import Target
from phosphene.types import Score, Size


@dataclass(frozen=True)
class SciOptions(Options):
    """Options of `sci`."""

    steps: int = option("number of steps in all", best=200, paper=400, at_least=1)
    pre_steps: int = option("how many of them make the pre-CI; at most a third", best=24, paper=20)
    pre_rate: float = option("root mean square of a step of the pre-CI, in [0, 1] units", best=0.03, paper=0.1)
    rate: float = option("root mean square inside the mask of the first step after it", best=0.03, paper=0.02)
    last_rate: float = option("the same of the last step; linear between", best=0.012, paper=0.02)
    finish: int = option(
        "how many steps at the end look at the whole image, so that the class is seen in it at that size too; at most "
        "half of those after the pre-CI",
        best=40,
        paper=0,
    )
    finish_rate: float = option(
        "rate of the first of these, linear to a quarter of it at the last", best=0.01, paper=0.02
    )
    score: Score = option("logit, probability (its logarithm) or margin", "logit")
    start: Literal["pre_ci", "noise"] = option(
        "where the second run starts: pre_ci inside the disc, or noise, the start image everywhere", "pre_ci"
    )
    activation: Literal["change", "evidence"] = option(
        "what the disc of equation 5 is chosen by: change, |pre-CI - start| (our reading of the paper), or evidence, "
        "the positive part of gradient x (pre-CI - start)",
        best="evidence",
        paper="change",
    )
    place: Literal["found", "middle"] = option(
        "where the disc's content is developed again: where it was found, or moved to the middle of the image",
        best="middle",
        paper="found",
    )
    kept: float = option(
        "radius of the disc of equation 5, as a fraction of the shorter side, at most half of it",
        best=27 / 224,
        paper=48 / 224,
    )
    noise: float = option(
        "the start image is the mean image +- noise; from 1 on uniform over the whole range", best=0.05, paper=1.0
    )
    precondition: float = option("power of 1/f on the gradient; 0 for the plain gradient", best=1.0, paper=0.0)
    color: float = option(
        "power of the natural colors' covariance on the gradient, where it is preconditioned", best=0.5, paper=0.0
    )
    mask: Literal["growing", "fixed", "none"] = option("growing or fixed disc, or none", best="fixed", paper="growing")
    radius: float = option("final radius as a fraction of the shorter side", best=63 / 224, paper=150 / 224)
    first_radius: float = option("radius at the first step, likewise", best=27 / 224, paper=1 / 224)
    grow: int = option("steps over which the disc grows", best=110, paper=150)
    soft: float = option("width of the disc's edge, as a fraction of the shorter side", best=8 / 224, paper=0.0)
    finish_soft: float = option(
        "the same in the last steps; with a wide edge they draw most in the middle, so that the class's evidence has "
        "one center",
        best=63 / 224,
        paper=0.0,
    )
    weight: Literal["A", "B", "none"] = option("A, B or none", best="none", paper="A")
    tv: float = option(
        "size of a step down the total variation, in [0, 1] units; after the pre-CI in proportion to the rate, so "
        "that it does not take away what the small last steps draw",
        best=0.0012,
        paper=0.004,
    )
    tv_every: int = option("once in so many iterations; 0 never", 1)
    tv_where: Literal["everywhere", "inside"] = option("everywhere, or inside the mask only", "everywhere")
    tv_kind: Literal["sign", "clipped"] = option(
        "sign, the plain subgradient, or clipped, which does not overshoot", best="clipped", paper="sign"
    )
    pull: float = option(
        "how strongly each step pulls what lies far from the disc's center back to the mean image: a value keeps "
        "exp(-pull * (distance / reach)^2) of its difference",
        best=0.004,
        paper=0.0,
    )
    last_pull: float = option("the same at the last step of the growth; linear between", best=0.003, paper=0.0)
    finish_pull: float = option(
        "the same at the last step of `finish`, linear from `last_pull` on; these steps hold what the class needs "
        "against it: what else lies far from the center fades, and with it second centers of evidence",
        best=0.07,
        paper=0.0,
    )
    reach: float = option(
        "distance at which the pull is `pull`, as a fraction of the shorter side", best=48 / 224, paper=1.0
    )
    view: float = option(
        "side of the part, about the disc's center, that the network looks at, as a fraction of the image's; for "
        "discs in the middle, and only where the network takes images of other sizes",
        best=128 / 224,
        paper=1.0,
    )
    views_per_step: int = option(
        "augmented views of the image whose mean gradient makes a step; each costs as much as a step with one",
        best=8,
        paper=1,
    )
    residual: float = option(
        "what gradients through residual branches are multiplied by; below 1 more goes past the branches, and other "
        "networks read the picture more readily",
        best=0.5,
        paper=1.0,
    )
    statistics: float = option(
        "weight of the distance to the statistics in the network's batch norms (norm_statistics) after the pre-CI; it "
        "makes nothing of a network without them",
        0.0,
    )
    rotation: float = option("augmentation: degrees", best=12.0, paper=5.0)
    scale: tuple[float, float] = option("augmentation: low and high", best=(0.75, 1.2), paper=(0.95, 1.05))
    shift: float = option("augmentation: fraction of the shorter side", 16 / 224)


# Features near the border of what the network looks at are those of the empty surroundings.
_WITHIN = 0.9


@register_recipe(title="Saliency-driven class impression", paper="addepalli2020")
def sci(
    classifier: Classifier,
    target: Target,
    streams: Streams,
    options: SciOptions,
) -> Iterator[Step]:
    """One object that the classifier takes for the class, and nothing else: a pre-impression, its best disc, growth.

    A few large steps over the whole image give a pre-CI. The most activated disc (equation 5) is kept, the rest of the
    image set back, and the object is developed again by small steps inside a disc, which may grow:
    ``I += rate * W * mask * g / rms(g)``, W the weight of equations 2-4. Apart from that, a step down the total
    variation (equation 1) is made once in `tv_every` iterations on the whole image, so that what is not
    held up by the class fades out.

    Where the paper gives a number the preset `paper` has it: t = 150, C2 = 4, the radius 1 to 150 pixels of 224
    over 150 steps. All other numbers are ours: steps, rates, total variation, augmentation, the disc of equation 5.
    The preset `best` differs: its gradient is preconditioned by the spectrum and the colors of natural images, so
    it is nearly, not wholly, free of data; the disc is chosen by the evidence in it, which corners of strong
    contrast do not have, and moved to the middle; the last radius is small enough for one object; there is no
    weight, which made pictures noisier and less readable to others; each step is the mean over several views under
    wide moves, since other networks do not recognize what is seen in only one; for the same reason gradients
    through residual branches count half; the disc has its last radius from the first step on; the network looks
    closely at it while the object grows, and at the whole image in the last steps; each step pulls what lies far
    from the disc's center back to the mean image and the last steps draw most in the middle, so that one object
    stays; a step of total variation never overshoots.

    Args:
        classifier: the network that remembers.
        target: one class, or unit, per image.
        streams: the images' random numbers.
        options: see SciOptions.

    Yields:
        Steps; extras: `pre_ci` (N, C, H, W), `center` (N, 2) in pixels and `radius` (N,) of the disc.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((32, 32), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> last = list(sci(classifier, Target.of(1), Streams.of(0, [1]), SciOptions(steps=6)))[-1]
        >>> last.images.shape, last.stage, sorted(last.extras)
        (torch.Size([1, 3, 32, 32]), 'finish', ['center', 'pre_ci', 'radius'])

    References:
        addepalli2020; olah2017 for the preconditioning; wu2020 for the residual branches.
    """
    size = canvas_size(classifier)
    begin = noisy_mean(classifier, streams, options.noise, "range" if options.noise >= 1 else "uniform")
    target = target.expand(len(streams))
    parts = _Parts(options, size, classifier, streams, of_target(classifier, target, options.score))
    first = min(options.pre_steps, options.steps // 3)
    last_steps = min(options.finish, (options.steps - first) // 2)

    last = begin
    for step in part_of(parts.pre_ci(begin, first), 0, options.steps):
        last = step.images
        yield step

    radius = half_side(size, options.kept)
    centers = strongest_disc(_activation(options, classifier, target, last, begin), radius)
    shown = {"pre_ci": last, "center": centers, "radius": last.new_full((len(last),), float(radius))}
    if options.place == "middle" and options.mask != "none":
        last, centers = (
            moved_to_middle(last, centers),
            centers.new_tensor([[size[0] // 2, size[1] // 2]]).expand_as(centers),
        )
    if options.start == "noise":
        last = begin
    elif options.mask != "none":
        inside = disc(centers, radius, size, parts.pixels(options.soft))
        last = torch.lerp(begin, last, inside.to(begin).expand_as(begin))

    growth = options.steps - first - last_steps
    for step in part_of(parts.post_ci(last, centers, growth), first, options.steps, **shown):
        last = step.images
        yield step
    yield from part_of(parts.finish(last, centers, last_steps), first + growth, options.steps, **shown)


def _activation(options: SciOptions, classifier: Classifier, target: Target, pre_ci: Tensor, begin: Tensor) -> Tensor:
    """(N, H, W) how activated each place of the pre-CI is."""
    change = pre_ci - begin
    if options.activation == "change":
        return change.abs().sum(dim=1)
    _, gradient = input_gradient(classifier, pre_ci, target)
    return (gradient * change).clamp(min=0).sum(dim=1)


@dataclass(frozen=True)
class _Parts:
    """The runs that the options make for images of a size, and the rules of these runs."""

    options: SciOptions
    size: Size
    classifier: Classifier
    streams: Streams
    objective: Objective

    def pre_ci(self, begin: Tensor, steps: int) -> Iterator[Step]:
        """A few large steps over the whole image."""
        options = self.options
        return ascend(
            self.classifier,
            self.objective,
            begin,
            steps=steps,
            streams=self.streams,
            views_per_step=options.views_per_step,
            residual=options.residual,
            rate=options.pre_rate,
            augmentations=self.augmentations,
            direction=[preconditioned(options.precondition, options.color), unit_rms()],
            after=[*self.fading(), clip],
            stage="pre-CI",
        )

    def post_ci(self, begin: Tensor, centers: Tensor, steps: int) -> Iterator[Step]:
        """The object grown inside its disc."""
        close_up = self.close_up() if self.options.place == "middle" else []
        pull = linear(self.options.pull, self.options.last_pull)
        return self._developed(begin, centers, steps, self.mask(centers), self.rate, pull, close_up, "post-CI")

    def finish(self, begin: Tensor, centers: Tensor, steps: int) -> Iterator[Step]:
        """Last steps inside the whole disc, seen in the whole image."""
        pull = linear(self.options.last_pull, self.options.finish_pull)
        return self._developed(begin, centers, steps, self.last_mask(centers), self.finish_rate, pull, [], "finish")

    def _developed(
        self,
        begin: Tensor,
        centers: Tensor,
        steps: int,
        where: Callable[[StepState], Tensor] | None,
        rate: Schedule,
        pull: Schedule,
        close_up: list[Augmentation],
        stage: str,
    ) -> Iterator[Step]:
        options, objective = self.options, self.objective
        if options.statistics > 0:
            objective = objective - options.statistics * norm_statistics(self.classifier, _WITHIN)
        return ascend(
            self.classifier,
            objective,
            begin,
            steps=steps,
            streams=self.streams,
            views_per_step=options.views_per_step,
            residual=options.residual,
            rate=rate,
            augmentations=[*self.augmentations, *close_up],
            direction=[
                preconditioned(options.precondition, options.color),
                unit_rms(where),
                saliency_weight(options.weight, where),
                *([] if where is None else [multiply(where)]),
            ],
            after=[
                *self.fading(rate, where if options.tv_where == "inside" else None),
                *self.pulling(centers, pull),
                clip,
            ],
            stage=stage,
        )

    def pixels(self, fraction: float) -> float:
        return fraction * min(self.size)

    @property
    def augmentations(self) -> list[Augmentation]:
        options = self.options
        return [Affine(options.rotation, options.scale, self.pixels(options.shift))]

    @property
    def rate(self) -> Schedule:
        return linear(self.options.rate, self.options.last_rate)

    @property
    def finish_rate(self) -> Schedule:
        return linear(self.options.finish_rate, self.options.finish_rate / 4)

    def mask(self, centers: Tensor) -> Callable[[StepState], Tensor] | None:
        """The mask at each step, or None for none."""
        options = self.options
        if options.mask == "none":
            return None
        radii = linear(
            options.first_radius if options.mask == "growing" else options.radius, options.radius, max(1, options.grow)
        )

        def at(state: StepState) -> Tensor:
            if state.memory.get("disc.step") is not state.gradient:
                edge = self.pixels(options.soft)
                radius = self.pixels(radii(state.step, state.steps))
                state.memory["disc.step"] = state.gradient
                state.memory["disc"] = disc(centers, radius, self.size, edge)
            return state.memory["disc"]

        return at

    def last_mask(self, centers: Tensor) -> Callable[[StepState], Tensor] | None:
        """The mask of the last steps, at its last radius, or None for none."""
        if self.options.mask == "none":
            return None
        whole = disc(centers, self.pixels(self.options.radius), self.size, self.pixels(self.options.finish_soft))
        return lambda _state: whole

    def close_up(self) -> list[Augmentation]:
        """The part in the middle that the network looks at; all of it where the network takes one size only."""
        part = close_view(self.classifier, self.options.view, self.size)
        if part is None:
            return []
        corner = ((self.size[0] - part[0]) // 2, (self.size[1] - part[1]) // 2)
        return [Crop(part, corner)]

    def pulling(self, centers: Tensor, pull: Schedule) -> list[StepRule]:
        """Far from the centers every step goes a little back to the mean image."""
        options = self.options
        if options.pull == options.last_pull == options.finish_pull == 0:
            return []
        squares = distance_from(centers, self.size).square() / max(self.pixels(options.reach), 1e-6) ** 2
        fill = self.classifier.mean_image

        def pulled(images: Tensor, state: StepState) -> Tensor:
            share = torch.exp(-pull(state.step, state.steps) * squares)
            return torch.lerp(fill.to(images).expand_as(images), images, share.to(images))

        return [pulled]

    def fading(
        self, rate: Schedule | None = None, where: Callable[[StepState], Tensor] | None = None
    ) -> list[StepRule]:
        """The step of total variation: apart from the class's, once in k iterations; as large as the rate allows."""
        options = self.options
        if options.tv_every == 0 or options.tv == 0:
            return []

        def step(images: Tensor, state: StepState) -> Tensor:
            size = options.tv * (rate(state.step, state.steps) / max(options.rate, 1e-30) if rate else 1.0)
            if options.tv_kind == "clipped":
                return total_variation_step(images, size)
            return images - size * total_variation_gradient(images)

        return [every(options.tv_every, step if where is None else within(where, step))]
