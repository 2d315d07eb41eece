"""What is done when a worker dies: its part is tried again, and a picture that kills workers is found and left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, Protocol

from phosphene.batches.child import Child, WorkerDiedError
from phosphene.batches.work import Made, Shard, Tell
from phosphene.errors import PhospheneError, ResourceError
from phosphene.sources import Entry
from phosphene.sources.decode import broken
from phosphene.store import ShardCounts

# Deaths of a shard after which a picture of it is suspected, and how often a suspect has to kill again: machines
# fail as well, and a picture that is innocent keeps its row.
_DEATHS, _AGAIN = 2, 1
_MOST_DEATHS = 20


class Worker(Protocol):
    """Something that makes shards and may die of it, such as a Child."""

    def ask(self, what: Literal["make", "try_out"], shard: Shard, tell: Tell) -> Made | None:
        """Make a shard or try it out; WorkerDiedError where it dies."""


class Again:
    """A worker that gets its part again when it dies; a part of which one worker after the other dies ends the run.

    Args:
        worker: that may die.
    """

    def __init__(self, worker: Child) -> None:
        self._worker = worker

    def make(self, part: Any, tell: Callable[..., None]) -> Any:
        """What was made of a part.

        Raises:
            ResourceError: if workers go on dying of it.
            PhospheneError: what the worker raised.
        """
        how = ""
        for _ in range(1 + _DEATHS):
            try:
                return self._worker.ask("make", part, tell)
            except WorkerDiedError as death:
                how = death.how
        raise ResourceError(
            f"{part.key}: {1 + _DEATHS} workers died of it ({how}); use fewer workers, and --resume goes on"
        )


class Guarded:
    """A worker that outlives whatever its pictures do to it.

    Args:
        worker: that may die.
        pictures_at_once: of a batch; a picture is looked for among the pictures of the batch it died in, and those
            that were being read then.
    """

    def __init__(self, worker: Worker, pictures_at_once: int) -> None:
        self._worker, self._batch = worker, pictures_at_once

    def make(self, shard: Shard, tell: Tell) -> Made:
        """Make a shard; a picture that kills its worker becomes a row with an error.

        Raises:
            ResourceError: if workers go on dying and no picture is the cause.
            PhospheneError: what the worker raised.
        """
        deaths = 0
        while True:
            try:
                made = self._worker.ask("make", shard, tell)
                assert made is not None
                return replace(made, deaths=deaths)
            except WorkerDiedError as death:
                deaths += 1
                if deaths >= _MOST_DEATHS:
                    raise ResourceError(
                        f"shard {shard.number}: {deaths} workers died of it ({death.how}), and no one picture is the "
                        "cause; give fewer workers, more memory or a smaller batch"
                    ) from None
                if deaths >= _DEATHS:
                    shard = self._without_killers(shard, death)

    def _without_killers(self, shard: Shard, death: WorkerDiedError) -> Shard:
        """The shard with an error in the place of each picture that kills its worker."""
        entries, start = list(shard.entries), 0
        found: WorkerDiedError | None = death
        while found is not None:
            start += self._whole(found)
            number = self._killer(shard.number, entries, start)
            if number is None:
                break  # the machine's own doing: the shard is made again
            entries[number] = _left_out(entries[number], found.how)
            found = self._death(shard.number, entries[start:])
        return replace(shard, entries=tuple(entries))

    def _killer(self, number: int, entries: list[Entry], start: int) -> int | None:
        """Which picture it is, from `start` on: with those before it a worker dies each time, without it never."""
        return culprit(
            len(entries), start, self._batch, lambda stop: self._death(number, entries[start:stop]) is None, _AGAIN
        )

    def _death(self, number: int, entries: list[Entry]) -> WorkerDiedError | None:
        try:
            self._worker.ask("try_out", Shard(number, tuple(entries)), _nobody)
        except WorkerDiedError as death:
            return death
        except PhospheneError:
            return None  # an answer, if a sad one
        return None

    def _whole(self, death: WorkerDiedError) -> int:
        """Pictures finished before it, in whole batches: what follows is computed in the same batches as before."""
        finished: int = death.told[1].pictures if death.told else 0
        return finished // self._batch * self._batch


def culprit(count: int, start: int, step: int, survives: Callable[[int], bool], again: int = 0) -> int | None:
    """The first number `n` such that a worker that is given the items from `start` to `n`, `n` included, dies.

    The search goes out in steps that double, since a worker dies soon after the last batch that it finished, and then
    halves: what kills only together with its neighbours, as pictures that fill the memory, is found as well.

    Args:
        count: of items.
        start: the first that may be it.
        step: of the first stretch.
        survives: whether a worker outlives the items from `start` to one before this number.
        again: how often the verdict is tried once more.

    Returns:
        The number, or None if it was not the items.

    Example:
        >>> culprit(1000, 16, 8, lambda stop: stop <= 137)
        137
        >>> culprit(1000, 16, 8, lambda stop: True) is None
        True
    """
    low, high = start, min(start + step, count)
    while survives(high):
        if high == count:
            return None
        low, high, step = high, min(high + 2 * step, count), 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        if survives(middle):
            low = middle
        else:
            high = middle
    return None if any(survives(high) for _ in range(again)) else low


def _left_out(entry: Entry, how: str) -> Entry:
    return replace(entry, load=broken(f"{entry.path}: its worker died each time that it was looked at ({how})"))


def _nobody(_number: int, _counts: ShardCounts) -> None:
    """Trials are nobody's progress."""
