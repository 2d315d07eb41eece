"""Saliency-driven class impressions: one object of a class, grown where a first rough impression was strongest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.options import option
from phosphene.registry import register_recipe
from phosphene.runtime import input_gradient, prepare
from phosphene.synthesis.ascent import Step
from phosphene.synthesis.background import Held
from phosphene.synthesis.canvas import canvas_size, half_side, moved_to_middle, noisy_mean
from phosphene.synthesis.masks import disc, strongest_disc
from phosphene.synthesis.objectives import NOTHING
from phosphene.synthesis.published import Published
from phosphene.synthesis.schedules import Schedule, cosine, linear
from phosphene.synthesis.staged import (
    START_NOISE,
    DrawingOptions,
    DrawnScore,
    Mask,
    Prior,
    discs,
    draw,
    raised,
)
from phosphene.synthesis.step_rules import StepRule, calmed
from phosphene.synthesis.streams import Streams
from phosphene.synthesis.weights import WeightKind, saliency_weight
from phosphene.targets import Target


@dataclass(frozen=True)
class SciOptions(DrawingOptions):
    """Options of `sci`."""

    steps: int = option("number of steps in all", best=200, paper=400, at_least=1)
    rate: float = option(
        "root mean square inside the mask of the first step after the pre-CI", best=0.06, paper=0.02, at_least=0
    )
    pre_steps: int = option("how many of them make the pre-CI; at most a third", best=24, paper=20, at_least=0)
    pre_rate: float = option(
        "root mean square of a step of the pre-CI, in [0, 1] units", best=0.1, paper=0.1, at_least=0
    )
    score: DrawnScore = option(
        "saturating, a log-probability that pulls less the surer the network is; logit, probability (its logarithm) "
        "or margin",
        best="saturating",
        paper="logit",
    )
    temperature: float = option(
        "of the saturating score: the higher, the later it is satisfied; 0 for 1.6, or 2.5 where under the prior no "
        "statistics hold the picture as well",
        best=0.0,
        paper=1.6,
        at_least=0,
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
    start: Literal["pre_ci", "noise"] = option(
        "where the second run starts: pre_ci inside the disc, or noise, the start image everywhere", "pre_ci"
    )
    kept: float = option(
        "radius of the disc of equation 5, as a fraction of the shorter side, at most half of it",
        best=0.3,
        paper=48 / 224,
        at_least=0,
    )
    mask: Literal["growing", "fixed", "none"] = option("growing or fixed disc, or none", "growing")
    first_radius: float = option(
        "radius at the first step, as a fraction of the shorter side",
        best=0.15,
        paper=1 / 224,
        at_least=0,
    )
    radius: float = option("final radius, likewise", best=0.6, paper=150 / 224, at_least=0)
    grow: int = option("steps over which the disc grows", best=90, paper=150, at_least=0)
    soft: float = option("width of the disc's edge, likewise", best=0.2, paper=0.0, at_least=0)
    weight: WeightKind = option("map of step sizes by equations 2-4, reading A or B, or none", "A")
    tv: float = option(
        "size of a step down the total variation on the whole image, in [0, 1] units; it falls with the rate, anew at "
        "each stage of resolution",
        best=0.003,
        paper=0.004,
        at_least=0,
    )
    tv_every: int = option("once in so many iterations; 0 never", 1, at_least=0)


# The weight of equations 2-4 under the prior: its limit; its blur, over regions, as it turns pixels into speckles; and
# from how far before black and white on steps shrink, as regions that it enlarges would else burn out.
_SMOOTHED = 4.0, 0.02, 0.3

# The temperature beside statistics, and where the score alone draws the picture: other networks read more of that where
# it is satisfied later, and less beside statistics (docs/decisions/0005).
_BESIDE, _ALONE = 1.6, 2.5


@register_recipe(title="Saliency-driven class impression", paper="addepalli2020")
def sci(
    classifier: Classifier,
    target: Target,
    streams: Streams,
    options: SciOptions,
) -> Iterator[Step]:
    """One object that the classifier takes for the class: a pre-impression, its most activated disc, growth.

    A few large steps over the whole image give a pre-CI. The most activated disc (equation 5) is kept, the rest of the
    image set back, and the object is developed again by smaller steps inside a disc, which may grow:
    ``I += rate * W * mask * g / rms(g)``, W the weight of equations 2-4. Apart from that, a step down the total
    variation (equation 1) is made once in `tv_every` iterations on the whole image, so that what is not held up by
    the class fades out.

    Where the paper gives a number the preset `paper` has it: t = 150, C2 = 4, the radius 1 to 150 pixels of 224
    over 150 steps. Before each look it moves the image as the published generator of class impressions does, with
    the crop at a random place (synthesis.published). All other numbers are ours: steps, rates, total variation, the
    disc of equation 5.
    The preset `best` does the same under the prior of photographs (synthesis.staged), which is nearly, not wholly,
    free of data; its disc is chosen by the evidence in it and moved to the middle, its edge is wide, and the weight is
    one over regions, whose steps shrink towards black and white; of a network without statistics the score is
    satisfied later. A unit is drawn over the whole frame there, with the prior's own total variation: it has no
    surroundings that should fade.

    Args:
        classifier: the network that remembers.
        target: one class, or unit, per image.
        streams: the images' random numbers.
        options: see SciOptions.

    Yields:
        Steps; extras: `pre_ci` (N, C, H, W), `center` (N, 2) in pixels and `radius` (N,) of the disc; with a
        transparent background the last has `alpha` (N, 1, H, W) in [0, 1], how much each place was developed.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((32, 32), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> last = list(sci(classifier, Target.of(1), Streams.of(0, [1]), SciOptions(steps=6)))[-1]
        >>> last.images.shape, last.stage, sorted(last.extras)
        (torch.Size([1, 3, 32, 32]), 'post-CI', ['center', 'pre_ci', 'radius'])

    References:
        addepalli2020; olah2017 for the preconditioning; fel2023 for the accumulated gradient as alpha.
    """
    size, target, drawn = canvas_size(classifier), target.expand(len(streams)), options.prior == "photographs"
    placed = target.placed_in(prepare(classifier))
    whole = drawn and (bool(target.layers) or placed)
    if whole:  # (a channel responds everywhere: it fills the frame, and has no surroundings that should fade)
        options = replace(options, mask="none", weight="none", tv=0.0)
    begin = (
        noisy_mean(classifier, streams, START_NOISE, "normal")
        if drawn
        else noisy_mean(classifier, streams, 1.0, "range")
    )
    apart = options.apart(classifier, target)
    alone = drawn and apart is NOTHING
    goal = raised(classifier, target, options.score, options.temperature or (_ALONE if alone else _BESIDE)) - apart
    # (TV is a rule of its own here: the paper's part, on the whole image, also where the mask lets nothing else be.)
    tv = Prior.tv if whole else 0.0
    prior = options.photographs(placed, middle=False, tv=tv) if drawn else Published.none()
    first = min(options.pre_steps, options.steps // 3)

    last = begin
    pre_rate = _constant(options.pre_rate)
    for step in draw(
        classifier, goal, begin, streams, options.steps, prior, last=first, rate=pre_rate,
        after=_fading(options, pre_rate, 0), stage="pre-CI",
    ):  # fmt: skip
        last = step.images
        yield step

    radius = half_side(size, options.kept)
    centers = strongest_disc(_activation(options, classifier, target, last, begin), radius)
    shown = {"pre_ci": last, "center": centers, "radius": last.new_full((len(last),), float(radius))}
    if options.place == "middle" and options.mask != "none":
        last = moved_to_middle(last, centers)
        centers = centers.new_tensor([[size[0] // 2, size[1] // 2]]).expand_as(centers)
    if options.start == "noise":
        last = begin
    elif options.mask != "none":
        inside = disc(centers, radius, size, options.soft * min(size) / 2)
        last = torch.lerp(begin, last, inside.to(begin).expand_as(begin))

    rate: Schedule = cosine(options.rate, 0.08 * options.rate) if drawn else _constant(options.rate)
    mask, held = _mask(options, centers, size, first), Held()
    limit, smooth, room = _SMOOTHED if drawn else (10.0, 0.0, 0.0)
    weight = saliency_weight(options.weight, limit=limit, smooth=smooth, room=room)
    run = draw(
        classifier, goal, last, streams, options.steps, prior, first=first, rate=rate, mask=mask,
        weight=weight, watch=held.see, after=_fading(options, rate, first), stage="post-CI",
    )  # fmt: skip
    for step in held.finished(run, options.background):
        yield replace(step, extras={**shown, **step.extras})


def _activation(options: SciOptions, classifier: Classifier, target: Target, pre_ci: Tensor, begin: Tensor) -> Tensor:
    """(N, H, W) how activated each place of the pre-CI is."""
    change = pre_ci - begin
    if options.activation == "change":
        return change.abs().sum(dim=1)
    _, gradient = input_gradient(classifier, pre_ci, target)
    return (gradient * change).clamp(min=0).sum(dim=1)


def _mask(options: SciOptions, centers: Tensor, size: tuple[int, int], first: int) -> Mask | None:
    """The disc about each center, which grows from the end of the pre-CI on."""
    if options.mask == "none":
        return None
    begun = options.first_radius if options.mask == "growing" else options.radius
    radii = linear(begun, options.radius, max(1, options.grow))
    places = (centers.float() + 0.5) / centers.new_tensor(size).float()
    return discs(places, lambda step: radii(step - first, options.steps), options.soft)


def _constant(value: float) -> Schedule:
    return lambda _step, _steps: value


def _fading(options: SciOptions, rate: Schedule, first: int) -> list[StepRule]:
    """The step of total variation: apart from the class's, once in k iterations; as large as the rate allows.

    It falls with the rate of the steps after the pre-CI, anew at each stage of resolution. Where it falls through all
    stages to the end, objects are sharper and speckled, and other networks read them less (docs/decisions/0005).
    """
    if options.tv == 0:
        return []

    def size(step: int) -> float:
        return options.tv * rate(first + step, options.steps) / max(rate(0, options.steps), 1e-30)

    return calmed(size, options.tv_every, literal=options.prior == "none")
