"""One process at a time writes a run: locks that the system takes back when their process ends, however it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from phosphene.errors import OutputError
from phosphene.files import is_url

# Seconds; longer than is_locked has the lock for, which it has to take to know.
_LOOK = 0.05


@contextmanager
def locked(place: str | None) -> Iterator[None]:
    """A block in which no other process writes a run that is kept in parts.

    The folder itself is what is locked, which is there before all of its files and stays when it is cleared; it is
    made. Behind a URL, and on file systems without locks, the block is one as any other.

    Args:
        place: of the run; None for one that has no place yet, which nobody else knows.

    Raises:
        OutputError: if another process is in such a block.
    """
    folder = None
    if place is not None and not is_url(place):
        with suppress(OSError):  # whoever writes there says why it cannot be
            Path(place).mkdir(parents=True, exist_ok=True)
            folder = os.open(place, os.O_RDONLY)
    try:
        if folder is not None:
            lock(folder, place or "")
        yield
    finally:
        if folder is not None:
            os.close(folder)


def lock(file: int, place: str | os.PathLike[str]) -> None:
    """Keep an open file or folder of a run for whoever opened it, until it is closed.

    Args:
        file: its descriptor.
        place: of the run.

    Raises:
        OutputError: if another process has it.
    """
    if _is_taken(file):
        time.sleep(_LOOK)
    if _is_taken(file):
        raise _written_by_another(place)


def check_unlocked(file: str | os.PathLike[str]) -> None:
    """Refuse to clear a run whose file of rows another process has.

    Raises:
        OutputError: if it has.
    """
    if is_locked(file):
        raise _written_by_another(Path(file).parent)


def _written_by_another(place: str | os.PathLike[str]) -> OutputError:
    return OutputError(f"{place}: another process is writing this run; let it end first")


def is_locked(place: str | os.PathLike[str]) -> bool | None:
    """Whether a process is in a block that is `locked`; None where there are no locks."""
    try:
        folder = os.open(place, os.O_RDONLY)
    except OSError:  # a URL, or a folder on Windows
        return None
    try:
        return _is_taken(folder, shared=True)
    finally:
        os.close(folder)


def _is_taken(file: int, *, shared: bool = False) -> bool | None:
    """Whether another has the lock, which is taken if not; None where there are no locks.

    Args:
        file: its descriptor.
        shared: whether others who only look may have it as well.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # file systems without locks
        return None
    return False
