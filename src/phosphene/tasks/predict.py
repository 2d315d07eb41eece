"""predict: what the network says of pictures, in Python and as a row for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from phosphene.classifier import Classifier, ViewKind
from phosphene.devices import clock
from phosphene.errors import NumericalError, OptionError
from phosphene.images import Picture, as_pictures, picture_size
from phosphene.render import Sheet, Tile, shown_as, thumbnail
from phosphene.runtime import Prepared, forward, prepare
from phosphene.runtime.micro_batches import usual_size
from phosphene.runtime.prepare import Precision
from phosphene.sources import Item
from phosphene.store import PredictRow, Row
from phosphene.tasks.attributions import see
from phosphene.tasks.stream import no_answer
from phosphene.tasks.task import Progress, Say, answered, computed, pictures_of
from phosphene.types import Prediction, Results, Shown
from phosphene.zoo import load_classifier

# The best classes of one picture, and the seconds that it took.
Answer = tuple[tuple[Prediction, ...], float]


_SIDE = 320


@dataclass(frozen=True)
class Predicted(Shown):
    """The best classes of one picture, the likeliest first; indexed and iterated over, it gives each Prediction.

    Args:
        best: index, name and probability of each; NaN where the network's head is of scores.
        picture: as it was given.
    """

    best: tuple[Prediction, ...]
    picture: Picture

    def __repr__(self) -> str:
        return f"Predicted({', '.join(map(str, self.best))})"

    def __len__(self) -> int:
        return len(self.best)

    def __getitem__(self, index: int) -> Prediction:
        """One of the best classes."""
        return self.best[index]


@shown_as(Predicted)
def _predicted_sheet(found: Predicted) -> Sheet:
    return Sheet(((Tile(thumbnail(found.picture, _SIDE), tuple(map(str, found.best))),),))


def predict(
    classifier: Classifier | nn.Module | str,
    images: Any,
    *,
    count: int = 5,
    view: ViewKind = "center",
    precision: Precision | None = None,
    batch_size: int | None = None,
) -> Results[Predicted]:
    """What the classifier says of one or many pictures.

    Args:
        classifier: a Classifier, a network, or a spec for load_classifier such as "embedded".
        images: one or many pictures, as for explain.
        count: how many of the best classes are told.
        view: "center" as the network was trained, or "whole" for the entire frame.
        precision: "exact" or "fast".
        batch_size: images per pass; None chooses.

    Returns:
        A Predicted for each picture, in order.

    Raises:
        InputError: for a picture that cannot be read.
        OptionError: for a count below 1.
        NumericalError: for a picture of which the network says NaN.

    Example:
        >>> from skimage.data import chelsea
        >>> (cat,) = predict("embedded", chelsea(), count=2)
        >>> cat
        Predicted(tiger cat ... %, ... %)
        >>> cat[0].index
        282
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise OptionError(f"count={count!r} must be a whole number from 1 on")
    prepared = prepare(load_classifier(classifier), precision=precision)
    pictures = as_pictures(images, **prepared.preprocess.reading)
    usual_size(batch_size, prepared.device)  # refuses a size that makes no sense
    seen = see(prepared, pictures, view)
    logits = forward(seen.classifier, seen.images, batch_size=batch_size)
    sound = _sound(prepared, logits)
    if not all(sound):
        raise NumericalError(str(no_answer(f"image {sound.index(False)}").error))
    answers = prepared.predictions(logits, count)
    if prepared.head == "score":
        answers = [[replace(one, probability=math.nan) for one in best] for best in answers]
    return Results(Predicted(tuple(best), picture) for best, picture in zip(answers, pictures, strict=True))


@dataclass(frozen=True)
class PredictConfig:
    """How many of the best classes of pictures, seen how.

    Args:
        count: of classes.
        view: "center" as the network was trained, or "whole" for the entire frame.
        batch_size: pictures that go through the network together.

    Example:
        >>> PredictConfig(count=3).described()
        {'count': 3, 'view': 'center', 'batch_size': 16}
    """

    count: int = 5
    view: ViewKind = "center"
    batch_size: int = 16
    rows: ClassVar[type[Row]] = PredictRow

    def described(self) -> dict[str, Any]:
        """All options, as the manifest of a run has them."""
        return asdict(self)

    def pictures_at_once(self, _classifier: Prepared) -> int:
        """How many pictures make a batch."""
        return self.batch_size

    def run(
        self,
        classifier: Prepared,
        items: Sequence[Item],
        *,
        start: int = 0,
        progress: Progress | None = None,
        say: Say | None = None,
        first: bool = False,
    ) -> Iterator[PredictRow]:
        """A row for each item, in order; a picture that cannot be read is a row with its error."""
        found = computed(classifier, items, lambda network, group: _predicted(self, network, group))
        for item, result in zip(items, found, strict=True):
            row = PredictRow(item.key, item.path, label=item.label, columns=dict(item.columns) or None)
            if isinstance(result, str) or item.picture is None:
                yield replace(row, status="error", error=str(result))
            else:
                predicted, seconds = result
                yield replace(row, predicted=predicted, seconds=seconds, size=picture_size(item.picture))


def _predicted(config: PredictConfig, classifier: Prepared, items: Sequence[Item]) -> Sequence[Answer | str]:
    begin = clock(classifier.device)
    seen = see(classifier, pictures_of(items), config.view)
    logits = forward(seen.classifier, seen.images)
    seconds = (clock(classifier.device) - begin) / len(items)
    sound = _sound(classifier, logits)
    if not all(sound):
        return answered(items, sound, lambda some: _predicted(config, classifier, some))
    return [(tuple(best), seconds) for best in classifier.predictions(logits, config.count)]


def _sound(classifier: Prepared, logits: Tensor) -> list[bool]:
    """Of each row of logits whether it says anything: minus infinity rules a class out, NaN does not."""
    return classifier.probabilities(logits.float()).isfinite().all(dim=1).tolist()
