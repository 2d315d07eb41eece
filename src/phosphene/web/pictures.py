"""The pictures that the page looks at: packaged ones by name, uploads by their bytes and within limits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from phosphene.errors import InputError, NotFoundError, printable, suggest
from phosphene.images import not_an_image
from phosphene.sources import Item, Uploads

# What a browser sends in a moment; a photograph of a good camera has both.
MAX_BYTES = 32_000_000
MAX_PIXELS = 50_000_000
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Chosen:
    """A picture that was asked about.

    Args:
        name: of its file, for people.
        content: the bytes of its file.
        is_packaged: whether a name is enough to open it again.
    """

    name: str
    content: bytes
    is_packaged: bool = False

    def item(self, channels: int | None = None, **reading: Any) -> Item:
        """The picture, decoded within the limits.

        Args:
            channels: of the network that it is for.
            **reading: how it is read besides, as read_image takes it.

        Raises:
            InputError: in one line: too large, no picture, damaged.
        """
        check_picture(self.name, self.content)
        (item,) = Uploads([(self.name, self.content)]).items(channels=channels, **reading)
        if item.picture is None:
            raise InputError(item.error or f"{self.name}: no picture")
        return item


def check_picture(name: str, content: bytes) -> None:
    """Refuse what is too large to be decoded, by its header alone.

    Raises:
        InputError: naming the limit.

    Example:
        >>> check_picture("a.png", b"<p>")
        Traceback (most recent call last):
        phosphene.errors.InputError: a.png: not an image that can be read (it begins with '<p>'); save it as JPEG or PNG
    """
    if len(content) > MAX_BYTES:
        raise InputError(f"{name}: {len(content):,} bytes; the page takes {MAX_BYTES:,}; make a smaller copy")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(content)) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        width, height = MAX_PIXELS, MAX_PIXELS
    except UnidentifiedImageError:
        raise not_an_image(name, content[:12]) from None
    except Exception as error:  # a damaged header may raise anything
        raise InputError(f"{name}: damaged or cut short ({printable(str(error))[:120]})") from None
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: more than the {MAX_PIXELS:,} pixels that the page takes; make a smaller copy")


def upload(path: str, name: str | None = None) -> Chosen:
    """The picture in a file that the server of uploads wrote."""
    with Path(path).open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    return Chosen(shown_name(name or Path(path).name), content)


def shown_name(name: str) -> str:
    r"""A file's name as a person may see it and a shell may get it: no folders, nothing that is not printed.

    Example:
        >>> shown_name("../../etc/pass\r\nwd.png"), shown_name("")
        ('pass\\r\\nwd.png', 'picture')
    """
    last = printable(name.replace("\\", "/").rsplit("/", 1)[-1]).strip(". ")
    return last[-_LONGEST_NAME:] or "picture"


@dataclass(frozen=True)
class Packaged:
    """Photographs that come with the libraries, by the names of their files.

    Args:
        paths: of the files.
    """

    paths: Sequence[Path]

    @cached_property
    def by_name(self) -> Mapping[str, Path]:
        """The paths by name."""
        return {path.name: path for path in self.paths}

    def chosen(self, name: str) -> Chosen:
        """The one of this name.

        Raises:
            NotFoundError: with the nearest names.
        """
        if name not in self.by_name:
            raise NotFoundError(f"no packaged picture '{shown_name(name)}'{suggest(name, self.by_name)}")
        return Chosen(name, self.by_name[name].read_bytes(), is_packaged=True)
