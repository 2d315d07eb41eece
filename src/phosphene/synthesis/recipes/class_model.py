"""The class model: the image whose class score is highest, kept small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.options import option
from phosphene.registry import register_recipe
from phosphene.runtime import prepare
from phosphene.synthesis.ascent import Optimizer, Step
from phosphene.synthesis.background import Held
from phosphene.synthesis.canvas import canvas_size
from phosphene.synthesis.objectives import Objective, of_target, posterior, squared_norm
from phosphene.synthesis.staged import DrawingOptions, Prior, draw
from phosphene.synthesis.streams import Streams
from phosphene.targets import Target

ModelScore = Literal["logit", "probability", "posterior", "margin"]


@dataclass(frozen=True)
class ClassModelOptions(DrawingOptions):
    """Options of `class_model`."""

    steps: int = option("number of steps", 200, at_least=1)
    rate: float = option("root mean square of the first step, in [0, 1] units", best=0.06, paper=0.01, at_least=0)
    penalty: float = option(
        "weight of the squared norm of I, summed over pixels and channels", best=5e-5, paper=1e-4, at_least=0
    )
    score: ModelScore = option(
        "logit, probability (its logarithm), posterior (the probability itself) or margin", "logit"
    )
    optimizer: Literal["none", "SGD", "Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "Rprop"] = option(
        "of torch.optim that makes a step of the direction, with its own default settings (SGD with a momentum of .9); "
        "none for plain steps",
        "none",
    )


@register_recipe(title="Class model", paper="simonyan2014")
def class_model(
    classifier: Classifier,
    target: Target,
    streams: Streams,
    options: ClassModelOptions,
) -> Iterator[Step]:
    """The image that makes the class score highest for its size: what the classifier takes the class to be.

    ``argmax over I of S_c(I) - penalty * ||I||_2^2``, I the image minus the mean image, from I = 0; the mean is added
    at the end (the images yielded have it). With ``score=posterior`` the class posterior is raised instead, and with
    ``score=probability`` its logarithm, both of which the paper found poor: other classes are pushed down rather than
    this one built up. The posterior itself is next to nothing beside a penalty until the class is probable.

    The paper gives no penalty, step or number of steps: all are ours. So is the step, ``rate * g / rms(g)`` with g the
    gradient of the whole objective, I in units of [0, 1], and clamping to the valid range after each step; with
    `optimizer` one of torch.optim makes its step of that direction, with the rate as its learning rate. The preset
    `best` draws under the prior of photographs (synthesis.staged), over the whole frame.

    Args:
        classifier: the network whose notion of the class is drawn.
        target: one class, or unit, per image.
        streams: the images' random numbers.
        options: see ClassModelOptions.

    Yields:
        Steps.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((8, 8), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> options = ClassModelOptions.of("paper", steps=5)
        >>> steps = list(class_model(classifier, Target.of([0, 1]), Streams.of(0, [0, 1]), options))
        >>> bool((steps[-1].value > steps[0].value).all())
        True

    References:
        simonyan2014, section 2; olah2017 for the preconditioning.
    """
    whole = classifier.mean_picture(canvas_size(classifier))
    center = classifier.mean_image if classifier.preprocess.mean_picture is None else whole
    goal = _raised(classifier, target.expand(len(streams)), options.score)
    small = penalized(goal, options.penalty, center)
    drawn = options.prior == "photographs"
    held = Held()
    run = draw(
        classifier,
        small - options.apart(classifier, target),
        whole.expand(len(streams), -1, -1, -1),
        streams,
        options.steps,
        options.photographs(target.placed_in(prepare(classifier)), middle=False)
        if drawn
        else Prior.none(rate=options.rate),
        rate=None if drawn else lambda _step, _steps: options.rate,
        optimizer=_optimizer(options.optimizer),
        watch=held.see,
        stage="class model",
    )
    yield from held.finished(run, options.background)


def _raised(classifier: Classifier, target: Target, score: ModelScore) -> Objective:
    """What is raised; a unit has no posterior."""
    if score == "posterior":
        return posterior(classifier, target) if target.classes else of_target(classifier, target)
    return of_target(classifier, target, score)


def _optimizer(name: str) -> Optimizer | None:
    """What makes the optimizer of a name, upwards; None for plain steps."""
    if name == "none":
        return None
    momentum = {"momentum": 0.9} if name == "SGD" else {}
    return partial(getattr(torch.optim, name), lr=1.0, maximize=True, **momentum)


def penalized(objective: Objective, penalty: float, center: Tensor) -> Objective:
    """The objective less `penalty` times the squared distance from the center."""
    return objective - penalty * squared_norm(center) if penalty else objective
