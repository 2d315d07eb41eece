"""open_source: from what a user types to the source that reads it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from phosphene.discovery import discover
from phosphene.errors import InputError, OptionError
from phosphene.files import is_url
from phosphene.path_match import path_parts
from phosphene.sources.decode import broken
from phosphene.sources.item import Entry
from phosphene.sources.joined import Joined
from phosphene.sources.single_files import Files
from phosphene.sources.source import KINDS, ColumnType, Source, SourceKind

Spec = str | os.PathLike[str] | Source


def source_kinds() -> dict[str, SourceKind]:
    """All sources that a spec can mean, by name: ours and those of installed packages.

    Example:
        >>> sorted(source_kinds())
        ['file', 'folder', 'glob', 'list', 'table', 'tar']
    """
    discover("phosphene.sources")
    return dict(KINDS)


def open_source(spec: Spec | Iterable[Spec], **options: Any) -> Source:
    """The source that a spec looks like: a file, a folder, a pattern, a table, a list, tar shards, a URL of any.

    A spec that fits several is refused; ``folder:PLACE``, ``tar:PLACE`` and so on say which one is meant. Of several
    specs the pictures follow one another, the spec as the first part of their keys.

    Args:
        spec: path, URL or pattern, a Source as it is, or several of them.
        **options: what the source takes beside the spec, such as `path_column` and `label_column` of a table.

    Raises:
        InputError: if nothing reads the spec, or it cannot be read.
        OptionError: if several sources could read it, for an option that the source does not take, or an empty name.

    Example:
        >>> open_source("photos/cat.jpg").name
        'file'
        >>> open_source(tmp / "missing")
        Traceback (most recent call last):
        phosphene.errors.InputError: ...missing: no such file or folder
    """
    if isinstance(spec, Source):
        return spec
    if isinstance(spec, str | os.PathLike):
        return _opened(os.fspath(spec), options)
    specs = list(spec)
    if not specs:
        raise InputError("no pictures were given; pass at least one")
    sources = [open_source(one, **options) for one in specs]
    if len(sources) == 1:
        return sources[0]
    if all(isinstance(source, Files) for source in sources):
        return Files([place for source in sources if isinstance(source, Files) for place in source.places])
    return Joined([(_prefix(one, source), source) for one, source in zip(specs, sources, strict=True)])


def open_pictures(specs: Sequence[str]) -> Source:
    """The source of what a user names on a command line; what cannot be opened or listed is an item with its error.

    Keys are as those of open_source.

    Args:
        specs: paths, URLs and patterns.

    Raises:
        InputError: if none is given.
        OptionError: if several sources could read a spec, or for an empty one.

    Example:
        >>> [item.error for item in open_pictures(["a.jpg", "no folder"])]
        ['a.jpg: no such file', 'no folder: no such file or folder']
    """
    if not specs:
        raise InputError("no pictures were given; pass at least one")
    sources = [_Reported(spec) for spec in specs]
    if len(sources) == 1:
        return sources[0]
    return Joined([(source.prefix, source) for source in sources])


class _Reported(Source):
    """A source that is read as far as that goes; where it ends, an entry says why."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        try:
            self.source: Source = open_source(spec)
            self.prefix = _prefix(spec, self.source)
        except InputError as error:
            self.source, self.prefix = _Missing(spec, str(error)), ""

    @property
    def column_types(self) -> Mapping[str, ColumnType]:
        return self.source.column_types

    def entries(self) -> Iterator[Entry]:
        try:
            yield from self.source.entries()
        except InputError as error:
            yield from _Missing(self.spec, str(error)).entries()


class _Missing(Source):
    """One entry, which has an error."""

    def __init__(self, spec: str, error: str) -> None:
        self.spec, self.error = spec, error

    def entries(self) -> Iterator[Entry]:
        yield Entry(self.spec, self.spec, broken(self.error))


def _opened(spec: str, options: dict[str, Any]) -> Source:
    if not spec:
        raise OptionError("an empty name was given for pictures (of an unset variable?); give a picture or a folder")
    kinds = source_kinds()
    name, colon, rest = spec.partition(":")
    if colon and name in kinds and not rest.startswith("//"):
        kind, spec = kinds[name], rest
    else:
        kind = _claimant(spec, kinds)
    known = inspect.signature(kind.factory).parameters
    for option in options:
        if option not in known:
            raise OptionError(f"{spec}: a source of kind '{kind.name}' takes no {option}; drop it")
    return kind.factory(spec, **options)


def _claimant(spec: str, kinds: dict[str, SourceKind]) -> SourceKind:
    found = [kind for kind in kinds.values() if kind.claims(spec)]
    if len(found) > 1:
        ways = " or ".join(f"{kind.name}:{spec}" for kind in found)
        raise OptionError(f"{spec}: could be {' or '.join(kind.looks_like for kind in found)}; write {ways}")
    if found:
        return found[0]
    if is_url(spec) or not os.path.exists(spec):
        raise InputError(f"{spec}: no such file or folder")
    raise InputError(f"{spec}: is no source of pictures; give {', '.join(kind.looks_like for kind in kinds.values())}")


def _prefix(spec: Spec, source: Source) -> str:
    """What stands before the keys of one source of several."""
    if isinstance(source, Files) or isinstance(spec, Source):
        return ""
    place = os.fspath(spec)
    name, _, rest = place.partition(":")
    parts = path_parts(rest if name == source.name else place)
    return "/".join(parts) + "/"
