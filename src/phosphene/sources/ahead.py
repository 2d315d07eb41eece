"""Pictures are read in threads before they are asked for: in order, boundedly many; no thread outlives the use."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

from PIL import Image

from phosphene.cancel import Cancel
from phosphene.errors import InputError, OptionError, ResourceError, printable
from phosphene.images import Picture
from phosphene.sources.item import Entry, Item

# Decoded pictures that wait take no more memory than this, whatever the window: two of the largest that are read.
MAX_WAITING_BYTES = 1_100_000_000

T = TypeVar("T")
R = TypeVar("R")


def load_ahead(
    entries: Iterable[Entry],
    *,
    threads: int | None = None,
    window: int | None = None,
    cancel: Cancel | None = None,
    **reading: Any,
) -> Iterator[Item]:
    """The Item of each entry in order; what keeps a picture from being read becomes its error.

    `Source.items` says what the arguments mean.
    """
    threads = min(8, (os.cpu_count() or 1) + 1) if threads is None else threads
    window = 2 * threads if window is None else window
    if threads < 1 or window < 1:
        raise OptionError(f"{threads} threads and a window of {window}; give 1 or more of both")
    return _generated(entries, threads, window, cancel, reading)


def _generated(
    entries: Iterable[Entry], threads: int, window: int, cancel: Cancel | None, reading: dict[str, Any]
) -> Iterator[Item]:
    # A function of its own: arguments are checked at the call, threads start with the first picture.
    ahead = _Ahead(partial(load_entry, **reading), entries, threads, window, lambda item: _bytes_of(item.picture))
    try:
        while True:
            if cancel is not None:
                cancel.raise_if_cancelled()
            try:
                item = ahead.next()
            except StopIteration:
                return
            yield item
            del item  # no reference while the next one is waited for
    finally:
        ahead.close()


def load_entry(entry: Entry, **reading: Any) -> Item:
    """The item of an entry, read now; whatever its reading raises is the item's error, unless it is about all of them.

    Example:
        >>> load_entry(Entry("a.jpg", "a.jpg", lambda: 1 / 0)).error
        'a.jpg: cannot be read (ZeroDivisionError: division by zero)'
    """
    known: dict[str, Any] = {"key": entry.key, "path": entry.path, "label": entry.label, "columns": entry.columns}
    try:
        return Item(picture=entry.load(**reading), **known)
    except InputError as error:
        return Item(error=str(error), **known)
    except (OptionError, ResourceError):
        raise  # the same for every picture
    except MemoryError:
        return Item(error=f"{printable(entry.path)}: too large for this machine's memory", **known)
    except Exception as error:  # network clients and sources of others may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Item(error=printable(f"{entry.path}: cannot be read ({reason})"), **known)


def _bytes_of(picture: Picture | None) -> int:
    if picture is None:
        return 0
    if isinstance(picture, Image.Image):
        return picture.width * picture.height * len(picture.getbands())
    return picture.numel() * picture.element_size()


class _Ahead(Generic[T, R]):
    """Works on the tasks of an iterable in threads, a window ahead of who takes the results, in order.

    The iterable runs in a thread as well: listing a bucket or reading a tar stream does not hold up who computes.
    """

    def __init__(
        self,
        work: Callable[[T], R],
        tasks: Iterable[T],
        threads: int,
        window: int,
        size: Callable[[R], int],
    ) -> None:
        self._work, self._size, self._window = work, size, window
        self._waiting: deque[Future[R]] = deque()
        self._held = self._running = 0
        self._most_running = threads + 1  # one that waits for a thread
        self._ended: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="phosphene-decode")
        self._feeder = threading.Thread(target=self._feed, args=(tasks,), name="phosphene-list", daemon=True)
        self._feeder.start()

    def next(self) -> R:
        """The next result; StopIteration at the end, or what the iterable raised."""
        with self._changed:
            while not self._waiting and self._ended is None:
                self._changed.wait()
            if not self._waiting:
                assert self._ended is not None
                raise self._ended
            first = self._waiting[0]
        result = first.result()
        with self._changed:
            self._waiting.popleft()
            self._held -= self._size(result)
            self._changed.notify_all()
        return result

    def close(self) -> None:
        """Start nothing more and wait for what runs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._feeder.join()
        self._waiting.clear()

    def _feed(self, tasks: Iterable[T]) -> None:
        end: BaseException = StopIteration()
        iterator = iter(tasks)
        try:
            while self._has_room():
                try:
                    task = next(iterator)
                except StopIteration:
                    break
                self._submit(task)
                del task
        except BaseException as error:  # passed on to who takes the results
            end = error
        finally:
            # a generator that reads a file closes it here, in the thread that ran it
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            with self._changed:
                self._ended = end
                self._changed.notify_all()

    def _has_room(self) -> bool:
        """Wait for room in the window and in memory; False once closed."""
        with self._changed:
            while not self._closed and (
                len(self._waiting) >= self._window
                or self._running >= self._most_running
                or self._held > MAX_WAITING_BYTES
            ):
                self._changed.wait()
            return not self._closed

    def _submit(self, task: T) -> None:
        with self._changed:
            if self._closed:
                return
            self._running += 1
            self._waiting.append(self._pool.submit(self._measured, task))
            self._changed.notify_all()

    def _measured(self, task: T) -> R:
        size = 0
        try:
            result = self._work(task)
            size = self._size(result)
        finally:
            with self._changed:
                self._running -= 1
                self._held += size
                self._changed.notify_all()
        return result
