"""Paths as keys: which file a name in a table means, and how keys that occur twice are told apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath

from phosphene.errors import InputError

Parts = tuple[str, ...]


class PathMatcher:
    """Finds the path that a name means: one of the two has to be the end of the other, folder by folder.

    Of several such paths the one that is equal wins, then the one with the most folders in common. A base name alone
    never outweighs folders that differ: ``val/0/0.png`` does not mean ``1/0.png``.

    Args:
        paths: the candidates, relative to the folder that the names are relative to, or to one above or below it.

    Example:
        >>> matcher = PathMatcher(["0/0.png", "1/0.png", "1/dog.jpg"])
        >>> matcher.find("val/1/0.png"), matcher.find("dog.jpg"), matcher.find("1/dog"), matcher.find("2/0.png")
        ('1/0.png', '1/dog.jpg', '1/dog.jpg', None)
        >>> matcher.find("0.png")
        Traceback (most recent call last):
        phosphene.errors.InputError: '0.png' fits several files: 0/0.png, 1/0.png; name their folders as well
    """

    def __init__(self, paths: Iterable[str]) -> None:
        known = {path: path_parts(path) for path in paths}
        self._with_endings = _by_tail(known)
        self._without_endings = _by_tail({path: _without_ending(parts) for path, parts in known.items()})

    def find(self, name: str) -> str | None:
        """The path that a name means, None if there is none; endings are looked at only where a file has the name's.

        Raises:
            InputError: if several fit equally well, naming them.
        """
        parts = path_parts(name)
        lookups = (
            (self._with_endings, parts),
            (self._without_endings, parts),
            (self._without_endings, _without_ending(parts)),
        )
        for by_tail, wanted in lookups:
            found = _fitting(by_tail, wanted)
            if len(found) > 1:
                raise InputError(f"'{name}' fits several files: {_listing(found)}; name their folders as well")
            if found:
                return found[0]
        return None

    def match(self, names: Iterable[str]) -> dict[str, str]:
        """The path of each name that has one; names of different files never share a path.

        Raises:
            InputError: if a name fits several paths equally well, or a path several names.

        Example:
            >>> PathMatcher(["a.png", "b.png"]).match(["x/a.png", "a.png", "c.png"])
            {'a.png': 'a.png'}
        """
        claims: dict[str, dict[Parts, list[str]]] = defaultdict(lambda: defaultdict(list))
        for name in dict.fromkeys(names):
            path = self.find(name)
            if path is not None:
                claims[path][_without_ending(path_parts(name))].append(name)
        return {name: path for path, rivals in claims.items() for name in _closest(path, rivals)}


def path_parts(path: str) -> Parts:
    r"""The folders and the name of a path or URL, its own folder left out; Windows' separators are understood.

    Example:
        >>> path_parts("./val//0/0.png"), path_parts("s3://bucket/a b.png"), path_parts(r"val\0.png")
        (('val', '0', '0.png'), ('bucket', 'a b.png'), ('val', '0.png'))
    """
    rest = path.split("://", 1)[-1]
    if "/" not in rest:
        rest = rest.replace("\\", "/")
    return tuple(part for part in rest.split("/") if part not in ("", "."))


def numbered(keys: Iterable[str]) -> Iterator[str]:
    """The keys, those that occur again with their count behind a '#', so that no two are the same.

    Example:
        >>> list(numbered(["a.jpg", "b.jpg", "a.jpg", "a.jpg#2"]))
        ['a.jpg', 'b.jpg', 'a.jpg#2', 'a.jpg#2#2']
    """
    seen: set[str] = set()
    counts: dict[str, int] = {}
    for key in keys:
        unique = key
        while unique in seen:
            counts[key] = counts.get(key, 1) + 1
            unique = f"{key}#{counts[key]}"
        seen.add(unique)
        yield unique


def _tails(parts: Parts) -> Iterator[Parts]:
    """The parts, then all but the first, down to the last alone."""
    return (parts[start:] for start in range(len(parts)))


def _by_tail(paths: Mapping[str, Parts]) -> Mapping[Parts, list[str]]:
    """The paths by each of their ends, those that are no longer than the end first."""
    found: dict[Parts, list[str]] = defaultdict(list)
    for path, parts in sorted(paths.items(), key=lambda item: len(item[1])):
        for tail in _tails(parts):
            found[tail].append(path)
    return dict(found)


def _fitting(by_tail: Mapping[Parts, list[str]], wanted: Parts) -> list[str]:
    """The paths that end with what is wanted, or else are its longest end."""
    paths = by_tail.get(wanted, [])
    equal = [path for path in paths if _length(path) == len(wanted)]
    if paths:
        return equal or paths
    for tail in _tails(wanted):
        equal = [path for path in by_tail.get(tail, ()) if _length(path) == len(tail)]
        if equal:
            return equal
    return []


def _length(path: str) -> int:
    return len(path_parts(path))


def _without_ending(parts: Parts) -> Parts:
    return (*parts[:-1], PurePath(parts[-1]).stem) if parts else ()


def _closest(path: str, rivals: Mapping[Parts, list[str]]) -> list[str]:
    """Of names for one path, sorted by the file they mean, those of the file with most in common with the path."""
    own = _without_ending(path_parts(path))
    ranked = sorted(rivals, key=lambda parts: (parts == own, _common(parts, own)), reverse=True)
    if len(ranked) > 1 and ranked[0] != own and _common(ranked[0], own) == _common(ranked[1], own):
        names = _listing([name for parts in ranked for name in rivals[parts]])
        raise InputError(f"{path}: several names fit it: {names}; give the folder that the names are relative to")
    return rivals[ranked[0]]


def _common(first: Parts, second: Parts) -> int:
    """How many parts both have in common, counted from their ends."""
    return next((n for n in range(min(len(first), len(second)), 0, -1) if first[-n:] == second[-n:]), 0)


def _listing(items: list[str], limit: int = 4) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
