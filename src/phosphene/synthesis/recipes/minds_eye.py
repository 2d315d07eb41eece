"""The Mind's Eye: an image per facet whose activations at a layer come to those of the facet's exemplars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene import maps as arithmetic
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.registry import register_recipe
from phosphene.runtime import activations, prepare
from phosphene.synthesis.ascent import (
    Moment,
    Optimizer,
    Rule,
    Step,
    ascend,
    clip,
    every,
    multiply,
    preconditioned,
    unit_rms,
    within,
)
from phosphene.synthesis.augment import Affine, Augmentation, until
from phosphene.synthesis.canvas import Preset, settings_of
from phosphene.synthesis.facets import channel_mask, strongest_channels, weighted_sum
from phosphene.synthesis.masks import centered
from phosphene.synthesis.matching import FacetLoss, Match, Terms, channel_values, mismatch, previous_norm
from phosphene.synthesis.objectives import Objective
from phosphene.synthesis.priors import total_variation_step
from phosphene.synthesis.robust_loss import AdaptiveDistance
from phosphene.synthesis.schedules import linear
from phosphene.synthesis.streams import Streams


@dataclass(frozen=True)
class Exemplars:
    """What is visualized: a layer, and for each facet the images that stand for it.

    Args:
        layer: dotted name.
        images: per facet (n, C, H, W) in [0, 1], all of one size.
        weights: per facet (n,), summing to 1.
        previous: the layer before; None for none.
    """

    layer: str
    images: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    previous: str | None = None

    def start(self) -> Tensor:
        """(F, C, H, W) the weighted sum of each facet's images (equation 1)."""
        return torch.stack([weighted_sum(*pair) for pair in zip(self.images, self.weights, strict=True)])

    def targets(self, classifier: Classifier, *, maps: bool = False) -> dict[str, Tensor]:
        """Per layer (F, k, P): the weighted sum of the activations of each facet's images (equation 1)."""
        layers = [self.layer, *([self.previous] if self.previous else [])]
        rows: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        for images, weights in zip(self.images, self.weights, strict=True):
            _, found = activations(classifier, images, layers)
            for layer in layers:
                layout = prepare(classifier).layout(layer)
                apart = maps and layer == self.layer
                values = channel_values(found[layer], images, f"layer {layer}", maps=apart, layout=layout)
                rows[layer].append(weighted_sum(values, weights))
        return {layer: torch.stack(values) for layer, values in rows.items()}


@dataclass(frozen=True)
class Settings:
    """The numbers of a preset; see `minds_eye`."""

    steps: int
    side: int
    rate: float
    last_rate: float
    momentum: float
    precondition: float
    unit: bool
    start: Literal["exemplars", "blurred", "mean"]
    distance: Literal["top", "all"]
    order: Literal[1, 2]
    per: Literal["facet", "channel"]
    relative: bool
    maps: bool
    distance_weight: float
    dot_weight: float
    previous: Literal["norm", "match", "none"]
    previous_weight: float
    last_previous_weight: float
    smooth_every: int
    blur: float
    last_blur: float
    denoise: float
    last_denoise: float
    mask: float
    last_mask: float
    rotation: float
    scale: tuple[float, float]
    shift: float
    settle: float
    tv: float
    last_tv: float


PRESETS = {
    "best": Settings(
        steps=160,
        side=0,
        rate=0.03,
        last_rate=0.004,
        momentum=0.0,
        precondition=1.0,
        unit=True,
        start="blurred",
        distance="all",
        order=2,
        per="facet",
        relative=True,
        maps=False,
        distance_weight=1.0,
        dot_weight=0.3,
        previous="match",
        previous_weight=0.5,
        last_previous_weight=0.5,
        smooth_every=0,
        blur=0.0,
        last_blur=0.0,
        denoise=0.0,
        last_denoise=0.0,
        mask=0.0,
        last_mask=0.0,
        rotation=8.0,
        scale=(0.9, 1.1),
        shift=16 / 224,
        settle=0.25,
        tv=0.0015,
        last_tv=0.0003,
    ),
    "paper": Settings(
        steps=2001,
        side=512,
        rate=0.5,
        last_rate=0.08,
        momentum=0.9,
        precondition=0.0,
        unit=False,
        start="exemplars",
        distance="top",
        order=1,
        per="facet",
        relative=False,
        maps=False,
        distance_weight=1.0,
        dot_weight=1.0,
        previous="norm",
        previous_weight=1e-3,
        last_previous_weight=1e-4,
        smooth_every=10,
        blur=0.9 / 512,
        last_blur=0.2 / 512,
        denoise=2.0,
        last_denoise=8.0,
        mask=70 / 512,
        last_mask=57 / 512,
        rotation=0.0,
        scale=(1.0, 1.0),
        shift=0.0,
        settle=0.0,
        tv=0.0,
        last_tv=0.0,
    ),
}


@register_recipe(title="The Mind's Eye", paper="stergiou2021", family="features", presets=tuple(PRESETS))
def minds_eye(
    classifier: Classifier,
    exemplars: Exemplars,
    streams: Streams,
    *,
    preset: Preset = "best",
    steps: int | None = None,
    terms: Terms = "full",
    top_k: int = 50,
    side: int | None = None,
    rate: float | None = None,
    last_rate: float | None = None,
    momentum: float | None = None,
    precondition: float | None = None,
    unit: bool | None = None,
    start: Literal["exemplars", "blurred", "mean"] | None = None,
    distance: Literal["top", "all"] | None = None,
    order: Literal[1, 2] | None = None,
    per: Literal["facet", "channel"] | None = None,
    relative: bool | None = None,
    maps: bool | None = None,
    distance_weight: float | None = None,
    dot_weight: float | None = None,
    previous: Literal["norm", "match", "none"] | None = None,
    previous_weight: float | None = None,
    last_previous_weight: float | None = None,
    smooth_every: int | None = None,
    blur: float | None = None,
    last_blur: float | None = None,
    denoise: float | None = None,
    last_denoise: float | None = None,
    mask: float | None = None,
    last_mask: float | None = None,
    rotation: float | None = None,
    scale: tuple[float, float] | None = None,
    shift: float | None = None,
    settle: float | None = None,
    tv: float | None = None,
    last_tv: float | None = None,
) -> Iterator[Step]:
    """An image per facet that a layer takes for the facet's exemplars, all facets in one batch.

    Minimizes ``AD - DM + lambda * previous`` (equation 4): AD the adaptive robust distance to the target activation,
    a negative log-likelihood whose shape and scale are fitted along the way; DM the dot product with the target over
    the facet's own top-k channels; and the L1 norm of the layer before. Starts from the weighted sum of the exemplars.

    The preset `paper` takes the paper's terms and the published script's numbers: 512 px, momentum 0.9 (Nesterov),
    2001 steps, rate 0.5 to 0.08 in units of the normalized input, lambda 1e-3 to 1e-4, every 10 steps a blur of
    sigma 0.9 to 0.2 px and split-Bregman denoising of weight 2 to 8 (in scikit-image a larger weight denoises less),
    inside the mask; a center-biased gradient mask of sigma 70 to 57 px. Schedules are linear from the first to the
    last step: equation 5 lacks a `- end` in its numerator. Left out of the script: its shifting canvas, its brightness
    offsets, and its rounding to 8 bits. The preset `best` is ours: a preconditioned gradient, the distance over all
    channels and relative to the target's length, the layer before matched to the exemplars' instead of kept low,
    random small moves that end for the last steps. None of an option takes the preset's value.

    Args:
        classifier: the network.
        exemplars: the layer and the images that stand for each facet.
        streams: the images' random numbers, one stream per facet.
        preset: best or paper.
        steps: number of steps.
        terms: full, dot (DM alone) or distance (AD alone).
        top_k: channels of the target that DM looks at, the strongest of each facet.
        side: shorter side of the image in pixels; 0 for that of the exemplars.
        rate: step size at first, see `unit`.
        last_rate: at the last step; linear between.
        momentum: of Nesterov's steps; 0 for plain ones.
        precondition: power of 1/f on the gradient; 0 for the plain gradient.
        unit: whether the direction has a root mean square of 1, so that `rate` is a step of pixels in [0, 1].
        start: exemplars, their weighted sum; blurred, that without its details; mean, the mean image and noise.
        distance: channels of AD: the top-k, or all.
        order: 1 for the sum of the channels' differences, 2 for the root of the sum of their squares.
        per: whether shape and scale of AD belong to the facet, or to each of its channels (the script).
        relative: whether distance and dot product are in units of the target's own length.
        maps: whether activations are compared place by place instead of as means.
        distance_weight: of AD.
        dot_weight: of DM.
        previous: norm, L1 of the layer before; match, its distance to the exemplars'; or none.
        previous_weight: lambda at first.
        last_previous_weight: lambda at the last step; linear between.
        smooth_every: once in so many steps the image is blurred and denoised; 0 never.
        blur: sigma at first, as a fraction of the shorter side.
        last_blur: at the last step; linear between.
        denoise: weight of the denoising at first; 0 for none.
        last_denoise: at the last step; linear between.
        mask: sigma of the center-biased mask at first, as a fraction of the shorter side; 0 for none.
        last_mask: at the last step; linear between.
        rotation: augmentation: degrees.
        scale: augmentation: low and high.
        shift: augmentation: fraction of the shorter side.
        settle: share of the steps, at the end, without augmentation.
        tv: size of the step down the total variation that follows each step, at first, in [0, 1] units.
        last_tv: at the last step; linear between.

    Yields:
        Steps; extras: the terms `distance`, `dot`, `previous` and `mismatch`, (F,) each, before the step.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.
        ModelError: if places are asked for (maps) of a layer that has none.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> exemplars = Exemplars("1", (torch.rand(5, 3, 16, 16),), (torch.full((5,), 0.2),), previous="0")
        >>> last = list(minds_eye(Classifier(net), exemplars, Streams.of(0, ["facet 0"]), steps=3, top_k=2))[-1]
        >>> last.images.shape, sorted(last.extras)
        (torch.Size([1, 3, 16, 16]), ['distance', 'dot', 'mismatch', 'previous'])

    References:
        stergiou2021; barron2019 for the distance; olah2017 for the preconditioning.
    """
    given = {name: value for name, value in locals().items() if name in Settings.__dataclass_fields__}
    own = settings_of(PRESETS, preset, **given)
    begin = _start(classifier, exemplars, own, streams)
    loss = _loss(classifier, exemplars, own, terms, top_k)
    parts = _Parts(own, (int(begin.shape[-2]), int(begin.shape[-1])))
    run = ascend(
        classifier,
        loss.objective,
        begin,
        steps=own.steps,
        streams=streams,
        rate=linear(own.rate, own.last_rate),
        optimizer=parts.optimizer,
        augmentations=parts.augmentations,
        direction=parts.direction(classifier),
        after=[loss.fit, *parts.smoothing, clip],
        stage="facets",
    )
    for step in run:
        yield replace(step, extras={name: values.clone() for name, values in loss.terms.items()})


def _start(classifier: Classifier, exemplars: Exemplars, own: Settings, streams: Streams) -> Tensor:
    """(F, C, H, W) what the images start from, at the size they will have."""
    begin = exemplars.start().to(classifier.device)
    height, width = (int(side) for side in begin.shape[-2:])
    if own.start == "mean":
        noise = streams.at(0).under("start").field("noise", begin.shape[1:])
        begin = (classifier.mean_image + 0.02 * (noise - 0.5).to(begin)).clamp(0, 1)
    elif own.start == "blurred":
        sigma = _START_BLUR * min(height, width)
        begin = arithmetic.blur(begin.flatten(0, 1), sigma).reshape(begin.shape)
    elif own.start != "exemplars":
        raise OptionError(f"start '{own.start}' is unknown; choose exemplars, blurred or mean")
    if own.side == 0 or own.side == min(height, width):
        return begin
    size = tuple(round(side * own.side / min(height, width)) for side in (height, width))
    return F.interpolate(begin, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


# Sigma of the start image's blur as a fraction of its shorter side: colors and the rough layout stay (ours).
_START_BLUR = 0.04


def _loss(classifier: Classifier, exemplars: Exemplars, own: Settings, terms: Terms, top_k: int) -> FacetLoss:
    """Equation 4 for these facets."""
    if terms not in ("full", "dot", "distance"):
        raise OptionError(f"terms '{terms}' are unknown; choose full, dot or distance")
    targets = exemplars.targets(classifier, maps=own.maps)
    target = targets[exemplars.layer]
    top = channel_mask(strongest_channels(target.mean(dim=2).cpu(), top_k), target.shape[1])
    counted = top if own.distance == "top" else torch.ones_like(top)
    match = Match(exemplars.layer, target, counted, own.order, own.relative)
    previous: Objective | None = None
    if exemplars.previous is not None and own.previous != "none" and terms == "full":
        below = targets[exemplars.previous]
        every_channel = torch.ones(below.shape[:2], device="cpu")
        matched = Match(exemplars.previous, below, every_channel, own.order, own.relative)
        previous = mismatch(matched) if own.previous == "match" else previous_norm(exemplars.previous)
    return FacetLoss(
        match,
        replace(match, mask=top),
        AdaptiveDistance(tuple(counted.shape) if own.per == "channel" else (len(target),), device=target.device),
        previous,
        weights=(own.distance_weight * (terms != "dot"), own.dot_weight * (terms != "distance")),
        decay=linear(own.previous_weight, own.last_previous_weight),
    )


@dataclass(frozen=True)
class _Parts:
    """The rules that the settings make for images of a size."""

    own: Settings
    size: tuple[int, int]

    def pixels(self, fraction: float) -> float:
        return fraction * min(self.size)

    @property
    def optimizer(self) -> Optimizer | None:
        if self.own.momentum == 0:
            return None
        return partial(torch.optim.SGD, lr=1.0, momentum=self.own.momentum, nesterov=True, maximize=True)

    @property
    def augmentations(self) -> list[Augmentation]:
        own = self.own
        if own.settle >= 1 or (own.rotation == own.shift == 0 and own.scale == (1, 1)):
            return []
        last = own.steps - round(own.settle * own.steps)
        return [until(last, Affine(own.rotation, own.scale, self.pixels(own.shift)))]

    def direction(self, classifier: Classifier) -> list[Rule]:
        own = self.own
        rules: list[Rule] = [preconditioned(own.precondition)]
        rules += [multiply(self.mask)] if own.mask > 0 else []
        return [*rules, unit_rms() if own.unit else multiply(_input_units(classifier))]

    def mask(self, moment: Moment) -> Tensor:
        sigma = linear(self.own.mask, self.own.last_mask)(moment.step, moment.steps)
        return centered(self.size, self.pixels(sigma)).to(moment.parameters)

    @property
    def smoothing(self) -> list[Rule]:
        """Blur and denoising once in `smooth_every` steps, inside the mask; total variation after each step."""
        own, rules = self.own, list[Rule]()
        if own.tv > 0:
            rules.append(self.calm)
        if own.smooth_every > 0 and (own.blur > 0 or own.denoise > 0):
            rules.append(every(own.smooth_every, within(self.mask, self.smooth) if own.mask > 0 else self.smooth))
        return rules

    def calm(self, images: Tensor, moment: Moment) -> Tensor:
        return total_variation_step(images, linear(self.own.tv, self.own.last_tv)(moment.step, moment.steps))

    def smooth(self, images: Tensor, moment: Moment) -> Tensor:
        own = self.own
        sigma = self.pixels(linear(own.blur, own.last_blur)(moment.step, moment.steps))
        images = arithmetic.blur(images.flatten(0, 1), sigma).reshape(images.shape)
        return denoised(images, linear(own.denoise, own.last_denoise)(moment.step, moment.steps))


def _input_units(classifier: Classifier) -> Tensor:
    """(1, C, 1, 1) what turns a gradient by pixels into the step of normalized inputs, in pixels: std squared."""
    std = torch.tensor(classifier.preprocess.std, device=classifier.device)
    return std.square().reshape(1, -1, 1, 1)


def denoised(images: Tensor, weight: float) -> Tensor:
    """Images after split-Bregman total-variation denoising; a larger weight denoises less, 0 leaves them alone.

    References:
        getreuer2012.
    """
    from skimage.restoration import denoise_tv_bregman

    if weight <= 0:
        return images
    smooth: Sequence[np.ndarray] = [
        denoise_tv_bregman(image.movedim(0, -1).cpu().double().numpy(), weight=weight, channel_axis=-1)
        for image in images
    ]
    return torch.stack([torch.from_numpy(np.ascontiguousarray(image)) for image in smooth]).movedim(-1, 1).to(images)
