"""Class impressions: noise moved until the classifier is sure of the class, under random transformations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.options import Options, option
from phosphene.registry import register_recipe
from phosphene.synthesis.ascent import Step, adam, ascend
from phosphene.synthesis.augment import Affine, Augmentation, ColorOffset, Crop, Noise, Pad
from phosphene.synthesis.canvas import canvas_size, noisy_mean, probability_of
from phosphene.synthesis.objectives import of_target
from phosphene.synthesis.schedules import linear
from phosphene.synthesis.step_rules import clip, preconditioned, unit_rms
from phosphene.synthesis.streams import Streams
from phosphene.targets import Target
from phosphene.types import Score


@dataclass(frozen=True)
class ClassImpressionOptions(Options):
    """Options of `class_impression`."""

    steps: int = option("number of steps, the largest with `early_stop`", best=200, paper=1500, at_least=1)
    rate: float = option(
        "step size at first: Adam's, or the root mean square of a plain step, in [0, 1] units",
        best=0.03,
        paper=10 / 255,
    )
    last_rate: float = option("at the end; linear between", best=0.01, paper=10 / 255)
    score: Score = option("logit, probability (its logarithm) or margin", "logit")
    early_stop: bool = option("whether an image is done when its softmax passes its threshold", best=False, paper=True)
    adaptive: bool = option("Adam, or plain steps", best=False, paper=True)
    precondition: float = option("power of 1/f on the gradient; 0 for the plain gradient", best=1.0, paper=0.0)
    start_noise: float = option("standard deviation of the start's noise", 1 / 255)
    noise: float = option("augmentation: noise per value", best=0.0, paper=10 / 255)
    pad: int = option("augmentation: pixels of reflection on each side, cropped away after the warp", 16)
    color: float = option("augmentation: color offset before the warp", best=0.0, paper=16 / 255)
    late_color: float = option("augmentation: color offset after the warp", best=0.0, paper=8 / 255)
    scales: tuple[float, ...] = option(
        "augmentation: scales to choose from", best=(0.9, 0.95, 1.0, 1.05, 1.1), paper=(0.95, 0.975, 1.0, 1.025, 1.05)
    )
    rotation: float = option("augmentation: whole degrees", best=8.0, paper=5.0)
    random_crop: bool = option("crop at a random place instead of the middle", best=True, paper=False)


@register_recipe(title="Class impression", paper="mopuri2018")
def class_impression(
    classifier: Classifier,
    target: Target,
    streams: Streams,
    options: ClassImpressionOptions,
) -> Iterator[Step]:
    """An image from the classifier's memory of a class: the class's score raised over the whole image.

    The preset `paper` is the published generator: the mean image plus N(0, 1) in units of 0-255; Adam with step 10;
    every step clipped to the valid range; before each look noise U(-10, 10) per value, 16 pixels of reflection,
    a color offset U(-16, 16) per channel, a scale out of .95 .975 1 1.025 1.05, a rotation by -5..5 whole degrees, a
    color offset U(-8, 8), the crop at (16, 16); it ends for an image when its softmax passes t, t ~ U(.55, .99), or
    after 1500 steps. Scale and rotation are one warp here, with reflection beyond the border (ours).

    The preset `best` is ours but for the idea: plain steps along a preconditioned gradient, a random crop as in
    addepalli2020, no noise, a fixed number of steps.

    Args:
        classifier: the network that remembers.
        target: one class, or unit, per image.
        streams: the images' random numbers.
        options: see ClassImpressionOptions.

    Yields:
        Steps.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.
        OptionError: for early_stop with a unit, or with a head that has no softmax.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((32, 32), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> options = ClassImpressionOptions.of("paper", steps=4)
        >>> last = list(class_impression(classifier, Target.of(1), Streams.of(0, [1]), options))[-1]
        >>> last.images.shape
        torch.Size([1, 3, 32, 32])

    References:
        mopuri2018; addepalli2020, section 2.3; olah2017 for the preconditioning.
    """
    target = target.expand(len(streams))
    yield from ascend(
        classifier,
        of_target(classifier, target, options.score),
        noisy_mean(classifier, streams, options.start_noise, "normal"),
        steps=options.steps,
        streams=streams,
        rate=linear(options.rate, options.last_rate),
        optimizer=adam if options.adaptive else None,
        augmentations=transformations(options, canvas_size(classifier)),
        direction=[preconditioned(options.precondition), *([] if options.adaptive else [unit_rms()])],
        after=[clip],
        stop=sure_of(classifier, target, streams) if options.early_stop else None,
        stage="class impression",
    )


def transformations(options: ClassImpressionOptions, size: tuple[int, int]) -> list[Augmentation]:
    """The published chain of random transformations, without those whose amount is 0."""
    pad = min(options.pad, min(size) - 1)
    corner = None if options.random_crop else (pad, pad)
    chain: list[tuple[bool, Augmentation]] = [
        (options.noise > 0, Noise(options.noise)),
        (pad > 0, Pad(pad)),
        (options.color > 0, ColorOffset(options.color)),
        (True, Affine(options.rotation, scales=options.scales, whole_degrees=True, padding="reflection")),
        (options.late_color > 0, ColorOffset(options.late_color)),
        (pad > 0, Crop(size, corner)),
    ]
    return [augmentation for wanted, augmentation in chain if wanted]


def sure_of(classifier: Classifier, target: Target, streams: Streams) -> Callable[[Tensor], Tensor]:
    """Whether each image's softmax has passed its threshold, drawn from U(.55, .99)."""
    if not target.classes or classifier.head not in ("softmax", "probabilities"):
        raise OptionError("early_stop needs the softmax of a class; set early_stop=false for units and other heads")
    thresholds = 0.55 + 0.44 * streams.at(0).under("threshold").uniform("t")[:, 0]
    classes = torch.tensor(target.classes, device="cpu")
    return lambda logits: probability_of(logits, classes.to(logits.device)) > thresholds.to(logits.device)
