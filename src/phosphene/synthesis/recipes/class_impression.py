"""Class impressions: noise moved until the classifier is sure of the class, under random transformations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.registry import register_recipe
from phosphene.synthesis.ascent import Step, adam, ascend, clip, preconditioned, unit_rms
from phosphene.synthesis.augment import Affine, Augmentation, ColorOffset, Crop, Noise, Pad
from phosphene.synthesis.canvas import Preset, canvas_size, noisy_mean, probability_of, settings_of
from phosphene.synthesis.objectives import of_target
from phosphene.synthesis.schedules import linear
from phosphene.synthesis.streams import Streams
from phosphene.types import Score, Target


@dataclass(frozen=True)
class Settings:
    """The numbers of a preset; see `class_impression`."""

    steps: int
    rate: float
    last_rate: float
    score: Score
    early_stop: bool
    adaptive: bool
    precondition: float
    start_noise: float
    noise: float
    pad: int
    color: float
    late_color: float
    scales: tuple[float, ...]
    rotation: float
    random_crop: bool


PRESETS = {
    "best": Settings(
        steps=200,
        rate=0.03,
        last_rate=0.01,
        score="logit",
        early_stop=False,
        adaptive=False,
        precondition=1.0,
        start_noise=1 / 255,
        noise=0.0,
        pad=16,
        color=0.0,
        late_color=0.0,
        scales=(0.9, 0.95, 1.0, 1.05, 1.1),
        rotation=8.0,
        random_crop=True,
    ),
    "paper": Settings(
        steps=1500,
        rate=10 / 255,
        last_rate=10 / 255,
        score="logit",
        early_stop=True,
        adaptive=True,
        precondition=0.0,
        start_noise=1 / 255,
        noise=10 / 255,
        pad=16,
        color=16 / 255,
        late_color=8 / 255,
        scales=(0.95, 0.975, 1.0, 1.025, 1.05),
        rotation=5.0,
        random_crop=False,
    ),
}


@register_recipe(title="Class impression", paper="mopuri2018", presets=tuple(PRESETS))
def class_impression(
    classifier: Classifier,
    target: Target,
    streams: Streams,
    *,
    preset: Preset = "best",
    steps: int | None = None,
    rate: float | None = None,
    last_rate: float | None = None,
    score: Score | None = None,
    early_stop: bool | None = None,
    adaptive: bool | None = None,
    precondition: float | None = None,
    start_noise: float | None = None,
    noise: float | None = None,
    pad: int | None = None,
    color: float | None = None,
    late_color: float | None = None,
    scales: tuple[float, ...] | None = None,
    rotation: float | None = None,
    random_crop: bool | None = None,
) -> Iterator[Step]:
    """An image from the classifier's memory of a class: the class's score raised over the whole image.

    The preset `paper` is the published generator: the mean image plus N(0, 1) in units of 0-255; Adam with step 10;
    every step clipped to the valid range; before each look noise U(-10, 10) per value, 16 pixels of reflection,
    a color offset U(-16, 16) per channel, a scale out of .95 .975 1 1.025 1.05, a rotation by -5..5 whole degrees, a
    color offset U(-8, 8), the crop at (16, 16); it ends for an image when its softmax passes t, t ~ U(.55, .99), or
    after 1500 steps. Scale and rotation are one warp here, with reflection beyond the border (ours).

    The preset `best` is ours but for the idea: plain steps along a preconditioned gradient, a random crop as in
    addepalli2020, no noise, a fixed number of steps. None of an option takes the preset's value.

    Args:
        classifier: the network that remembers.
        target: one class, or unit, per image.
        streams: the images' random numbers.
        preset: best or paper.
        steps: number of steps, the largest with `early_stop`.
        rate: step size at first: Adam's, or the root mean square of a plain step, in [0, 1] units.
        last_rate: at the end; linear between.
        score: logit, probability (its logarithm) or margin.
        early_stop: whether an image is done when its softmax passes its threshold.
        adaptive: Adam, or plain steps.
        precondition: power of 1/f on the gradient; 0 for the plain gradient.
        start_noise: standard deviation of the start's noise.
        noise: augmentation: noise per value.
        pad: augmentation: pixels of reflection on each side, cropped away after the warp.
        color: augmentation: color offset before the warp.
        late_color: augmentation: color offset after the warp.
        scales: augmentation: scales to choose from.
        rotation: augmentation: whole degrees.
        random_crop: crop at a random place instead of the middle.

    Yields:
        Steps.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.
        OptionError: for early_stop with a unit, or with a head that has no softmax.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((32, 32), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> last = list(class_impression(classifier, Target.of(1), Streams.of(0, [1]), preset="paper", steps=4))[-1]
        >>> last.images.shape
        torch.Size([1, 3, 32, 32])

    References:
        mopuri2018; addepalli2020, section 2.3; olah2017 for the preconditioning.
    """
    given = {name: value for name, value in locals().items() if name in Settings.__dataclass_fields__}
    own = settings_of(PRESETS, preset, **given)
    target = target.expand(len(streams))
    yield from ascend(
        classifier,
        of_target(classifier, target, own.score),
        noisy_mean(classifier, streams, own.start_noise, "normal"),
        steps=own.steps,
        streams=streams,
        rate=linear(own.rate, own.last_rate),
        optimizer=adam if own.adaptive else None,
        augmentations=transformations(own, canvas_size(classifier)),
        direction=[preconditioned(own.precondition), *([] if own.adaptive else [unit_rms()])],
        after=[clip],
        stop=sure_of(classifier, target, streams) if own.early_stop else None,
        stage="class impression",
    )


def transformations(own: Settings, size: tuple[int, int]) -> list[Augmentation]:
    """The published chain of random transformations, without those whose amount is 0."""
    pad = min(own.pad, min(size) - 1)
    corner = None if own.random_crop else (pad, pad)
    chain: list[tuple[bool, Augmentation]] = [
        (own.noise > 0, Noise(own.noise)),
        (pad > 0, Pad(pad)),
        (own.color > 0, ColorOffset(own.color)),
        (True, Affine(own.rotation, scales=own.scales, whole_degrees=True, padding="reflection")),
        (own.late_color > 0, ColorOffset(own.late_color)),
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
