"""Passes that several methods need of the same images run once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor

Result = TypeVar("Result")


class Memo:
    """What passes over one batch of images gave, kept for as long as this object is.

    Args:
        images: a batch that nobody changes meanwhile. It is this very tensor that is known again, no copy or slice.

    Example:
        >>> import torch
        >>> images, calls = torch.zeros(1, 3, 4, 4), []
        >>> memo = Memo(images)
        >>> for given in (images, images, images.clone()):
        ...     memo.once(given, "key", lambda: calls.append(1))
        >>> len(calls)
        2
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self._kept: dict[Hashable, Any] = {}

    def once(self, images: Tensor, key: Hashable, run: Callable[[], Result]) -> Result:
        """What `run` gives; of the memo's own images it runs the first time that it is asked for by this key."""
        if images is not self.images:
            return run()
        if key not in self._kept:
            self._kept[key] = run()
        result: Result = self._kept[key]
        return result
