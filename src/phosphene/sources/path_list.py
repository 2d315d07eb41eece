"""Pictures that a plain list names, one path a line, as `find` prints them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from phosphene.errors import InputError
from phosphene.files import is_file, join, parent, read_file
from phosphene.path_match import numbered
from phosphene.sources.decode import is_list_name, load_listed
from phosphene.sources.item import Entry
from phosphene.sources.source import Source, register_source


def _claims(spec: str) -> bool:
    return is_list_name(spec) and is_file(spec)


@register_source("list", claims=_claims, looks_like="a list (.txt or .lst) of one path a line")
class PathList(Source):
    r"""The pictures that the lines of a list name; paths are relative to the folder of the list.

    Empty lines are passed over. Keys are the paths as they are written; one that is there twice is numbered.

    Args:
        place: path or URL of the list.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (8, 8)).save(tmp / "a.png")
        >>> _ = (tmp / "list.txt").write_text("a.png\n\nb.png\n")
        >>> [(item.key, item.error is None) for item in PathList(tmp / "list.txt")]
        [('a.png', True), ('b.png', False)]
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.place = os.fspath(place)

    def entries(self) -> Iterator[Entry]:
        """One entry per line that is not empty, in order.

        Raises:
            InputError: if the list cannot be read, or names nothing.
        """
        content = read_file(self.place)
        if b"\0" in content:
            raise InputError(
                f"{self.place}: is no list of paths; save it as UTF-8 text, or write file:{self.place} for a picture"
            )
        # (A file may have a name that is no UTF-8.)
        lines = [line.strip() for line in content.removeprefix(b"\xef\xbb\xbf").splitlines()]
        paths = [line.decode("utf-8", "surrogateescape") for line in lines if line]
        if not paths:
            raise InputError(f"{self.place}: names no picture; write one path a line")
        for key, path in zip(numbered(paths), paths, strict=True):
            place = join(parent(self.place), path)
            yield Entry(key, place, partial(load_listed, place, self.place))
