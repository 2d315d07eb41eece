"""Pictures that are named one by one, by path or URL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import PurePath

from phosphene.files import is_file, is_folder, is_url
from phosphene.path_match import numbered
from phosphene.sources.decode import is_list_name, is_picture_name, is_shard_name, is_table_name, load_place
from phosphene.sources.item import Entry
from phosphene.sources.pattern import is_pattern
from phosphene.sources.source import Source, register_source


def _claims(spec: str) -> bool:
    """A file of no other kind, or what is named like a picture: that it is missing is said in its item."""
    if is_picture_name(spec):
        return not is_folder(spec) and not is_pattern(spec)
    return is_file(spec) and not (is_table_name(spec) or is_shard_name(spec) or is_list_name(spec))


@register_source("file", claims=_claims, looks_like="a picture file")
class Files(Source):
    """Pictures from files of any name; a file that is missing or no picture is an item with an error.

    Keys are the paths as they were given; one that is given twice counts twice.

    Args:
        places: path or URL of one picture, or of several.

    Example:
        >>> [item.error for item in Files([tmp / "none.jpg"])]
        ['...none.jpg: no such file']
    """

    def __init__(self, places: str | PurePath | Sequence[str | PurePath]) -> None:
        several = [places] if isinstance(places, str | PurePath) else places
        self.places = tuple(str(place) for place in several)

    def entries(self) -> Iterator[Entry]:
        """One entry per path, in the order given."""
        keys = numbered(place if is_url(place) else PurePath(place).as_posix() for place in self.places)
        for key, place in zip(keys, self.places, strict=True):
            yield Entry(key, place, partial(load_place, place))
