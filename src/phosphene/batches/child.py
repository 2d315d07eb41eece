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
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

from phosphene.errors import CancelledError, ModelError, OptionError, PhospheneError, as_lines

# Ctrl-C reaches all processes of a terminal; when to stop is decided by who drives this one, also while it loads.
# As the command does: memory is kept before PyTorch is loaded.
_OTHER_END = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    f"from phosphene.allocator import keep_freed_memory; keep_freed_memory(); from {__name__} import main; main()"
)


class WorkerDiedError(Exception):
    """A worker's process ended before it answered.

    Args:
        how: it ended, in words.
        told: what it said last of how far it was; nothing if it did not say.
    """

    def __init__(self, how: str, told: tuple[Any, ...] = ()) -> None:
        super().__init__(how)
        self.how, self.told = how, told


class Child:
    """A process that makes parts of a run, started with the first one and again after it died.

    Args:
        begin: gives what makes parts, called in the process; it can be pickled.

    Raises:
        OptionError: for a classifier that cannot be sent to another process.
    """

    def __init__(self, begin: Callable[[], Any]) -> None:
        try:
            # As bytes: what the process cannot make of them does not disturb what is sent after them.
            self._start = pickle.dumps(pickle.dumps(begin))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise _not_sent(error) from None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def ask(self, what: str, part: Any, tell: Callable[..., None]) -> Any:
        """Let the process do something with a part.

        Args:
            what: a method of what makes parts, which takes the part and `tell`.
            part: of the run; it can be pickled.
            tell: called as the method calls it.

        Raises:
            WorkerDiedError: if the process ends before it has answered.
            PhospheneError: what the method raised.
        """
        told: tuple[Any, ...] = ()
        try:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            pickle.dump((what, part), process.stdin)
            process.stdin.flush()
            while True:
                kind, answer = pickle.load(process.stdout)
                if kind == "told":
                    told = answer
                    tell(*told)
                elif kind == "raised":
                    raise answer
                else:
                    return answer
        except (EOFError, OSError, pickle.UnpicklingError):
            raise WorkerDiedError(self._ended(), told) from None

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
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a network prints is no answer
    warnings.showwarning = as_lines()
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, waiting), daemon=True).start()
    begin = waiting.get()
    maker: Any = None
    while True:
        what, part = waiting.get()
        try:
            maker = _begun(begin) if maker is None else maker
            answer = getattr(maker, what)(part, lambda *told: _say(answers, "told", told))
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


def _begun(sent: bytes) -> Any:
    try:
        begin = pickle.loads(sent)
    except (AttributeError, ImportError) as error:  # such as a class of the driver's main module
        raise _not_sent(error) from None
    return begin()


def _not_sent(error: Exception) -> OptionError:
    return OptionError(
        f"the classifier cannot be sent to another process ({error}); give it by name, as 'package.module:factory', or "
        "compute with workers=0"
    )


def _say(pipe: IO[bytes], kind: str, answer: Any) -> None:
    pickle.dump((kind, answer), pipe)
    pipe.flush()
