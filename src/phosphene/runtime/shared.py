"""Passes that several methods need of the same images run once, while somebody says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

Result = TypeVar("Result")


class _Kept(threading.local):
    """Per batch of images (by identity) what passes of this thread gave."""

    def __init__(self) -> None:
        self.of: dict[int, dict[Hashable, Any]] = {}


_KEPT = _Kept()


@contextmanager
def shared_passes(images: Tensor) -> Iterator[None]:
    """Inside, the same pass over these images is run once; what it gave is let go of at the end.

    Args:
        images: a batch that nobody changes meanwhile. It is this very tensor that is known again, no copy or slice.
    """
    if is_shared(images):
        yield
        return
    _KEPT.of[id(images)] = {}
    try:
        yield
    finally:
        del _KEPT.of[id(images)]


def is_shared(images: Tensor) -> bool:
    """Whether passes over these images are kept."""
    return id(images) in _KEPT.of


def once(images: Tensor, key: Hashable, run: Callable[[], Result]) -> Result:
    """What `run` gives; of images whose passes are shared it runs the first time it is asked for by this key."""
    kept = _KEPT.of.get(id(images))
    if kept is None:
        return run()
    if key not in kept:
        kept[key] = run()
    result: Result = kept[key]
    return result
