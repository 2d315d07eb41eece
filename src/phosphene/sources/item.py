"""A picture that was listed, and the same picture read: what goes into a source's door and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from phosphene.images import Picture


@dataclass(frozen=True)
class Entry:
    """A picture that was listed and not read yet; it can be pickled where `load` can.

    Args:
        key: what the picture is called in the run: stable, unique within its source, with its folders and ending.
        path: where it lies, for people and for a later look.
        load: reads and decodes it; takes the keywords of read_image as well, if any are given to `items`. InputError
            says in one line why that is impossible; any other exception becomes an error of this picture as well, but
            for OptionError and ResourceError, which are about all pictures. Called in a thread of its own.
        label: the true class as the source tells it: an index, a WordNet id or a name.
        columns: what else the source tells of it.
    """

    key: str
    path: str
    load: Callable[..., Picture]
    label: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A picture, or the error that stands in its place: exactly one of the two is not None."""

    key: str
    path: str
    picture: Picture | None = None
    error: str | None = None
    label: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
