"""What networks read in finished images: their own maker's view, the single-object measures, and a judge's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from phosphene.attribution.cam import cam
from phosphene.attribution.grad_cam import grad_cam
from phosphene.classifier import Classifier
from phosphene.errors import ModelError, OptionError
from phosphene.metrics.single_object import coverage, entropy, object_count, positive_evidence, single_object_index
from phosphene.runtime import forward, input_gradient
from phosphene.synthesis.canvas import canvas_size
from phosphene.targets import Target
from phosphene.types import Impression, Prediction


@dataclass(frozen=True)
class OwnReading:
    """How the classifier that made an image reads the finished, un-augmented picture.

    Args:
        classes: its own target classes with their probabilities; empty for a unit.
        entropy: of all probabilities, in nats; None without a softmax.
        single_object_index: None for fused images, units and heads without probabilities.
        object_count: connected places of evidence.
    """

    classes: tuple[Prediction, ...]
    entropy: float | None
    single_object_index: float | None
    object_count: int | None


@dataclass(frozen=True)
class Judgement:
    """How a network that took no part reads an image.

    Args:
        model: its name.
        classes: the target's classes with the judge's probabilities.
        best: its five best classes.
        top1: whether its best class is one of the target's.
        top5: whether all of the target's classes are among its five best.
        probability: the largest of the target's classes' probabilities.
        coverage: share of the frame that its class activation map covers; None for several classes, or where the map
            was not asked for.
        object_count: connected places of that map, likewise.
    """

    model: str
    classes: tuple[Prediction, ...]
    best: tuple[Prediction, ...]
    top1: bool
    top5: bool
    probability: float
    coverage: float | None = None
    object_count: int | None = None


def read_impressions(classifier: Classifier, impressions: Sequence[Impression]) -> list[OwnReading]:
    """How their own maker reads the images, rounded to the 8 bits they are saved with."""
    return [_own_reading(classifier, made) for made in impressions]


def eight_bits(image: Tensor) -> Tensor:
    """The image as a file of 8 bits holds it."""
    return (image * 255).round() / 255


def _own_reading(classifier: Classifier, made: Impression) -> OwnReading:
    image = eight_bits(made.image)[None].to(classifier.device)
    logits = forward(classifier, image)
    fill = classifier.mean_image
    single = len(made.target.classes) < 2
    count = index = None
    if single:
        _, gradient = input_gradient(classifier, image, made.target)
        evidence = positive_evidence(image, gradient, fill)
        count = int(object_count(evidence))
        if made.target.classes and classifier.head != "score":
            own = made.target.classes[0]

            def probability(images: Tensor) -> Tensor:
                return classifier.probabilities(forward(classifier, images))[:, own]

            index = float(single_object_index(image, evidence, fill, probability))
    has_softmax = classifier.head in ("softmax", "probabilities")
    return OwnReading(
        classes=_shares(classifier, logits, made.target.classes),
        entropy=float(entropy(classifier.probabilities(logits))) if has_softmax else None,
        single_object_index=index,
        object_count=count,
    )


def _shares(classifier: Classifier, logits: Tensor, classes: Sequence[int]) -> tuple[Prediction, ...]:
    values = classifier.probabilities(logits)[0].tolist()
    return tuple(Prediction(index, classifier.labels[index], values[index]) for index in classes)


def check_judge(judge: Classifier, classifier: Classifier, targets: Iterable[Target]) -> None:
    """Refuse a judge before anything is drawn for it.

    Raises:
        InputError: if it takes no pictures of so many channels.
        OptionError: if it does not know a class.
    """
    classes = sorted({index for target in targets for index in target.classes})
    if classes:
        seen = _seen(judge, classifier.mean_picture(canvas_size(classifier)).cpu())  # (as finished pictures are)
        _wanted(judge, classifier, classes, forward(judge, seen))


def judge_impressions(
    judge: Classifier, impressions: Sequence[Impression], classifier: Classifier, *, objects: bool = False
) -> list[Judgement | None]:
    """How a judge reads the images, whole frame resized to its own input; None for units.

    Args:
        judge: a classifier that took no part and knows the classes by the same ids or names.
        impressions: what it looks at.
        classifier: the maker, whose classes are looked up in the judge's.
        objects: whether its class activation map says how many objects it sees, and how large.

    Raises:
        OptionError: if the judge does not know a class.
    """
    return [_judgement(judge, made, classifier, objects) for made in impressions]


def _judgement(judge: Classifier, made: Impression, classifier: Classifier, objects: bool) -> Judgement | None:
    if not made.target.classes:
        return None
    seen = _seen(judge, eight_bits(made.image))
    logits = forward(judge, seen)
    wanted = _wanted(judge, classifier, made.target.classes, logits)
    best = tuple(judge.predictions(logits)[0])
    shares = _shares(judge, logits, wanted)
    places = class_map(judge, seen, wanted[0]) if objects and len(wanted) == 1 else None
    return Judgement(
        model=judge.name,
        classes=shares,
        best=best,
        top1=best[0].index in wanted,
        top5=set(wanted) <= {prediction.index for prediction in best},
        probability=max(share.probability for share in shares),
        coverage=None if places is None else float(coverage(places)),
        object_count=None if places is None else int(object_count(places, sigma=_MAP_SMOOTH)),
    )


def _seen(judge: Classifier, picture: Tensor) -> Tensor:
    """The whole frame as the judge sees it."""
    return judge.preprocessed([picture], judge.views([picture], "whole"))


def _wanted(judge: Classifier, classifier: Classifier, classes: Sequence[int], logits: Tensor) -> list[int]:
    """The judge's indices of the classifier's classes, all of which it has scores for."""
    wanted, count = [same_class(judge, classifier, index) for index in classes], logits.shape[1]
    if max(wanted) >= count:
        raise OptionError(
            f"the judge {judge.name} has {count} classes, no {max(wanted)}; choose one with the same classes"
        )
    return wanted


# A class activation map is smooth already: blurred once more by as much as the sides of its cells.
_MAP_SMOOTH = 0.02


def class_map(judge: Classifier, images: Tensor, wanted: int) -> Tensor | None:
    """(N, H, W) what speaks for a class where, by CAM or else Grad-CAM; None for networks that have no places."""
    try:
        found = cam(judge, images, Target.of(wanted))
    except (ModelError, OptionError):
        try:
            found = grad_cam(judge, images, Target.of(wanted))
        except ModelError:
            return None
    places: Tensor = found.upsampled()
    return places.clamp(min=0)


def same_class(judge: Classifier, classifier: Classifier, index: int) -> int:
    """The judge's index of one of the classifier's classes, by identifier, else by name, else by place.

    Raises:
        OptionError: if the judge has no such class.
    """
    mine, theirs = classifier.labels, judge.labels
    if mine.ids and theirs.ids and mine.ids[index] in theirs.ids:
        return theirs.ids.index(mine.ids[index])
    if len(mine) == 0 or len(theirs) == 0 or mine.names == theirs.names:
        return index
    if mine[index] in theirs.names:
        return theirs.names.index(mine[index])
    raise OptionError(f"the judge {judge.name} has no class '{mine[index]}'; choose a judge with the same classes")
