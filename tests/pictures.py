"""Picture files of every kind that people have, and of the kinds that people send to break things."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def scene(height: int = 24, width: int = 36) -> np.ndarray:
    """(H, W, 3) uint8: red left, blue right, a green square top left: no symmetry, so that any turn is seen."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2, 0] = 200
    picture[:, width // 2 :, 2] = 200
    picture[: height // 3, : height // 3] = (0, 200, 0)
    return picture


def save(path: Path, mode: str = "RGB", **options: object) -> Path:
    """The scene in a mode and the format of the path's ending."""
    Image.fromarray(scene()).convert(mode).save(path, **options)
    return path


def turned(path: Path, orientation: int) -> Path:
    """The scene stored so that a viewer which honours EXIF shows it upright."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = Image.fromarray(scene())
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image if undo is None else image.transpose(undo)).save(path, exif=exif, quality=95)
    return path


def bomb(path: Path, side: int = 30000) -> Path:
    """A PNG of a few hundred kilobytes that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * 1_000_000, 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def _truncated(path: Path) -> Path:
    whole = save(path.with_name("whole.jpg"), quality=90).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def _truncated_png(path: Path) -> Path:
    whole = save(path.with_name("whole.png")).read_bytes()
    path.write_bytes(whole[: len(whole) - 60])
    return path


def _written(content: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(content)
        return path

    return write


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _directory(path: Path) -> Path:
    path.mkdir()
    return path


def _loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


def _zip_bomb_text(path: Path) -> Path:
    """A PNG whose text chunk would unpack to 20 MB."""
    whole = save(path.with_name("whole.png")).read_bytes()
    text = b"Comment\0\0" + zlib.compress(b"\0" * 20_000_000, 9)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    path.write_bytes(whole[:33] + chunk + whole[33:])
    return path


# name: (how it is made, what the message says)
HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "truncated.jpg": (_truncated, "damaged or cut short"),
    "truncated.png": (_truncated_png, "damaged or cut short"),
    "empty.jpg": (_written(b""), "empty"),
    "text.jpg": (_written(b"This is not a picture, it is a text.\n"), "not an image"),
    "header_only.png": (_written(b"\x89PNG\r\n\x1a\n"), ""),
    "nulls.jpg": (_written(b"\0" * 5000), "not an image"),
    "page.jpg": (_written(b"<!DOCTYPE html><html><body>404</body></html>"), "not an image"),
    "bomb.png": (bomb, "pixels"),
    "text_bomb.png": (_zip_bomb_text, ""),
    "folder.jpg": (_directory, "directory"),
    "missing.jpg": (lambda path: path, "no such file"),
    "fifo.jpg": (_fifo, "not a regular file"),
    "loop.jpg": (_loop, ""),
    "two\nlines.jpg": (_written(b"This is not a picture\n"), "not an image"),
}
