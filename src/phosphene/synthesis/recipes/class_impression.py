"""Class impressions: noise moved until the classifier is sure of the class, under random transformations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.options import option
from phosphene.registry import register_recipe
from phosphene.runtime import prepare
from phosphene.synthesis.ascent import Step, adam, ascend
from phosphene.synthesis.background import Held
from phosphene.synthesis.canvas import canvas_size, noisy_mean, probability_of
from phosphene.synthesis.published import transformations
from phosphene.synthesis.staged import DrawingOptions, DrawnScore, draw, raised
from phosphene.synthesis.step_rules import calmed, clip
from phosphene.synthesis.streams import Streams
from phosphene.targets import Target

# The published generator, in [0, 1] units: the start's deviation, and Adam's rate.
_START, _RATE = 1 / 255, 10 / 255


@dataclass(frozen=True)
class ClassImpressionOptions(DrawingOptions):
    """Options of `class_impression`."""

    steps: int = option("number of steps, the largest with `early_stop`", best=200, paper=1500, at_least=1)
    rate: float = option(
        "step size at first, in [0, 1] units: root mean square of a step, or Adam's rate where there is no prior",
        best=0.06,
        paper=_RATE,
        at_least=0,
    )
    score: DrawnScore = option(
        "saturating, a log-probability that pulls less the surer the network is; logit, probability (its logarithm) "
        "or margin",
        best="saturating",
        paper="logit",
    )
    temperature: float = option("of the saturating score: the higher, the later it is satisfied", 1.6, at_least=0.01)
    early_stop: bool = option("whether an image is done when its softmax passes its threshold", best=False, paper=True)
    random_crop: bool = option("without a prior: crop at a random place instead of the middle", False)
    tv: float = option(
        "size of a step down the total variation after a step up the score, in [0, 1] units; 0 for none",
        0.0,
        at_least=0,
    )
    tv_every: int = option("once in so many steps; 0 never", 1, at_least=0)


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

    With `tv` it is the impression with a total variation loss, ``L_c(I) - tv * TV(I)``, its two parts optimized one
    after the other and the second once in `tv_every` steps; the paper gives no weight, so tv is a step size.

    The preset `best` is ours but for the idea: drawn in stages of resolution under the prior of photographs
    (synthesis.staged), a score that saturates, a fixed number of steps.

    Args:
        classifier: the network that remembers.
        target: one class, or unit, per image.
        streams: the images' random numbers.
        options: see ClassImpressionOptions.

    Yields:
        Steps.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.
        OptionError: for early_stop with a unit, with a head that has no softmax, or with a prior.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((32, 32), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> options = ClassImpressionOptions.of("paper", steps=4)
        >>> last = list(class_impression(classifier, Target.of(1), Streams.of(0, [1]), options))[-1]
        >>> last.images.shape
        torch.Size([1, 3, 32, 32])

    References:
        mopuri2018; addepalli2020, section 2.3, and equation 1 for the total variation; olah2017 for the
        preconditioning.
    """
    target = target.expand(len(streams))
    goal = raised(classifier, target, options.score, options.temperature)
    goal = goal - options.apart(classifier, target)
    start, held = noisy_mean(classifier, streams, _START, "normal"), Held()
    calm = calmed(lambda _step: options.tv, options.tv_every, literal=options.prior == "none") if options.tv else []
    if options.prior == "photographs":
        if options.early_stop:
            raise OptionError("early_stop is of the published generator; set prior=none, or early_stop=false")
        prior = options.photographs(target.placed_in(prepare(classifier)), middle=not target.layers)
        run = draw(
            classifier, goal, start, streams, options.steps, prior, watch=held.see, after=calm, stage="class impression"
        )  # fmt: skip
        yield from held.finished(run, options.background)
        return
    run = ascend(
        classifier,
        goal,
        start,
        steps=options.steps,
        streams=streams,
        rate=options.rate,
        optimizer=adam,
        augmentations=transformations(canvas_size(classifier), options.random_crop),
        direction=[held.see],
        after=[*calm, clip],
        stop=sure_of(classifier, target, streams) if options.early_stop else None,
        stage="class impression",
    )
    yield from held.finished(run, options.background)


def sure_of(classifier: Classifier, target: Target, streams: Streams) -> Callable[[Tensor], Tensor]:
    """Whether each image's softmax has passed its threshold, drawn from U(.55, .99)."""
    if not target.classes or classifier.head not in ("softmax", "probabilities"):
        raise OptionError("early_stop needs the softmax of a class; set early_stop=false for units and other heads")
    thresholds = 0.55 + 0.44 * streams.at(0).under("threshold").uniform("t")[:, 0]
    classes = torch.tensor(target.classes, device="cpu")
    return lambda logits: probability_of(logits, classes.to(logits.device)) > thresholds.to(logits.device)
