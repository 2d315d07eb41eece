"""Workers that die: what is tried again, what is found and left out, what stops the run; and a run full of failures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.failures import World, simulate
from hypothesis import given
from hypothesis import strategies as st

from phosphene.batches.child import WorkerDiedError, described_end
from phosphene.batches.guard import Guarded, culprit
from phosphene.batches.work import Made, Shard
from phosphene.errors import InputError, ModelError, ResourceError
from phosphene.sources import Entry
from phosphene.store import ShardCounts

BATCH = 4


def nothing(**_reading):
    return None


def shard(count):
    return Shard(7, tuple(Entry(f"{number}.jpg", f"{number}.jpg", nothing) for number in range(count)))


def left_out(entry):
    if entry.load is nothing:
        return False
    with pytest.raises(InputError, match="its worker died each time"):
        entry.load()
    return True


class Worker:
    """Dies of certain pictures, of two of them together, or of nothing at given questions."""

    def __init__(self, killers=(), together=(), accidents=()):
        self.killers, self.together, self.accidents = set(killers), set(together), set(accidents)
        self.asked, self.made = 0, None

    def ask(self, what, shard, tell):
        self.asked += 1
        numbers = [int(entry.key.split(".")[0]) for entry in shard.entries if not left_out(entry)]
        for place in range(0, len(numbers), BATCH):
            batch = set(numbers[place : place + BATCH])
            if batch & self.killers or (self.together and self.together <= batch) or self.asked in self.accidents:
                raise WorkerDiedError("killed by SIGSEGV", (shard.number, ShardCounts(place)))
            tell(shard.number, ShardCounts(place + BATCH))
        if what == "make":
            self.made = [entry.key for entry in shard.entries if left_out(entry)]
            return Made(shard.number, ShardCounts(len(shard.entries)))
        return None


@given(st.integers(1, 300), st.data())
def test_the_culprit_is_the_first_that_kills(count, data):
    start = data.draw(st.integers(0, count - 1))
    killers = data.draw(st.sets(st.integers(start, count - 1), max_size=5))
    asked = []

    def survives(stop):
        assert start < stop <= count
        asked.append(stop)
        return not any(start <= killer < stop for killer in killers)

    assert culprit(count, start, BATCH, survives, again=2) == min(killers, default=None)
    assert len(asked) <= 2 * count.bit_length() + 4


def test_who_dies_by_chance_is_no_culprit():
    answers = iter([False, False, True])  # died twice, and not the third time
    assert culprit(1, 0, 1, lambda _stop: next(answers), again=2) is None


@pytest.mark.parametrize("killers", [(), (0,), (9,), (4, 5, 6, 7), (39,), (0, 13, 39)])
def test_pictures_that_kill_are_found_and_the_others_are_done(killers):
    worker = Worker(killers)
    made = Guarded(worker, BATCH).make(shard(40), lambda *_: None)
    assert made.counts.pictures == 40
    assert worker.made == [f"{number}.jpg" for number in killers]
    assert worker.asked <= 3 + 8 * len(killers)


def test_what_kills_only_together_is_found_too():
    worker = Worker(together=(9, 10))
    Guarded(worker, BATCH).make(shard(40), lambda *_: None)
    assert worker.made == ["10.jpg"]


@pytest.mark.parametrize("accidents", [{1}, {1, 2}, {1, 2, 4}, {1, 2, 3}, {1, 2, 3, 4}])
def test_accidents_cost_no_picture_its_row(accidents):
    worker = Worker(accidents=accidents)
    made = Guarded(worker, BATCH).make(shard(40), lambda *_: None)
    assert worker.made == []
    assert made.deaths >= 1


def test_what_dies_whatever_it_is_given_stops_the_run():
    with pytest.raises(ResourceError, match=r"shard 7: 20 workers died of it \(killed by SIGSEGV\)"):
        Guarded(Worker(accidents=set(range(1, 10_000, 1)) - set(range(3, 10_000, 2))), BATCH).make(
            shard(2), lambda *_: None
        )


def test_what_a_worker_raises_is_raised():
    class Raising:
        def ask(self, what, shard, tell):
            raise ModelError("no such layer")

    with pytest.raises(ModelError, match="no such layer"):
        Guarded(Raising(), BATCH).make(shard(4), lambda *_: None)


def test_how_a_process_ended_is_told_in_words():
    assert described_end(-9) == "killed by SIGKILL, as when memory runs out"
    assert described_end(1) == "ended with exit status 1"


@pytest.mark.parametrize("seed", range(3))
def test_a_run_full_of_failures_ends_with_every_row_once(seed):
    world = World(pictures=20_000, shard_size=100, workers=16, death=0.05, killers=6, driver_deaths=3, seed=seed)
    found = simulate(world)
    assert found["each_once"]
    assert found["rows"] == 20_000
    assert found["failed"] == found["failed_wanted"]
    assert found["worker_deaths"] > 6
    assert found["hours"] > found["hours_ideal"]
    calm = simulate(replace(world, death=0.0, killers=0, driver_deaths=0, slow=(0.0, 1.0), start=0.0))
    assert calm["hours"] == pytest.approx(calm["hours_ideal"], rel=0.05)
