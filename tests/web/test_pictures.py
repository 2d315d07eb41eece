"""What users send: within the limits a picture, else one line that says why not; a name is never a place."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from phosphene.errors import InputError, NotFoundError
from phosphene.runs.demo import demo_pictures
from phosphene.web.pictures import MAX_BYTES, Chosen, Packaged, shown_name, upload


def png(width, height, rows=b""):
    """A PNG that claims a size and holds little."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg(tmp_path):
    path = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    return path.read_bytes()


HOSTILE = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"hello, I am no picture", "not an image"),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x04evil\x94.", "not an image"),
    "page": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not an image"),
    "bomb": (png(20000, 20000), "more than"),
    "larger bomb": (png(2**31 - 1, 2**31 - 1), "more than|damaged"),
    "hollow": (png(64, 64), "damaged"),
    "huge": (b"\x89PNG\r\n\x1a\n" + bytes(MAX_BYTES), "bytes; the page takes"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_picture_is_refused_in_one_line(kind):
    content, why = HOSTILE[kind]
    with pytest.raises(InputError, match=why) as raised:
        Chosen("sent.png", content).item(3)
    assert str(raised.value).startswith("sent.png: ")
    assert "\n" not in str(raised.value)
    assert "/tmp" not in str(raised.value)


def test_a_picture_cut_short_is_refused(tmp_path):
    content = jpeg(tmp_path)
    with pytest.raises(InputError, match=r"sent\.jpg: damaged or cut short"):
        Chosen("sent.jpg", content[: len(content) // 2]).item(3)
    assert Chosen("sent.jpg", content).item(3).picture.size == (64, 64)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\win.ini", "win.ini"),
        ("a\r\nSet-Cookie: x=1.png", "a\\r\\nSet-Cookie: x=1.png"),
        ("...", "picture"),
        ("x" * 300 + ".png", "x" * 76 + ".png"),
        ("\x1b[31mred.png", "\\x1b[31mred.png"),
    ],
)
def test_names_are_labels(name, shown, tmp_path):
    assert shown_name(name) == shown
    (tmp_path / "stored").write_bytes(b"x")
    assert upload(str(tmp_path / "stored"), name).name == shown


def test_packaged_pictures_are_found_by_name_alone():
    packaged = Packaged(demo_pictures())
    assert packaged.chosen("chelsea.png").item(3).picture.size == (451, 300)
    for name in ("../data/chelsea.png", "/etc/passwd", "chelsea"):
        with pytest.raises(NotFoundError, match="no packaged picture"):
            packaged.chosen(name)
