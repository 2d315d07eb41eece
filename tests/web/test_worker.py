"""The worker: one at a time, in order, bounded, stopped when nobody follows."""

from __future__ import annotations

import asyncio
import threading
import time
from itertools import pairwise

import pytest

from phosphene.errors import OptionError, PhospheneError, ResourceError
from phosphene.web.worker import Worker


@pytest.fixture
def worker():
    made = Worker(bound=2, seconds=30)
    yield made
    made.close()


class Gated:
    """Work that says that it began and goes on until it is told to end."""

    def __init__(self):
        self.began, self.may_end, self.was_stopped = threading.Event(), threading.Event(), False

    def __call__(self, job):
        self.began.set()
        yield "begun"
        try:
            while not self.may_end.is_set():
                job.check()
                time.sleep(0.01)
        except BaseException:
            self.was_stopped = True
            raise
        yield "ended"


def test_who_waits_knows_how_many_are_before_and_who_is_too_many_is_told(worker):
    first = Gated()
    running = worker.submit("a", first)
    assert first.began.wait(10)
    waiting = [worker.submit(owner, lambda job: iter([job.owner])) for owner in "bc"]
    assert [job.state.before for job in waiting] == [1, 2]
    with pytest.raises(ResourceError, match="busy: 3 before you"):
        worker.submit("d", lambda job: iter(()))
    first.may_end.set()
    assert running.result(10) == "ended"
    assert [job.result(10) for job in waiting] == ["b", "c"]
    assert worker.done == 3


def test_a_new_question_of_the_same_owner_stops_the_one_before(worker):
    first = Gated()
    job = worker.submit("a/explain", first)
    assert first.began.wait(10)
    assert worker.submit("a/explain", lambda job: iter([2])).result(10) == 2
    assert job.over.wait(10)
    assert job.state.status == "stopped"
    assert first.was_stopped


def test_all_questions_of_an_owner_stop_when_they_leave(worker):
    first = Gated()
    one = worker.submit("a/explain", first)
    assert first.began.wait(10)
    other, two = (worker.submit(owner, lambda job: iter([1])) for owner in ("ab/explain", "a/locate"))
    worker.cancel("a")
    assert one.over.wait(10)
    assert (one.state.status, two.state.status) == ("stopped", "stopped")
    assert other.result(10) == 1


def test_who_stops_following_stops_the_job(worker):
    work = Gated()
    job = worker.submit("a", work)

    async def follow_a_little():
        states = job.states()
        seen = [await anext(states)]
        while seen[-1].value != "begun":
            seen.append(await anext(states))
        await states.aclose()

    asyncio.run(follow_a_little())
    assert job.over.wait(10)
    assert job.state.status == "stopped"
    assert work.was_stopped


def test_states_end_with_the_result(worker):
    async def followed():
        job = worker.submit("a", lambda job: iter(["half", "whole"]))
        return [state async for state in job.states()]

    states = asyncio.run(followed())
    assert (states[-1].status, states[-1].value) == ("done", "whole")
    assert all(not state.is_over for state in states[:-1])


def test_states_are_told_a_few_times_a_second_and_the_last_at_once(worker):
    def steps(job):
        for step in range(60):
            time.sleep(0.01)
            yield step

    async def followed():
        job = worker.submit("a", steps)
        began = time.monotonic()
        return [(time.monotonic() - began, state) async for state in job.states()]

    told = asyncio.run(followed())
    (_, *between, (_, last)) = told
    assert (last.status, last.value) == ("done", 59)
    assert 1 <= len(between) <= 5 * told[-1][0] + 1
    assert all(later - former > 0.15 for (former, _), (later, _) in pairwise(told[:-1]))


def test_time_is_limited():
    worker = Worker(seconds=0.05)
    try:
        job = worker.submit("a", Gated())
        with pytest.raises(PhospheneError, match="took longer than"):
            job.result(10)
    finally:
        worker.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [OptionError("no class 'x'"), RuntimeError("broken network")])
def test_the_worker_outlives_what_fails(worker, error, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda raised: None)

    def work(job):
        yield "something"
        raise error

    with pytest.raises(PhospheneError, match=str(error)):
        worker.submit("a", work).result(10)
    assert worker.submit("a", lambda job: iter([1])).result(10) == 1
