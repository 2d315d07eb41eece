"""Masks as run lengths, in the compressed text of COCO: column by column, the runs outside first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phosphene.errors import InputError


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """(H, W) boolean as {"size": [H, W], "counts": text}, as pycocotools.mask reads it.

    Example:
        >>> encode_mask(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': '13'}
        >>> bool((decode_mask(encode_mask(np.eye(5) > 0)) == (np.eye(5) > 0)).all())
        True

    References:
        lin2014.
    """
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": [int(side) for side in mask.shape], "counts": "".join(_written(counts))}


def decode_mask(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """(H, W) boolean, from what encode_mask gives.

    Raises:
        InputError: if the runs do not fill the size.
    """
    counts = _read(rle["counts"])
    height, width = rle["size"]
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise InputError(f"a mask whose runs do not fill its {height} x {width} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height, width), order="F")


def _written(counts: Sequence[int]) -> Iterator[str]:
    """Groups of five bits with a sixth for 'more follows'; from the fourth run on the change from two runs before."""
    for index, count in enumerate(counts):
        rest = count - counts[index - 2] if index > 2 else count
        more = True
        while more:
            bits, rest = rest & 0x1F, rest >> 5
            more = rest != (-1 if bits & 0x10 else 0)
            yield chr(48 + bits + (0x20 if more else 0))


def _read(text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for sign in text:
        bits = ord(sign) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts
