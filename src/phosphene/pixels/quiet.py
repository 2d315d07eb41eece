"""No words of a library on stderr about a file that we judge by ourselves."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

# Warnings that are told where these are at work, not where somebody calls phosphene.
_LIBRARIES = r"(PIL|pillow_\w+|tifffile|imagecodecs|numpy|phosphene)(\.|$)"
# How many blocks are open of each thing that is silent; pictures are decoded in several threads at once.
_open: dict[str, int] = {}
_lock = Lock()


@contextmanager
def silent(name: str) -> Iterator[None]:
    """The library's logger of this name says nothing.

    Example:
        >>> with silent("tifffile"):
        ...     logging.getLogger("tifffile").error("a tag that nobody knows")
    """
    logger = logging.getLogger(name)
    with _shared(name) as is_first:
        if is_first:
            logger.addFilter(_nothing)
    try:
        yield
    finally:
        with _shared(name, left=True) as is_last:
            if is_last:
                logger.removeFilter(_nothing)


@contextmanager
def unwarned() -> Iterator[None]:
    """What the libraries that read files warn of is not told; what phosphene warns of is.

    Example:
        >>> with unwarned():
        ...     warnings.warn_explicit("odd EXIF", UserWarning, "TiffImagePlugin.py", 1, "PIL.TiffImagePlugin")
    """
    with _shared("warnings") as is_first:
        if is_first:
            warnings.filterwarnings("ignore", module=_LIBRARIES)
            _filters.append(warnings.filters[0])
    try:
        yield
    finally:
        with _shared("warnings", left=True) as is_last:
            if is_last:
                with suppress(ValueError):  # whoever called has put back other filters meanwhile
                    warnings.filters.remove(_filters.pop())  # type: ignore[attr-defined]


_filters: list[object] = []


@contextmanager
def _shared(name: str, *, left: bool = False) -> Iterator[bool]:
    """Whether a block is the first to be entered, or the last to be left, of those that are open at once."""
    with _lock:
        before = _open.get(name, 0)
        _open[name] = before - 1 if left else before + 1
        yield _open[name] == 0 if left else before == 0


def _nothing(_record: logging.LogRecord) -> bool:
    return False
