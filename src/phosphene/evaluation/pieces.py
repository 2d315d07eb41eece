"""Pieces of a measurement: what was found of a few pictures, kept for the run that goes on where one was stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Piece:
    """A part of a measurement.

    Args:
        values: what JSON can carry, in mappings and lists; NaN for a number that is none, and never None.
        arrays: by name.
    """

    values: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


# Gives the piece of a key: one that is known, or what the function makes, which is known from then on.
Keep = Callable[[str, Callable[[], Piece]], Piece]


def measured_now(_key: str, make: Callable[[], Piece]) -> Piece:
    """Keeps nothing."""
    return make()


def added(total: Any, part: Any) -> Any:
    """Two parts of a measurement in one: lists end to end, numbers summed, mappings by their keys.

    Example:
        >>> added({"hits": [True], "seconds": 1.5}, {"hits": [False], "seconds": 0.5, "notes": {"flat": 1}})
        {'hits': [True, False], 'seconds': 2.0, 'notes': {'flat': 1}}
    """
    if isinstance(total, Mapping):
        both = {key: added(value, part[key]) if key in part else value for key, value in total.items()}
        return both | {key: value for key, value in part.items() if key not in total}
    return total + part
