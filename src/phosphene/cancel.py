"""A request to stop, passed down as an object: loops ask it between two units of work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from phosphene.errors import CancelledError


class Cancel:
    """A flag that one thread sets and others ask for; once set it stays set.

    Example:
        >>> cancel = Cancel()
        >>> cancel.is_cancelled
        False
        >>> cancel.cancel()
        >>> cancel.raise_if_cancelled()
        Traceback (most recent call last):
        phosphene.errors.CancelledError: stopped; what was finished is kept
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask for the stop; safe in any thread and in a signal handler."""
        self._event.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether the stop was asked for."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Leave the computation here if the stop was asked for.

        Raises:
            CancelledError: if it was.
        """
        if self.is_cancelled:
            raise CancelledError("stopped; what was finished is kept")


@contextmanager
def cancelled_by_interrupt(cancel: Cancel) -> Iterator[Cancel]:
    """Within the block the first Ctrl-C (SIGINT) or SIGTERM asks `cancel` to stop; a second Ctrl-C interrupts at once.

    Signals belong to the main thread; in any other thread the block changes nothing.

    Example:
        >>> with cancelled_by_interrupt(Cancel()) as cancel:
        ...     signal.raise_signal(signal.SIGINT)
        ...     cancel.is_cancelled
        True
    """
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if cancel.is_cancelled and number == signal.SIGINT:
            raise KeyboardInterrupt
        cancel.cancel()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            # None: the handler was not set from Python and cannot be put back by it
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
