"""Who makes the shards of a run: this process, or processes of its own; `ray_data` has a third way.

An engine takes the shards that are to be made, lets `ShardMaker` make each, and gives what was made in any order.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from phosphene.batches.child import Child
from phosphene.batches.guard import Guarded
from phosphene.batches.maker import ShardMaker
from phosphene.batches.work import Made, Shard, Tell, Work
from phosphene.cancel import Cancel
from phosphene.runtime import Prepared


class Engine(Protocol):
    """Something that makes shards."""

    def run(self, work: Work, shards: Iterator[Shard], tell: Tell, cancel: Cancel) -> Iterator[Made]:
        """What was made, in any order.

        Args:
            work: what holds for the run.
            shards: that are to be made.
            tell: called as pictures are done, in any thread.
            cancel: ends the run.
        """


@dataclass(frozen=True)
class InProcess:
    """Shard after shard in this process, pictures read ahead in threads.

    Args:
        classifier: that looks at the pictures.
    """

    classifier: Prepared

    def run(self, work: Work, shards: Iterator[Shard], tell: Tell, cancel: Cancel) -> Iterator[Made]:
        """What was made, in the order of the plan."""
        maker = ShardMaker(work, self.classifier)
        for shard in shards:
            yield maker.make(shard, tell, cancel)


@dataclass(frozen=True)
class Processes:
    """Workers in processes of their own, each with its classifier; one that dies is started again.

    Args:
        count: of workers.
        pictures_at_once: of a batch.
    """

    count: int
    pictures_at_once: int

    def run(self, work: Work, shards: Iterator[Shard], tell: Tell, cancel: Cancel) -> Iterator[Made]:
        """What was made, as it comes."""
        cores = max(1, (os.cpu_count() or 1) // self.count)
        work = with_threads(work, cores)
        children = [Child(work, threads=cores + 1) for _ in range(self.count)]
        listing = threading.Lock()
        made: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def drive(child: Child) -> None:
            guarded = Guarded(child, self.pictures_at_once)
            try:
                while not cancel.is_cancelled:
                    with listing:
                        shard = next(shards, None)
                    if shard is None:
                        break
                    made.put(guarded.make(shard, tell))
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


def with_threads(work: Work, count: int) -> Work:
    """The same work, computed in so many threads where no number was asked for."""
    return work if work.model.threads is not None else replace(work, model=replace(work.model, threads=count))


def _until_all_ended(made: queue.SimpleQueue[Any], running: int, cancel: Cancel) -> Iterator[Made]:
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
