"""The class model: the image whose class score is highest, kept small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.registry import register_recipe
from phosphene.synthesis.ascent import Step, ascend, clip, preconditioned, unit_rms
from phosphene.synthesis.augment import Affine
from phosphene.synthesis.canvas import Preset, canvas_size, settings_of
from phosphene.synthesis.objectives import Objective, of_target, squared_norm
from phosphene.synthesis.schedules import linear
from phosphene.synthesis.streams import Streams
from phosphene.types import Score, Target


@dataclass(frozen=True)
class Settings:
    """The numbers of a preset; see `class_model`."""

    steps: int
    rate: float
    last_rate: float
    penalty: float
    score: Score
    precondition: float
    rotation: float
    scale: tuple[float, float]
    shift: float


PRESETS = {
    "best": Settings(
        steps=200,
        rate=0.03,
        last_rate=0.01,
        penalty=5e-5,
        score="logit",
        precondition=1.0,
        rotation=8.0,
        scale=(0.9, 1.1),
        shift=16 / 224,
    ),
    "paper": Settings(
        steps=200,
        rate=0.01,
        last_rate=0.01,
        penalty=1e-4,
        score="logit",
        precondition=0.0,
        rotation=0.0,
        scale=(1.0, 1.0),
        shift=0.0,
    ),
}


@register_recipe(title="Class model", paper="simonyan2014", presets=tuple(PRESETS))
def class_model(
    classifier: Classifier,
    target: Target,
    streams: Streams,
    *,
    preset: Preset = "best",
    steps: int | None = None,
    rate: float | None = None,
    last_rate: float | None = None,
    penalty: float | None = None,
    score: Score | None = None,
    precondition: float | None = None,
    rotation: float | None = None,
    scale: tuple[float, float] | None = None,
    shift: float | None = None,
) -> Iterator[Step]:
    """The image that makes the class score highest for its size: what the classifier takes the class to be.

    ``argmax over I of S_c(I) - penalty * ||I||_2^2``, I the image minus the mean image, from I = 0; the mean is added
    at the end (the images yielded have it). With ``score=probability`` the posterior's logarithm is raised
    instead, which the paper found poor: other classes are pushed down rather than this one built up.

    The paper gives no penalty, step or number of steps: all are ours. So is the step, ``rate * g / rms(g)`` with g the
    gradient of the whole objective, I in units of [0, 1], and clamping to the valid range after each step. The preset
    `best` adds what later work found: a preconditioned gradient and a small random move of the image at each step.
    None of an option takes the preset's value.

    Args:
        classifier: the network whose notion of the class is drawn.
        target: one class, or unit, per image.
        streams: the images' random numbers.
        preset: best or paper.
        steps: number of steps.
        rate: root mean square of the first step, in [0, 1] units.
        last_rate: of the last; linear between.
        penalty: weight of the squared norm of I, summed over pixels and channels.
        score: logit, probability (its logarithm) or margin.
        precondition: power of 1/f on the gradient; 0 for the plain gradient.
        rotation: augmentation: degrees.
        scale: augmentation: low and high.
        shift: augmentation: fraction of the shorter side.

    Yields:
        Steps.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((8, 8), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> steps = list(class_model(classifier, Target.of([0, 1]), Streams.of(0, [0, 1]), preset="paper", steps=5))
        >>> bool((steps[-1].value > steps[0].value).all())
        True

    References:
        simonyan2014, section 2; olah2017 for the preconditioning.
    """
    given = {name: value for name, value in locals().items() if name in Settings.__dataclass_fields__}
    own = settings_of(PRESETS, preset, **given)
    size = canvas_size(classifier)
    start = classifier.mean_image.expand(len(streams), -1, *size)
    small = penalized(of_target(classifier, target.expand(len(streams)), own.score), own.penalty, classifier.mean_image)
    moves = [Affine(own.rotation, own.scale, own.shift * min(size))]
    yield from ascend(
        classifier,
        small,
        start,
        steps=own.steps,
        streams=streams,
        rate=linear(own.rate, own.last_rate),
        augmentations=moves if (own.rotation, own.scale, own.shift) != (0, (1, 1), 0) else [],
        direction=[preconditioned(own.precondition), unit_rms()],
        after=[clip],
        stage="class model",
    )


def penalized(objective: Objective, penalty: float, center: Tensor) -> Objective:
    """The objective less `penalty` times the squared distance from the center."""
    return objective - penalty * squared_norm(center) if penalty else objective
