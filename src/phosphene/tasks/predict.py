"""predict: what the network says of pictures, a row for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from phosphene.classifier import ViewKind
from phosphene.devices import clock
from phosphene.images import picture_size
from phosphene.runtime import Prepared, forward
from phosphene.sources import Item
from phosphene.store import PredictRow, Row
from phosphene.tasks.attributions import see
from phosphene.tasks.task import Progress, Say, answered, computed, pictures_of
from phosphene.types import Prediction

# The best classes of one picture, and the seconds that it took.
Answer = tuple[tuple[Prediction, ...], float]


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
    answers = classifier.probabilities(logits).isfinite().all(dim=1).tolist()  # (-inf rules a class out)
    if not all(answers):
        return answered(items, answers, lambda some: _predicted(config, classifier, some))
    return [(tuple(best), seconds) for best in classifier.predictions(logits, config.count)]
