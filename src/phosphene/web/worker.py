"""The one thread that computes, and the bounded queue before it: who waits knows how many are before them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from phosphene.cancel import Cancel
from phosphene.errors import CancelledError, PhospheneError, ResourceError

# Seconds between two states that are told.
_APART = 0.2

Status = Literal["waiting", "running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class State:
    """How far a job is.

    Args:
        status: waiting, running, done, failed, or stopped by its owner.
        before: jobs that are done before it.
        text: what is being done, or why it failed.
        share: of the work that is done, 0 to 1; None where nobody knows.
        value: the newest that the work gave, or None.
        seconds: since the work began.
    """

    status: Status = "waiting"
    before: int = 0
    text: str = ""
    share: float | None = None
    value: Any = None
    seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.status in ("done", "failed", "stopped")


class Job:
    """Work that was handed in: its state, a way to stop it, and what the work calls while it goes on.

    Args:
        owner: whose it is; who hands in another one stops the one before.
        work: gives values on its way, each making the one before needless; the last is the result.
        seconds: that it may take.
    """

    def __init__(self, owner: str, work: Work, seconds: float) -> None:
        self.owner, self.work, self.seconds = owner, work, seconds
        self.cancel = Cancel()
        self.state = State()
        self.over = threading.Event()
        self._begun: float | None = None
        self._listeners: list[Callable[[], None]] = []

    def progress(self, done: int, total: int, text: str) -> None:
        """What tasks call as they go on; this is where a stop and the time limit take hold."""
        self.check()
        self.tell(text=text, share=done / total if total else None)

    def check(self) -> None:
        """Leave the work here if it is to stop.

        Raises:
            CancelledError: if it was stopped.
            ResourceError: if its time is over.
        """
        self.cancel.raise_if_cancelled()
        if self._begun is not None and time.monotonic() - self._begun > self.seconds:
            raise ResourceError(
                f"took longer than the {self.seconds:.0f} s that one question may take here; ask for less "
                "(fewer methods, steps or classes), or use the command"
            )

    def tell(self, **news: Any) -> None:
        """Change the state and wake who follows it."""
        spent = 0.0 if self._begun is None else time.monotonic() - self._begun
        self.state = replace(self.state, **{"seconds": spent, **news})
        if self.state.is_over:
            self.over.set()
        for listener in list(self._listeners):
            listener()

    async def states(self) -> AsyncIterator[State]:
        """The state now and after changes, the last one last; what changes faster than it is read is left out.

        Five a second at most: a browser that draws each has no time for a press on Stop. The last comes at once.

        Whoever stops reading before the end stops the job.
        """
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(changed.set)

        self._listeners.append(wake)
        try:
            while True:
                changed.clear()
                state, told = self.state, loop.time()
                yield state
                if state.is_over:
                    return
                await changed.wait()
                while not self.state.is_over and (left := told + _APART - loop.time()) > 0:
                    changed.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), left)
        finally:
            self._listeners.remove(wake)
            self.cancel.cancel()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end; the last value.

        Raises:
            PhospheneError: if the work failed or was stopped, or is not over in time.
        """
        if not self.over.wait(timeout):
            raise ResourceError(f"not done after {timeout} s")
        if self.state.status != "done":
            raise PhospheneError(self.state.text)
        return self.state.value

    def run(self) -> None:
        """Do the work, in the thread of the worker."""
        self._begun = time.monotonic()
        self.tell(status="running", before=0)
        try:
            for value in self.work(self):
                self.tell(value=value)
                self.check()
        except (CancelledError, KeyboardInterrupt):
            self.tell(status="stopped", text="stopped")
        except PhospheneError as error:
            self.tell(status="failed", text=str(error))
        except Exception as error:  # the worker outlives whatever a network does
            self.tell(
                status="failed", text=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            )
            raise
        else:
            self.tell(status="done", text="", share=1.0)


Work = Callable[[Job], Iterator[Any]]


class Worker:
    """One thread that does the jobs in order.

    Args:
        bound: how many jobs may wait; who comes then is told so at once.
        seconds: that one job may take.

    Example:
        >>> worker = Worker()
        >>> worker.submit("me", lambda job: iter(["half", "whole"])).result(timeout=60)
        'whole'
        >>> worker.close()
    """

    def __init__(self, bound: int = 16, seconds: float = 120.0) -> None:
        self.bound, self.seconds = bound, seconds
        self.done = 0
        self._waiting: list[Job] = []
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="phosphene-compute", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Jobs that wait or run."""
        with self._changed:
            return len(self._waiting) + (self._running is not None)

    def submit(self, owner: str, work: Work) -> Job:
        """Hand in work; what the same owner handed in before is stopped.

        Raises:
            ResourceError: "busy, N before you", if the queue is full.
        """
        self.cancel(owner)
        job = Job(owner, work, self.seconds)
        with self._changed:
            if len(self._waiting) >= self.bound:
                raise ResourceError(
                    f"busy: {len(self._waiting) + (self._running is not None)} before you, and no more may wait; "
                    "ask again in a moment"
                )
            self._waiting.append(job)
            self._changed.notify()
            self._tell_places()
        return job

    def cancel(self, owner: str) -> None:
        """Stop what this owner handed in, and what owners handed in whose name begins with it and a slash."""
        with self._changed:
            mine = [job for job in self._waiting if _is_of(job, owner)]
            self._waiting = [job for job in self._waiting if job not in mine]
            for job in mine:
                job.cancel.cancel()
                job.tell(status="stopped", text="stopped")
            if self._running is not None and _is_of(self._running, owner):
                self._running.cancel.cancel()
            self._tell_places()

    def close(self) -> None:
        """Stop everything and end the thread."""
        with self._changed:
            self._closed = True
            for job in self._waiting:
                job.tell(status="stopped", text="stopped")
            self._waiting.clear()
            if self._running is not None:
                self._running.cancel.cancel()
            self._changed.notify()
        self._thread.join(timeout=30)

    def _tell_places(self) -> None:
        running = int(self._running is not None)
        for number, job in enumerate(self._waiting):
            job.tell(before=number + running)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                job = self._running = self._waiting.pop(0)
                self._tell_places()
            try:
                if job.cancel.is_cancelled:
                    job.tell(status="stopped", text="stopped")
                else:
                    job.run()
            except Exception:
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            finally:
                with self._changed:
                    self._running = None
                    self.done += 1
                    self._tell_places()


def _is_of(job: Job, owner: str) -> bool:
    return job.owner == owner or job.owner.startswith(f"{owner}/")
