"""Where the parts of a run are made: in this process, or in processes of its own; `ray_data` has a third way.

An engine takes the parts that are to be made, such as shards, lets the crew's maker make each, and gives what was made
in any order.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from phosphene.batches.child import Child
from phosphene.batches.crew import Crew
from phosphene.cancel import Cancel
from phosphene.runtime import Prepared


class Engine(Protocol):
    """Something that has parts made."""

    def run(self, crew: Crew, parts: Iterator[Any], tell: Callable[..., None], cancel: Cancel) -> Iterator[Any]:
        """What was made, in any order.

        Args:
            crew: whose maker makes each part.
            parts: that are to be made.
            tell: called as a part goes on, in any thread, as the maker calls it.
            cancel: ends the run.
        """


@dataclass(frozen=True)
class InProcess:
    """Part after part in this process.

    Args:
        classifier: of the crew's model, loaded.
    """

    classifier: Prepared

    def run(self, crew: Crew, parts: Iterator[Any], tell: Callable[..., None], cancel: Cancel) -> Iterator[Any]:
        """What was made, in the order of the plan."""
        maker = crew.begin(crew.work, self.classifier)
        for part in parts:
            yield maker.make(part, tell, cancel)


@dataclass(frozen=True)
class Processes:
    """Workers in processes of their own, each with its classifier; one that dies is started again.

    Args:
        count: of workers.
    """

    count: int

    def run(self, crew: Crew, parts: Iterator[Any], tell: Callable[..., None], cancel: Cancel) -> Iterator[Any]:
        """What was made, as it comes."""
        children = [crew.child(max(1, (os.cpu_count() or 1) // self.count)) for _ in range(self.count)]
        listing = threading.Lock()
        made: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def drive(child: Child) -> None:
            guarded = crew.guard(child)
            try:
                while not cancel.is_cancelled:
                    with listing:
                        part = next(parts, None)
                    if part is None:
                        break
                    made.put(guarded.make(part, tell))
                made.put(None)
            except BaseException as error:  # raised where the results are taken
                made.put(error)

        for child in children:
            threading.Thread(target=drive, args=(child,), daemon=True).start()
        try:
            yield from _until_all_ended(made, self.count, cancel)
        finally:
            for child in children:
                child.close()


def _until_all_ended(made: queue.SimpleQueue[Any], running: int, cancel: Cancel) -> Iterator[Any]:
    while running:
        try:
            found = made.get(timeout=0.2)
        except queue.Empty:
            cancel.raise_if_cancelled()
            continue
        if isinstance(found, BaseException):
            raise found
        if found is None:
            running -= 1
        else:
            yield found
    cancel.raise_if_cancelled()
