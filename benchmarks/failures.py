"""python -m benchmarks.failures: runs of many pictures on many workers that fail, simulated with the real guard.

Time is simulated, and so are the workers: they compute nothing, die as often as they are told to, and of the pictures
that kill. What cuts the run, tries again, finds the killers and goes on after the driver died is the code that runs
batches. At the end every row has to be there once.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from phosphene.batches.child import WorkerDiedError
from phosphene.batches.guard import Guarded
from phosphene.batches.work import Made, Shard, Tell
from phosphene.errors import InputError
from phosphene.sources import Entry
from phosphene.store import ShardCounts

BATCH = 8


@dataclass(frozen=True)
class World:
    """What a run meets.

    Args:
        pictures: of the run.
        shard_size: pictures in a shard.
        workers: that compute at the same time.
        rate: pictures a second of a sound worker.
        start: seconds until a new worker has its classifier.
        death: probability that a worker dies of nothing within a shard.
        slow: share of the workers that are slow, and how many times slower.
        broken: share of the files that are no pictures.
        killers: pictures that kill whoever looks at them.
        driver_deaths: how often the whole run is killed and begun again.
    """

    pictures: int = 1_000_000
    shard_size: int = 1000
    workers: int = 64
    rate: float = 10.0
    start: float = 6.0
    death: float = 0.05
    slow: tuple[float, float] = (0.1, 5.0)
    broken: float = 0.01
    killers: int = 20
    driver_deaths: int = 2
    seed: int = 0


def is_broken(world: World, number: int) -> bool:
    """Whether a file is no picture; of the number alone, so that nothing has to be kept."""
    return (number * 2654435761 % 2**32) / 2**32 < world.broken


class Pictures(Sequence[Entry]):
    """The entries from one number to another, made when they are asked for."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        found = self.numbers[index]
        return Pictures(found) if isinstance(found, range) else Entry(str(found), str(found), _nothing)


def _nothing(**_reading: Any) -> Any:
    raise AssertionError("simulated pictures are not looked at")


class SimulatedWorker:
    """Takes time instead of computing, and dies."""

    def __init__(self, world: World, chance: random.Random, killers: frozenset[int]) -> None:
        self.world, self.chance, self.killers = world, chance, killers
        slower = world.slow[1] if chance.random() < world.slow[0] else 1.0
        self.seconds_a_picture = slower / world.rate
        self.time = world.start
        self.deaths = 0

    def ask(self, what: Literal["make", "try_out"], shard: Shard, tell: Tell) -> Made | None:
        """Make a shard or try it out; time passes."""
        entries = shard.entries
        if isinstance(entries, Pictures):
            deadly = [n - entries.numbers.start for n in self.killers if n in entries.numbers]
        else:
            deadly = [place for place, one in enumerate(entries) if int(one.key) in self.killers and _lives(one)]
        end = min(deadly, default=len(entries))
        accident = self.chance.random() < self.world.death * len(entries) / self.world.shard_size
        if accident:
            end = min(end, self.chance.randrange(len(entries)))
        finished = end // BATCH * BATCH
        self.time += (finished if end < len(entries) else end) * self.seconds_a_picture
        if end < len(entries):
            self.deaths += 1
            self.time += self.world.start
            raise WorkerDiedError("killed by SIGKILL", (shard.number, ShardCounts(finished)))
        return Made(shard.number, self._counts(shard)) if what == "make" else None

    def _counts(self, shard: Shard) -> ShardCounts:
        if isinstance(shard.entries, Pictures):
            numbers: Sequence[int] = shard.entries.numbers
            left_out = 0
        else:
            numbers = [int(one.key) for one in shard.entries if _lives(one)]
            left_out = len(shard.entries) - len(numbers)
        failed = left_out + sum(is_broken(self.world, number) for number in numbers)
        return ShardCounts(len(shard.entries), len(shard.entries), failed)


def _lives(entry: Entry) -> bool:
    """Whether a picture is still looked at: of one that was left out the loader only raises."""
    if entry.load is _nothing:
        return True
    try:
        entry.load()
    except InputError:
        return False
    return True


def simulate(world: World) -> dict[str, Any]:
    """The run from its beginning to its end, however often it is begun."""
    chance = random.Random(world.seed)
    killers = frozenset(chance.sample(range(world.pictures), world.killers))
    starts = range(0, world.pictures, world.shard_size)
    store: dict[int, ShardCounts] = {}
    deaths, written, clock = 0, 0, 0.0
    ideal = world.pictures / world.rate / world.workers
    stops = sorted(chance.random() * ideal * 1.2 for _ in range(world.driver_deaths))
    for stop in [*stops, float("inf")]:
        workers = [SimulatedWorker(world, chance, killers) for _ in range(world.workers)]
        made, wrote = _until(world, workers, _shards(world, starts, store), stop - clock)
        store |= made
        written += wrote
        deaths += sum(worker.deaths for worker in workers)
        clock = stop if stop != float("inf") else clock + max(worker.time for worker in workers)
    total = sum(store.values(), ShardCounts())
    wanted = sum(is_broken(world, number) for number in range(world.pictures) if number not in killers) + world.killers
    return {
        "pictures": world.pictures,
        "shards": len(store),
        "workers": world.workers,
        "worker_deaths": deaths,
        "driver_deaths": world.driver_deaths,
        "rows": total.rows,
        "failed": total.failed,
        "failed_wanted": wanted,
        "each_once": sorted(store) == list(range(len(starts))) and total.rows == world.pictures,
        "written_again": written - len(store),
        "hours": clock / 3600,
        "hours_ideal": ideal / 3600,
    }


def _shards(world: World, starts: range, store: dict[int, ShardCounts]) -> Iterator[Shard]:
    for number, start in enumerate(starts):
        if number not in store:
            stop = min(start + world.shard_size, world.pictures)
            yield Shard(number, Pictures(range(start, stop)))  # type: ignore[arg-type]


def _until(
    world: World, workers: list[SimulatedWorker], shards: Iterator[Shard], stop: float
) -> tuple[dict[int, ShardCounts], int]:
    """(what is in its place when the driver dies, how many files were written): whoever is free takes the next."""
    free = [(worker.time, index) for index, worker in enumerate(workers)]
    heapq.heapify(free)
    made: dict[int, ShardCounts] = {}
    for shard in shards:
        time, index = heapq.heappop(free)
        if time >= stop:
            break
        worker = workers[index]
        one = Guarded(worker, BATCH).make(shard, lambda _number, _counts: None)
        if worker.time <= stop:
            if shard.number in made:
                raise AssertionError(f"shard {shard.number} was made twice")
            made[shard.number] = one.counts
        heapq.heappush(free, (worker.time, index))
    return made, len(made)


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failures", description=__doc__)
    parser.add_argument("--pictures", type=int, action="append", help="of a run; may be repeated")
    parser.add_argument("--rate", type=float, default=World.rate, help="pictures a second of a sound worker")
    parser.add_argument("--workers", type=int, default=World.workers)
    parser.add_argument("--shard-size", type=int, default=World.shard_size)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    world = World(workers=chosen.workers, rate=chosen.rate, shard_size=chosen.shard_size)
    found = [simulate(replace(world, pictures=count)) for count in chosen.pictures or [1_000_000]]
    if chosen.json:
        print(json.dumps(found, indent=1))
        return
    print("| " + " | ".join(found[0]) + " |\n|" + "---|" * len(found[0]))
    for row in found:
        print(
            "| "
            + " | ".join(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values())
            + " |"
        )


if __name__ == "__main__":
    main()
