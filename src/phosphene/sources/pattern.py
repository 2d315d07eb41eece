"""Pictures that a pattern with ``*``, ``**``, ``?`` or ``[...]`` fits, on a disk or behind a URL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate

from phosphene.errors import InputError
from phosphene.files import glob, is_file, is_folder, is_run, is_url
from phosphene.path_match import path_parts
from phosphene.sources.decode import is_picture_name, is_shard_name, is_table_name, load_place
from phosphene.sources.item import Entry
from phosphene.sources.source import Source, register_source

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def is_pattern(spec: str) -> bool:
    """Whether a spec is a pattern and not the name of something that is there.

    Example:
        >>> is_pattern("photos/*.jpg"), is_pattern("photos/a.jpg")
        (True, False)
    """
    return _wildcard(spec) is not None and not (is_file(spec) or is_folder(spec))


def _claims(spec: str) -> bool:
    return is_pattern(spec) and not is_shard_name(spec) and not is_table_name(spec)


@register_source("glob", claims=_claims, looks_like="a pattern such as 'photos/**/*.jpg'")
class Glob(Source):
    """The files that fit a pattern, sorted folder by folder; ``**`` stands for any number of folders.

    A pattern that names an ending takes every such file, one that leaves it open only what is named like a picture.

    Args:
        pattern: path or URL with wildcards.

    Example:
        >>> from PIL import Image
        >>> for name in ("a.png", "b.png"):
        ...     Image.new("RGB", (8, 8)).save(tmp / name)
        >>> Glob(str(tmp / "*.png")).keys()
        ['a.png', 'b.png']
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = str(pattern)

    def entries(self) -> Iterator[Entry]:
        """One entry per file; the key is its path behind the part of the pattern that has no wildcards.

        Raises:
            InputError: if nothing fits.
        """
        _, dot, ending = self.pattern.rpartition("/")[2].rpartition(".")
        open_ended = not dot or _wildcard(ending) is not None
        places = [place for place in glob(self.pattern) if is_picture_name(place) or not open_ended]
        places = list(_outside_of_runs(places, fixed_part(self.pattern)))
        if not places:
            raise InputError(f"{self.pattern}: no picture fits this pattern")
        start = len(path_parts(fixed_part(self.pattern)))
        for place in places:
            yield Entry("/".join(path_parts(place)[start:]), place, partial(load_place, place))


def _outside_of_runs(places: Sequence[str], fixed: str) -> Iterator[str]:
    """The places that lie in no run folder which the pattern's wildcards led into."""
    known: dict[str, bool] = {}
    for place in places:
        folders = list(accumulate(place[len(fixed) :].split("/")[:-1], lambda above, name: f"{above}/{name}"))
        for folder in folders:
            if folder not in known:
                known[folder] = not is_url(place) and is_run(fixed + folder)
        if not any(known[folder] for folder in folders):
            yield place


def fixed_part(pattern: str) -> str:
    """The folders before the first wildcard, with the slash behind them.

    Example:
        >>> fixed_part("s3://bucket/val/*/0.png"), fixed_part("*.png"), fixed_part("a/b.tar")
        ('s3://bucket/val/', '', 'a/')
    """
    found = _wildcard(pattern)
    fixed = pattern if found is None else pattern[: found.start()]
    return fixed[: fixed.rfind("/") + 1]


def _wildcard(spec: str) -> re.Match[str] | None:
    """The first wildcard; what follows a question mark in a URL is its query."""
    return re.search(r"[*\[]" if is_url(spec) else r"[*?\[]", spec)


def expand(spec: str) -> list[str]:
    """The places that a spec with wildcards or a range in braces means, one without either itself.

    Example:
        >>> expand("shards/{008..010}.tar")
        ['shards/008.tar', 'shards/009.tar', 'shards/010.tar']
    """
    found = _RANGE.search(spec)
    if found is None:
        return glob(spec) if is_pattern(spec) else [spec]
    first, last = found.groups()
    width = len(first) if first.startswith("0") else 0
    numbers = range(int(first), int(last) + 1)
    head, tail = spec[: found.start()], spec[found.end() :]
    return [place for number in numbers for place in expand(f"{head}{number:0{width}d}{tail}")]
