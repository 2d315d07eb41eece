"""Micro-batches: a batch in parts, and in smaller ones where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from numbers import Integral
from typing import TypeVar

import torch

from phosphene.allocator import keeps_freed_memory
from phosphene.errors import OptionError, ResourceError

Result = TypeVar("Result")

# What a pass costs by itself is small beside sixteen images; more of them only take more memory. Unless freed memory
# is kept, large maps are given back to the system and faulted in anew: those of a few images stay below its limit.
_CPU_BATCH, _CPU_BATCH_OF_NEW_MEMORY = 16, 4
_GPU_BATCH = 64


def batches(count: int, batch_size: int | None, device: torch.device) -> Iterator[tuple[int, int]]:
    """(start, stop) of each micro-batch; if no size is asked for all are about as large, and about the usual size.

    Example:
        >>> list(batches(10, 4, torch.device("cpu")))
        [(0, 4), (4, 8), (8, 10)]
    """
    size = usual_size(batch_size, device)
    parts = -(-count // size) if batch_size else max(1, round(count / size))
    edges = [min(count, part * size) if batch_size else count * part // parts for part in range(parts + 1)]
    yield from pairwise(edges)


def in_batches(
    run: Callable[[int, int], Result], count: int, batch_size: int | None, device: torch.device, image: torch.Size
) -> list[Result]:
    """What `run(start, stop)` gives for each micro-batch, halved for good where memory runs out.

    Args:
        run: does a part. Of a part that did not fit it is run again on the first half, so it must not count its runs.
        count: of images, or of copies of one.
        batch_size: to begin with; None chooses by the device.
        device: where the network is.
        image: shape of one, for the message.

    Raises:
        ResourceError: if there is no memory even for one.

    Example:
        >>> def short_of_memory(start, stop):
        ...     if stop - start > 3:
        ...         raise torch.OutOfMemoryError
        ...     return stop - start
        >>> in_batches(short_of_memory, 7, 8, torch.device("cpu"), torch.Size([3, 224, 224]))
        [3, 3, 1]
    """
    found: list[Result] = []
    start, step = 0, usual_size(batch_size, device)
    while start < count:
        stop = min(start + step, count)
        try:
            found.append(run(start, stop))
            start = stop
        except (RuntimeError, MemoryError, ResourceError) as error:  # the last where a part has batches of its own
            if not is_want_of_memory(error):
                raise
            step = (stop - start) // 2
            if step == 0:
                raise ResourceError(
                    f"out of memory on {device}: a batch of 1 of {' x '.join(map(str, image))} (number {start + 1} of "
                    f"{count}) does not fit; free memory, choose another device, or make the images smaller"
                ) from error
    return found


def usual_size(batch_size: int | None, device: torch.device) -> int:
    """Images per batch: as asked for, or what suits the device.

    Raises:
        OptionError: for a size that is no whole number above 0.
    """
    is_number = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
    if batch_size is not None and not (is_number and batch_size >= 1):
        raise OptionError(f"batch_size={batch_size!r} must be a whole number, at least 1, or None to choose")
    if device.type != "cpu":
        return batch_size or _GPU_BATCH
    return batch_size or (_CPU_BATCH if keeps_freed_memory() else _CPU_BATCH_OF_NEW_MEMORY)


def forward_size(batch_size: int | None, device: torch.device) -> int:
    """Images per batch of a pass without a way back, which keeps nothing: twice as many."""
    return usual_size(batch_size, device) * (1 if batch_size else 2)


def is_want_of_memory(error: Exception) -> bool:
    """Whether memory ran out, by an error's kind or by what it says."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | ResourceError):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)
