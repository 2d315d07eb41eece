"""PNG files of 16 bits a channel, of whose colors Pillow gives only the upper 8."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from phosphene.pixels.bands import Bands

# The raw modes of Pillow's decoder for 16 bits, big-endian as in every PNG, and the one that hands out the other byte:
# "little-endian" takes the second byte of each number for the upper one.
_LOWER = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
_DEEP = ("I;16B", "LA;16B", *_LOWER)


def is_deep_png(image: Image.Image) -> bool:
    """Whether a PNG that was opened and not yet decoded has 16 bits a channel."""
    return image.format == "PNG" and _raw_mode(image) in _DEEP


def deep_png(path: Path) -> Bands:
    """All 16 bits of a PNG file, upright; a color that is marked as transparent becomes a band of transparency.

    Where the file says that fewer bits count (sBIT) and its values show that they are stored low instead of high as
    the standard wants, white is the largest number of so many bits.
    """
    with Image.open(path) as image:
        raw = _raw_mode(image)
        key = image.info.get("transparency")
        if raw == "LA;16B":
            both = _decoded(image, "RGBA")  # upper and lower byte of grey, then of transparency
            values = np.stack([_joined(both[0], both[1]), _joined(both[2], both[3])])
        elif raw == "I;16B":
            values = _decoded(image, raw).astype(np.uint16)
        else:
            upper = _decoded(image, raw)
            with Image.open(path) as again:
                values = _joined(upper, _decoded(again, _LOWER[raw]))
    alpha = raw in ("LA;16B", "RGBA;16B")
    if isinstance(key, int | tuple) and not alpha:
        seen = (values != np.reshape(np.array(key, np.uint16), (-1, 1, 1))).any(axis=0, keepdims=True)
        values, alpha = np.concatenate([values, np.where(seen, 65535, 0).astype(np.uint16)]), True
    white = None if alpha else _white(values, _significant_bits(path))
    return Bands(values, str(path), "last" if alpha else "none", white)


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None) or [None]
    raw = getattr(tiles[0], "args", None) if not isinstance(tiles[0], tuple) else tiles[0][3]
    return str(raw[0] if isinstance(raw, tuple) and raw else raw)


def _decoded(image: Any, raw: str) -> NDArray[Any]:
    """(C, H, W) what Pillow's decoder makes of the file when it is told that its pixels are `raw`."""
    image.tile = [(tile[0], tile[1], tile[2], raw) for tile in image.tile]
    image.load()
    array = np.asarray(upright(image))
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF data says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data must not cost the picture
        return image


def _joined(upper: NDArray[Any], lower: NDArray[Any]) -> NDArray[np.uint16]:
    return np.asarray((upper.astype(np.uint16) << 8) | lower, np.uint16)


def _significant_bits(path: Path) -> int | None:
    """The most bits that the chunk sBIT gives for any channel; None without one."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"sBIT":
                return max(file.read(min(length, 4)), default=None)
            if kind in (b"IDAT", b"IEND"):
                return None
            file.seek(length + 4, 1)
    return None


def _white(values: NDArray[np.uint16], bits: int | None) -> int | None:
    """The value of white if fewer bits count and they are stored low; None where 65535 is white, as it should be."""
    if bits is None or not 8 < bits < 16 or int(values.max()) >= 1 << bits:
        return None
    # The standard puts them high, so that of dark pictures too the low bits are empty.
    return (1 << bits) - 1 if (values & ((1 << (16 - bits)) - 1)).any() else None
