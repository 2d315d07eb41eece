"""What there is to choose from."""

from __future__ import annotations

from phosphene.registry import Entry, Kind, entries, entry


def registered(name: str | None = None) -> list[Entry]:
    """All methods and recipes, or the one of a name.

    Raises:
        NotFoundError: with the nearest names.
    """
    kinds: tuple[Kind, ...] = ("attribution", "recipe")
    if name is None:
        return [found for kind in kinds for found in entries(kind).values()]
    return [entries("recipe")[name] if name in entries("recipe") else entry("attribution", name)]
