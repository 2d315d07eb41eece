"""What a worker is told: once all that holds for a run, then shard by shard the pictures; all of it can be pickled."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from phosphene.batches.masks import Masks
from phosphene.errors import InputError
from phosphene.sources import Entry, Source
from phosphene.store import ShardCounts, ShardFormat
from phosphene.tasks import PictureTask
from phosphene.zoo import ModelChoice

# Called with (number of the shard, what is done of it so far).
Tell = Callable[[int, ShardCounts], None]


@dataclass(frozen=True)
class Work:
    """What holds for all shards of a run.

    Args:
        place: path or URL of the run.
        model: that looks at the pictures; every process loads its own.
        task: what is done with them.
        format: of the shards.
        plan: digest of the run's plan, which stands in each shard.
        masks: where the masks of the pictures are; None for no masks.
    """

    place: str
    model: ModelChoice
    task: PictureTask
    format: ShardFormat
    plan: str
    masks: Masks | None = None


@dataclass(frozen=True)
class Shard:
    """A shard that is to be made: its number and its pictures, listed and not read."""

    number: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Made:
    """A shard that is in its place.

    Args:
        number: of the shard.
        counts: of its pictures and rows.
        seconds: that it took, reading and writing included.
        waited: seconds of these in which nothing was computed because no picture was there yet.
        deaths: how often a worker died of it.
    """

    number: int
    counts: ShardCounts = field(default_factory=ShardCounts)
    seconds: float = 0.0
    waited: float = 0.0
    deaths: int = 0


def cut(source: Source, keys: Sequence[str], size: int, finished: Container[int]) -> Iterator[Shard]:
    """The shards that are not finished, cut from the listing of a source while it is read.

    Args:
        source: of the pictures.
        keys: of all pictures of the run, in order, as the source listed them before.
        size: pictures in a shard.
        finished: numbers of the shards that are there.

    Raises:
        InputError: if the source lists other pictures now.

    Example:
        >>> from phosphene.sources import Files
        >>> source = Files(["a.jpg", "b.jpg", "c.jpg"])
        >>> [(shard.number, len(shard.entries)) for shard in cut(source, source.keys(), 2, {0})]
        [(1, 1)]
    """
    entries = source.entries()
    for number, start in enumerate(range(0, len(keys), size)):
        group = tuple(islice(entries, min(size, len(keys) - start)))
        if [entry.key for entry in group] != list(keys[start : start + size]):
            raise InputError("the pictures changed while they were being listed; run the command again")
        if number not in finished:
            yield Shard(number, group)
