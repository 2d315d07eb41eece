"""All pictures in a folder and below, on a disk or behind a URL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

from phosphene.errors import InputError
from phosphene.files import is_folder, is_run, is_url, join, names_in
from phosphene.images import no_picture
from phosphene.run_mark import MANIFEST
from phosphene.sources.decode import broken, is_picture_name, is_shard_name, load_place
from phosphene.sources.item import Entry
from phosphene.sources.source import Source, register_source


def _claims(spec: str) -> bool:
    """A folder, unless tar shards are all that could hold pictures in it."""
    if not is_folder(spec):
        return False
    names = names_in(spec)
    shards_alone = any(is_shard_name(name) for name, is_dir in names if not is_dir)
    return not shards_alone or any(is_dir or is_picture_name(name) for name, is_dir in names)


@register_source("folder", claims=_claims, looks_like="a folder of pictures")
class Folder(Source):
    """The files in a folder and below that are named like pictures, sorted folder by folder.

    Links to folders are followed, but for those that lead back. Folders that are runs of phosphene are left out: their
    overlays are no pictures to explain. So is what is hidden. A folder that cannot be listed is an item with an error.

    Args:
        place: path or URL of the folder.

    Raises:
        InputError: if there is no such folder, or it is a run itself.

    Example:
        >>> from PIL import Image
        >>> (tmp / "val" / "0").mkdir(parents=True)
        >>> Image.new("RGB", (8, 8)).save(tmp / "val" / "0" / "0.png")
        >>> [(item.key, item.picture.size) for item in Folder(tmp / "val")]
        [('0/0.png', (8, 8))]
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.place = os.fspath(place)
        if not is_folder(self.place):
            raise InputError(f"{self.place}: no such folder")
        if is_run(self.place):
            raise InputError(f"{self.place}: is a run of phosphene; give the folder of the pictures themselves")

    def entries(self) -> Iterator[Entry]:
        """One entry per picture file; the key is the path within the folder.

        Raises:
            InputError: if there is none.
        """
        empty = True
        for entry in _below(self.place, "", frozenset()):
            empty = False
            yield entry
        if empty:
            raise no_picture(self.place)


def _below(folder: str, prefix: str, above: frozenset[str]) -> Iterator[Entry]:
    try:
        names = names_in(folder)
    except InputError as error:
        yield Entry(prefix or "./", folder, broken(str(error)))
        return
    if prefix and (MANIFEST, False) in names and is_run(folder):
        return
    # A link to a folder that one is already in would never end.
    inside = above | {folder if is_url(folder) else os.path.realpath(folder)}
    for name, is_dir in names:
        place = join(folder, name)
        if is_dir:
            if name.startswith("."):  # hidden, such as .ipynb_checkpoints with a copy of each picture
                continue
            if is_url(place) or os.path.realpath(place) not in inside:
                yield from _below(place, f"{prefix}{name}/", inside)
        elif is_picture_name(name):
            yield Entry(prefix + name, place, partial(load_place, place))
