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
from phosphene.options import Options, option
from phosphene.registry import register_recipe
from phosphene.runtime import activations, prepare
from phosphene.synthesis.ascent import Optimizer, Step
from phosphene.synthesis.augment import Affine, Augmentation, until
from phosphene.synthesis.facets import channel_mask, strongest_channels, weighted_sum
from phosphene.synthesis.masks import centered
from phosphene.synthesis.matching import FacetLoss, Match, Terms, channel_values, mismatch, previous_norm
from phosphene.synthesis.objectives import Objective
from phosphene.synthesis.priors import total_variation_step
from phosphene.synthesis.robust_loss import AdaptiveDistance
from phosphene.synthesis.schedules import linear
from phosphene.synthesis.staged import Prior, draw
from phosphene.synthesis.step_rules import StepRule, StepState, every, multiply, within
from phosphene.synthesis.streams import Streams
from phosphene.types import Size


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
class MindsEyeOptions(Options):
    """Options of `minds_eye`."""

    steps: int = option("number of steps", best=160, paper=2001, at_least=1)
    terms: Terms = option("full, dot (DM alone) or distance (AD alone)", "full")
    top_k: int = option("channels of the target that DM looks at, the strongest of each facet", 50, at_least=1)
    side: int = option(
        "shorter side of the image in pixels; 0 for that of the exemplars", best=0, paper=512, at_least=0
    )
    rate: float = option("step size at first, see `unit`", best=0.03, paper=0.5, at_least=0)
    last_rate: float = option("at the last step; linear between", best=0.004, paper=0.08, at_least=0)
    momentum: float = option("of Nesterov's steps; 0 for plain ones", best=0.0, paper=0.9, at_least=0)
    precondition: float = option(
        "power of 1/f on the gradient, which is halved in residual branches; 0 for the plain gradient",
        best=1.0,
        paper=0.0,
        at_least=0,
    )
    unit: bool = option(
        "whether the direction has a root mean square of 1, so that `rate` is a step of pixels in [0, 1]",
        best=True,
        paper=False,
    )
    start: Literal["exemplars", "blurred", "mean"] = option(
        "exemplars, their weighted sum; blurred, that without its details; mean, the mean image and noise",
        best="blurred",
        paper="exemplars",
    )
    distance: Literal["top", "all"] = option("channels of AD: the top-k, or all", best="all", paper="top")
    order: Literal[1, 2] = option(
        "1 for the sum of the channels' differences, 2 for the root of the sum of their squares", best=2, paper=1
    )
    per: Literal["facet", "channel"] = option(
        "whether shape and scale of AD belong to the facet, or to each of its channels (the script)", "facet"
    )
    relative: bool = option(
        "whether distance and dot product are in units of the target's own length", best=True, paper=False
    )
    maps: bool = option("whether activations are compared place by place instead of as means", False)
    distance_weight: float = option("of AD", 1.0, at_least=0)
    dot_weight: float = option("of DM", best=0.3, paper=1.0, at_least=0)
    previous: Literal["norm", "match", "none"] = option(
        "norm, L1 of the layer before; match, its distance to the exemplars'; or none", best="match", paper="norm"
    )
    previous_weight: float = option("lambda at first", best=0.5, paper=1e-3, at_least=0)
    last_previous_weight: float = option("lambda at the last step; linear between", best=0.5, paper=1e-4, at_least=0)
    smooth_every: int = option(
        "once in so many steps the image is blurred and denoised; 0 never", best=0, paper=10, at_least=0
    )
    blur: float = option("sigma at first, as a fraction of the shorter side", best=0.0, paper=0.9 / 512, at_least=0)
    last_blur: float = option("at the last step; linear between", best=0.0, paper=0.2 / 512, at_least=0)
    denoise: float = option("weight of the denoising at first; 0 for none", best=0.0, paper=2.0, at_least=0)
    last_denoise: float = option("at the last step; linear between", best=0.0, paper=8.0, at_least=0)
    mask: float = option(
        "sigma of the center-biased mask at first, as a fraction of the shorter side; 0 for none",
        best=0.0,
        paper=70 / 512,
        at_least=0,
    )
    last_mask: float = option("at the last step; linear between", best=0.0, paper=57 / 512, at_least=0)
    rotation: float = option("augmentation: degrees", best=8.0, paper=0.0, at_least=0)
    scale: tuple[float, float] = option("augmentation: low and high", best=(0.9, 1.1), paper=(1.0, 1.0))
    shift: float = option("augmentation: fraction of the shorter side", best=16 / 224, paper=0.0, at_least=0)
    settle: float = option(
        "share of the steps, at the end, without augmentation", best=0.25, paper=0.0, at_least=0, at_most=1
    )
    tv: float = option(
        "size of the step down the total variation that follows each step, at first, in [0, 1] units",
        best=0.0015,
        paper=0.0,
        at_least=0,
    )
    last_tv: float = option("at the last step; linear between", best=0.0003, paper=0.0, at_least=0)


@register_recipe(title="The Mind's Eye", paper="stergiou2021", family="features")
def minds_eye(
    classifier: Classifier,
    exemplars: Exemplars,
    streams: Streams,
    options: MindsEyeOptions,
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
    offsets, and its rounding to 8 bits. The preset `best` is ours: a preconditioned gradient, halved where it comes
    through residual branches as in the drawings of classes, the distance over all channels and relative to the target's
    length, the layer before matched to the exemplars' instead of kept low, random small moves that end for the last
    steps.

    Args:
        classifier: the network.
        exemplars: the layer and the images that stand for each facet.
        streams: the images' random numbers, one stream per facet.
        options: see MindsEyeOptions.

    Yields:
        Steps; extras: the terms `distance`, `dot`, `previous` and `mismatch`, (F,) each, before the step.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.
        ModelError: if places are asked for (maps) of a layer that has none.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> exemplars = Exemplars("1", (torch.rand(5, 3, 16, 16),), (torch.full((5,), 0.2),), previous="0")
        >>> options = MindsEyeOptions(steps=3, top_k=2)
        >>> last = list(minds_eye(Classifier(net), exemplars, Streams.of(0, ["facet 0"]), options))[-1]
        >>> last.images.shape, sorted(last.extras)
        (torch.Size([1, 3, 16, 16]), ['distance', 'dot', 'mismatch', 'previous'])

    References:
        stergiou2021; barron2019 for the distance; olah2017 for the preconditioning; wu2020 for the residual branches.
    """
    begin = _start(classifier, exemplars, options, streams)
    loss = _loss(classifier, exemplars, options)
    parts = _Parts(options, (int(begin.shape[-2]), int(begin.shape[-1])))
    run = draw(
        classifier,
        loss.objective,
        begin,
        streams,
        options.steps,
        Prior.none(power=options.precondition, color=1.0, residual=Prior.residual if options.precondition > 0 else 1.0),
        rate=linear(options.rate, options.last_rate),
        mask=parts.mask if options.mask > 0 else None,
        looks=parts.looks,
        scaled=None if options.unit else multiply(_input_units(classifier)),
        after=[loss.fit, *parts.smoothing],
        optimizer=parts.optimizer,
        stage="facets",
    )
    for step in run:
        yield replace(step, extras={name: values.clone() for name, values in loss.terms.items()})


def _start(classifier: Classifier, exemplars: Exemplars, options: MindsEyeOptions, streams: Streams) -> Tensor:
    """(F, C, H, W) what the images start from, at the size they will have."""
    begin = exemplars.start().to(classifier.device)
    height, width = (int(side) for side in begin.shape[-2:])
    if options.start == "mean":
        noise = streams.at(0).under("start").field("noise", begin.shape[1:])
        begin = (classifier.mean_image + 0.02 * (noise - 0.5).to(begin)).clamp(0, 1)
    elif options.start == "blurred":
        sigma = _START_BLUR * min(height, width)
        begin = arithmetic.blur(begin.flatten(0, 1), sigma).reshape(begin.shape)
    if options.side == 0 or options.side == min(height, width):
        return begin
    size = tuple(round(side * options.side / min(height, width)) for side in (height, width))
    return F.interpolate(begin, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


# Sigma of the start image's blur as a fraction of its shorter side: colors and the rough layout stay (ours).
_START_BLUR = 0.04


def _loss(classifier: Classifier, exemplars: Exemplars, options: MindsEyeOptions) -> FacetLoss:
    """Equation 4 for these facets."""
    targets = exemplars.targets(classifier, maps=options.maps)
    target = targets[exemplars.layer]
    top = channel_mask(strongest_channels(target.mean(dim=2).cpu(), options.top_k), target.shape[1])
    counted = top if options.distance == "top" else torch.ones_like(top)
    match = Match(exemplars.layer, target, counted, options.order, options.relative)
    previous: Objective | None = None
    if exemplars.previous is not None and options.previous != "none" and options.terms == "full":
        below = targets[exemplars.previous]
        every_channel = torch.ones(below.shape[:2], device="cpu")
        matched = Match(exemplars.previous, below, every_channel, options.order, options.relative)
        previous = mismatch(matched) if options.previous == "match" else previous_norm(exemplars.previous)
    return FacetLoss(
        match,
        replace(match, mask=top),
        AdaptiveDistance(tuple(counted.shape) if options.per == "channel" else (len(target),), device=target.device),
        previous,
        weights=(
            options.distance_weight * (options.terms != "dot"),
            options.dot_weight * (options.terms != "distance"),
        ),
        decay=linear(options.previous_weight, options.last_previous_weight),
    )


@dataclass(frozen=True)
class _Parts:
    """The rules that the options make for images of a size."""

    options: MindsEyeOptions
    size: tuple[int, int]

    def pixels(self, fraction: float) -> float:
        return fraction * min(self.size)

    @property
    def optimizer(self) -> Optimizer | None:
        if self.options.momentum == 0:
            return None
        return partial(torch.optim.SGD, lr=1.0, momentum=self.options.momentum, nesterov=True, maximize=True)

    @property
    def looks(self) -> list[Augmentation]:
        options = self.options
        if options.settle >= 1 or (options.rotation == options.shift == 0 and options.scale == (1, 1)):
            return []
        last = options.steps - round(options.settle * options.steps)
        return [until(last, Affine(options.rotation, options.scale, self.pixels(options.shift)))]

    def mask(self, size: Size, step: int) -> Tensor:
        sigma = linear(self.options.mask, self.options.last_mask)(step, self.options.steps)
        return centered(size, self.pixels(sigma))

    @property
    def smoothing(self) -> list[StepRule]:
        """Blur and denoising once in `smooth_every` steps, inside the mask; total variation after each step."""
        options, rules = self.options, list[StepRule]()
        if options.tv > 0:
            rules.append(self.calm)
        if options.smooth_every > 0 and (options.blur > 0 or options.denoise > 0):
            inside = within(lambda state: self.mask(self.size, state.step), self.smooth)
            rules.append(every(options.smooth_every, inside if options.mask > 0 else self.smooth))
        return rules

    def calm(self, images: Tensor, state: StepState) -> Tensor:
        return total_variation_step(images, linear(self.options.tv, self.options.last_tv)(state.step, state.steps))

    def smooth(self, images: Tensor, state: StepState) -> Tensor:
        options = self.options
        sigma = self.pixels(linear(options.blur, options.last_blur)(state.step, state.steps))
        images = arithmetic.blur(images.flatten(0, 1), sigma).reshape(images.shape)
        return denoised(images, linear(options.denoise, options.last_denoise)(state.step, state.steps))


def _input_units(classifier: Classifier) -> Tensor:
    """(1, C, 1, 1) what turns a gradient by pixels into the step of normalized inputs, in pixels: std squared."""
    preprocess = classifier.preprocess
    std = torch.tensor(preprocess.std, device=classifier.device) / preprocess.scale
    return (std.flip(0) if preprocess.order == "BGR" else std).square().reshape(1, -1, 1, 1)


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
