"""Reading ahead: in order, bounded, and nothing left running."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import pytest
import torch
from PIL import Image

from phosphene.cancel import Cancel
from phosphene.errors import CancelledError, InputError, OptionError
from phosphene.sources import Entry, Folder, Source, ahead
from phosphene.sources.ahead import load_ahead


def ours():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("phosphene-")]


@pytest.fixture(autouse=True)
def _no_thread_stays():
    assert ours() == []
    yield
    assert ours() == []


def entry(number, load=None):
    return Entry(f"{number}", f"{number}", load or (lambda: torch.full((1, 1, 1), number / 1000)))


def slow(number):
    def load():
        time.sleep(0.002 * (number * 7 % 5))
        return torch.full((1, 1, 1), number / 1000)

    return entry(number, load)


def test_the_order_is_kept_whatever_takes_how_long():
    found = [item.key for item in load_ahead(map(slow, range(60)), threads=8)]
    assert found == [str(number) for number in range(60)]


@pytest.mark.parametrize("error", [InputError("x: broken"), OSError(5, "I/O"), ValueError("a\nb"), MemoryError()])
def test_what_a_picture_raises_is_its_error_alone(error):
    def fail():
        raise error

    found = list(load_ahead([entry(0), entry(1, fail), entry(2)]))
    assert [item.error is None for item in found] == [True, False, True]
    assert "\n" not in found[1].error


def test_what_the_listing_raises_comes_after_the_pictures_before_it():
    def listing():
        yield entry(0)
        yield entry(1)
        raise InputError("the bucket is gone")

    items = load_ahead(listing())
    assert [next(items).key, next(items).key] == ["0", "1"]
    with pytest.raises(InputError, match="bucket is gone"):
        next(items)


def test_no_more_than_the_window_is_read_ahead():
    loaded = []
    items = load_ahead((entry(n, lambda n=n: loaded.append(n) or torch.zeros(1, 1, 1)) for n in range(100)), window=5)
    for taken in range(1, 20):
        next(items)
        time.sleep(0.005)
        assert len(loaded) <= taken + 5
    items.close()
    assert len(loaded) < 30


def test_large_pictures_wait_for_memory(monkeypatch):
    monkeypatch.setattr(ahead, "MAX_WAITING_BYTES", 40)
    loaded = []
    entries = (entry(n, lambda n=n: loaded.append(n) or torch.zeros(1, 4, 4)) for n in range(50))
    items = load_ahead(entries, threads=1, window=40)
    next(items)
    time.sleep(0.05)
    assert len(loaded) <= 4
    assert len(list(items)) == 49


def test_closing_early_closes_the_listing_too():
    closed = threading.Event()

    def listing():
        try:
            for number in range(10**9):
                yield slow(number)
        finally:
            closed.set()

    items = load_ahead(listing())
    next(items)
    items.close()
    assert closed.is_set()


def test_an_exception_in_the_loop_leaves_nothing_running():
    def use():
        for item in load_ahead(map(slow, range(1000))):
            if item.key == "3":
                raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError):
        use()
    gc.collect()


def test_an_iterator_that_is_never_used_starts_nothing():
    items = load_ahead(map(entry, range(3)))
    assert ours() == []
    del items


def test_cancel_ends_it_between_two_pictures():
    cancel = Cancel()
    items = load_ahead(map(entry, range(100)), cancel=cancel)
    assert next(items).key == "0"
    cancel.cancel()
    with pytest.raises(CancelledError):
        next(items)


def test_counts_that_make_no_sense_are_refused_at_once():
    with pytest.raises(OptionError):
        load_ahead([], threads=0)


def test_how_files_are_read_is_passed_on_and_what_it_forbids_concerns_the_run():
    def load(white=1.0):
        if white <= 0:
            raise OptionError(f"white {white} is not above black")
        return torch.full((1, 1, 1), 1 / white)

    (item,) = load_ahead([entry(0, load)], white=2.0)
    assert float(item.picture) == 0.5
    with pytest.raises(OptionError, match="not above black"):
        list(load_ahead([entry(0, load)], white=-1.0))


def test_skipped_pictures_are_not_read():
    class Two(Source):
        def entries(self):
            yield entry(1, lambda: pytest.fail("was read"))
            yield entry(2)

    assert [item.key for item in Two().items(skip={"1"})] == ["2"]


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_flat_over_two_thousand_pictures(tmp_path):
    picture = tmp_path / "0.jpg"
    Image.effect_noise((320, 240), 60).convert("RGB").save(picture, quality=80)
    for number in range(1, 2000):
        os.link(picture, tmp_path / f"{number}.jpg")
    alive, most, early = [0], 0, 0

    def gone():
        alive[0] -= 1

    for count, item in enumerate(Folder(tmp_path).items(threads=3, window=6)):
        weakref.finalize(item.picture, gone)
        alive[0] += 1
        most = max(most, alive[0])
        if count == 200:
            early = resident()
    assert count == 1999
    assert most <= 3
    assert resident() - early < 20_000_000
