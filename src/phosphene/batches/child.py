"""A worker in a process of its own, driven by messages through its pipes; it dies with whoever started it.

Not multiprocessing: that would run the user's main module again in each worker, and does not say which signal a worker
died of. `main` is the other end.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from typing import IO, Any, Literal

from phosphene.batches.work import Made, Shard, Tell, Work
from phosphene.errors import CancelledError, ModelError, OptionError, PhospheneError
from phosphene.store import ShardCounts

# As the command does: memory is kept before PyTorch is loaded.
_OTHER_END = (
    f"from phosphene.allocator import keep_freed_memory; keep_freed_memory(); from {__name__} import main; main()"
)


class WorkerDiedError(Exception):
    """A worker's process ended before it answered.

    Args:
        how: it ended, in words.
        finished: pictures of the shard that it had finished.
    """

    def __init__(self, how: str, finished: int) -> None:
        super().__init__(how)
        self.how, self.finished = how, finished


class Child:
    """A process that makes shards, started with the first one and again after it died.

    Args:
        work: what holds for the run.
        threads: that read pictures ahead.

    Raises:
        OptionError: for a classifier that cannot be sent to another process.
    """

    def __init__(self, work: Work, threads: int | None = None) -> None:
        try:
            self._start = pickle.dumps((work, threads))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise OptionError(
                f"the classifier cannot be sent to another process ({error}); give it by name, as "
                "'package.module:factory', or compute with workers=0"
            ) from None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def ask(self, what: Literal["make", "try_out"], shard: Shard, tell: Tell) -> Made | None:
        """Let the worker make a shard, or try it out.

        Args:
            what: to be done.
            shard: the pictures.
            tell: called after each batch.

        Raises:
            WorkerDiedError: if the process ends before it has answered.
            PhospheneError: what the worker raised.
        """
        finished = 0
        try:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            pickle.dump((what, shard), process.stdin)
            process.stdin.flush()
            while True:
                kind, answer = pickle.load(process.stdout)
                if kind == "told":
                    finished = answer.pictures
                    tell(shard.number, answer)
                elif kind == "raised":
                    raise answer
                else:
                    made: Made | None = answer
                    return made
        except (EOFError, OSError, pickle.UnpicklingError):
            raise WorkerDiedError(self._ended(), finished) from None

    def close(self) -> None:
        """End the process, whatever it does; no other one is started."""
        self._is_closed = True
        process = self._process
        if process is not None:
            process.kill()
            self._ended()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._is_closed:
            raise CancelledError("stopped; what was finished is kept")
        if self._process is None:
            path = os.pathsep.join(part for part in sys.path if part)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _OTHER_END],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONPATH": path},
            )
            assert self._process.stdin is not None
            self._process.stdin.write(self._start)
            self._process.stdin.flush()
        return self._process

    def _ended(self) -> str:
        """How the process ended; the next question starts another one."""
        process, self._process = self._process, None
        if process is None:
            return "could not be started"
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return described_end(code)


def described_end(code: int) -> str:
    """How a process ended, from its exit status.

    Example:
        >>> described_end(-11), described_end(3)
        ('killed by SIGSEGV', 'ended with exit status 3')
    """
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")


def main() -> None:
    """The other end: what comes in is done, in order; the end of the input is the end of the process."""
    # Ctrl-C reaches all processes of a terminal; when to stop is decided by who drives this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a network prints is no answer
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, waiting), daemon=True).start()
    work, threads = waiting.get()
    maker: Any = None
    while True:
        what, shard = waiting.get()
        try:
            if maker is None:
                from phosphene.batches.maker import ShardMaker

                maker = ShardMaker(work, threads=threads)
            answer = getattr(maker, what)(shard, lambda _number, counts: _say(answers, "told", counts))
        except PhospheneError as error:
            _say(answers, "raised", error)
        except Exception as error:  # of the user's own code: it may not be known on the other side
            traceback.print_exc()
            _say(answers, "raised", ModelError(f"{type(error).__name__}: {error}"))
        else:
            _say(answers, "done", answer)


def _read(pipe: IO[bytes], waiting: queue.SimpleQueue[Any]) -> None:
    """Questions in the order they come. A driver that is gone wants no answers: the process ends at once."""
    try:
        while True:
            waiting.put(pickle.load(pipe))
    except (EOFError, OSError):
        os._exit(0)


def _say(pipe: IO[bytes], kind: str, answer: Made | ShardCounts | PhospheneError | None) -> None:
    pickle.dump((kind, answer), pipe)
    pipe.flush()
