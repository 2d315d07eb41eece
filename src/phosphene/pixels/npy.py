"""Arrays that numpy.save wrote: pictures of any bands, (H, W) or (H, W, C)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from phosphene.errors import InputError
from phosphene.pixels.bands import Bands


def starts_like_npy(path: Path) -> bool:
    """Whether a file begins as numpy.save has it."""
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def read_npy(path: Path, limit: int) -> Bands:
    """The bands of an array in a file, which is one picture; nothing in it is run.

    Args:
        path: the file.
        limit: more pixels, or more than four times as many numbers, are refused.

    Raises:
        InputError: naming the file.

    Example:
        >>> np.save(tmp / "tile.npy", np.zeros((4, 6, 13), np.uint16))
        >>> read_npy(tmp / "tile.npy", 100).values.shape
        (13, 4, 6)
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        reason = "it holds objects, which would run code" if "objects" in str(error) else str(error)
        raise InputError(f"{path}: no readable array ({reason})") from None
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(f"{path}: an array of shape {array.shape}; a file holds one picture, (H, W) or (H, W, C)")
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: holds values of type {array.dtype}; save it as uint8, uint16 or float in [0, 1]")
    height, width = array.shape[:2]
    bands = 1 if array.ndim == 2 else array.shape[2]
    if height * width > limit or array.size > 4 * limit:
        raise InputError(f"{path}: {height} x {width} pixels of {bands} bands are too many; make a smaller copy")
    values = np.array(array)[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))
    hint = f"an array of shape {array.shape} is read as (H, W, C): save array.transpose(1, 2, 0)"
    return Bands(values, str(path), hint=hint if array.ndim == 3 and bands > min(height, width) else "")
