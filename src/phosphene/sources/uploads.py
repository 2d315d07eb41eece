"""Pictures that came as bytes, with the names that their senders gave them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from phosphene.path_match import numbered, path_parts
from phosphene.sources.decode import load_bytes
from phosphene.sources.item import Entry
from phosphene.sources.source import Source


class Uploads(Source):
    """Pictures from memory. Names are labels, never places: no file is looked for under them.

    Keys are the names with what leads out of a folder taken away; a name that comes twice is numbered.

    Args:
        files: (name, bytes of the file) of each.

    Example:
        >>> [(item.key, item.error) for item in Uploads([("../notes.jpg", b"<html>")])]
        [('notes.jpg', "notes.jpg: not an image that can be read (it begins with '<html>'); save it as JPEG or PNG")]
    """

    def __init__(self, files: Iterable[tuple[str, bytes]]) -> None:
        self.files = tuple(files)

    def entries(self) -> Iterator[Entry]:
        """One entry per upload, in the order given."""
        names = ["/".join(part for part in path_parts(name) if part != "..") or "unnamed" for name, _ in self.files]
        for key, name, (_, content) in zip(numbered(names), names, self.files, strict=True):
            yield Entry(key, name, partial(load_bytes, name, content))
