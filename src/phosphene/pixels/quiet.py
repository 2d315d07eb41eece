"""No words of a library on stderr about a file that we judge by ourselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent(name: str) -> Iterator[None]:
    """The library's logger of this name says nothing.

    Example:
        >>> with silent("tifffile"):
        ...     logging.getLogger("tifffile").error("a tag that nobody knows")
    """
    logger = logging.getLogger(name)
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
