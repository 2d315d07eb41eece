"""Each side in a process of its own, so that neither's settings (allocator, caches, imports) reach the other."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import traceback
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from phosphene.allocator import keep_freed_memory


class Side(AbstractContextManager["Side"]):
    """A process that does one side of a work when told to."""

    def __init__(self, work: str, side: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, work, side), daemon=True)
        self._process.start()
        child.close()

    def run(self, setting: str | int, count: int) -> tuple[float, np.ndarray]:
        """(seconds, result) of one run."""
        return self._ask(("run", setting, count))  # type: ignore[no-any-return]

    @property
    def peak_mb(self) -> float:
        """The most memory the process ever held, in MiB."""
        return float(self._ask(("peak", None, 0)))

    def _ask(self, question: tuple[str, str | int | None, int]) -> Any:
        self._connection.send(question)
        worked, answer = self._connection.recv()
        if not worked:
            raise RuntimeError(answer)
        return answer

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()


def _serve(connection: Connection, name: str, side: str) -> None:
    from benchmarks.works import WORKS

    if side == "ours":
        keep_freed_memory()  # as the command does, and as the README advises others to
    work = next(work for work in WORKS if work.name == name)
    runs: dict[tuple[Any, int], Any] = {}
    while True:
        try:
            what, setting, count = connection.recv()
        except EOFError:
            return
        try:
            if what == "peak":
                connection.send((True, peak_mb()))
                continue
            if (setting, count) not in runs:
                runs[setting, count] = (work.ours if side == "ours" else work.theirs)(setting, count)
            start = time.perf_counter()
            result = runs[setting, count]()
            connection.send((True, (time.perf_counter() - start, result)))
        except Exception:
            connection.send((False, f"{name}, {side} ({setting}):\n{traceback.format_exc()}"))


def peak_mb() -> float:
    """Peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
