"""The first answer of a network takes seconds: it is asked before anyone waits for it."""

from __future__ import annotations

from phosphene.errors import PhospheneError
from phosphene.tasks import ExplainConfig
from phosphene.web.asks import ExplainAsk
from phosphene.web.desk import Desk


def warm_up(desk: Desk) -> None:
    """Explain one packaged picture by every classifier, as the page does first of all."""
    chosen = desk.packaged.chosen(next(iter(desk.packaged.by_name)))
    for classifier in desk.models.values():
        item = chosen.item(**classifier.preprocess.reading)
        for spec in ExplainAsk().specs:
            try:
                list(ExplainConfig((spec,)).checked(classifier).run(classifier, [item]))
            except PhospheneError:
                continue  # a method that this network does not allow says so when it is asked for
