"""Who makes the parts of a run, shards of pictures or parts of an atlas, in whatever process they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from phosphene.batches.child import Child
from phosphene.cancel import Cancel


class Maker(Protocol):
    """Something that makes parts where it is."""

    def make(self, part: Any, tell: Callable[..., None], cancel: Cancel | None = None) -> Any:
        """What was made of a part, never None; `tell` is called on the way, and `cancel` ends it there."""


class Survivor(Protocol):
    """Something that has parts made in a process of its own, and outlives the deaths of that process."""

    def make(self, part: Any, tell: Callable[..., None]) -> Any:
        """What was made of a part."""


@dataclass(frozen=True)
class Crew:
    """What every worker of a run is begun with; it can be pickled if the classifier can.

    Args:
        work: what holds for all parts, a frozen dataclass; every process loads its own classifier, its `model`.
        begin: of `work` and a classifier, who makes parts; without a classifier it loads its own.
        guard: of a process that makes parts, what is done when it dies.
    """

    work: Any
    begin: Callable[..., Maker]
    guard: Callable[[Child], Survivor]

    def child(self, threads: int) -> Child:
        """A process of its own that makes parts, in so many threads where no number was asked for.

        Raises:
            OptionError: for a classifier that cannot be sent to another process.
        """
        model = self.work.model
        work = self.work if model.threads is not None else replace(self.work, model=replace(model, threads=threads))
        return Child(partial(self.begin, work))
