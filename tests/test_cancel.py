from __future__ import annotations

import signal
import threading
from contextlib import suppress

import pytest

from phosphene.cancel import Cancel, cancelled_by_interrupt
from phosphene.errors import CancelledError


def test_no_handler_of_errors_swallows_a_stop():
    cancel = Cancel()
    cancel.raise_if_cancelled()
    cancel.cancel()
    with pytest.raises(CancelledError), suppress(Exception):
        cancel.raise_if_cancelled()


def test_the_second_interrupt_is_at_once_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with cancelled_by_interrupt(Cancel()) as cancel:
        signal.raise_signal(signal.SIGTERM)
        assert cancel.is_cancelled
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_in_another_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def run():
        with cancelled_by_interrupt(Cancel()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
