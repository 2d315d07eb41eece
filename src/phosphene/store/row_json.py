"""Rows as JSON and back: the fields of the dataclasses are the keys, their types say what is read."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from phosphene.errors import InputError
from phosphene.store.rows import ROW_KINDS, Asset, Row


def row_to_json(row: Row) -> dict[str, Any]:
    """The row as plain JSON values, its kind first; files by their path within the run, NaN and infinity as null.

    Example:
        >>> from phosphene.store import PredictRow
        >>> row_to_json(PredictRow("a.jpg", "photos/a.jpg", "error", "photos/a.jpg: no such file"))
        {'kind': 'predict', 'key': 'a.jpg', 'path': 'photos/a.jpg', 'status': 'error',
         'error': 'photos/a.jpg: no such file', 'predicted': []}
    """
    return {"kind": row.kind, **plain(row)}


def row_from_json(value: Mapping[str, Any]) -> Row:
    """The row that row_to_json wrote; keys that this version does not know are left out.

    Raises:
        InputError: if it is none.
    """
    try:
        row: Row = _read(ROW_KINDS[value["kind"]], value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"a row that cannot be read ({type(error).__name__}: {error})") from None
    return row


def plain(value: Any) -> Any:
    """Dataclasses, paths, arrays of numbers and mappings as what JSON can carry."""
    if isinstance(value, Asset):
        return PurePath(value.name).as_posix()
    if isinstance(value, PurePath):
        return value.as_posix()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = ((item, getattr(value, item.name)) for item in dataclasses.fields(value))
        return {item.name: plain(own) for item, own in shown if own is not None or "absent" not in item.metadata}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def map_files(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same row with each of its files replaced, in all parts of it."""
    if isinstance(value, Asset | PurePath):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        new = {item.name: map_files(getattr(value, item.name), change) for item in dataclasses.fields(value)}
        return type(value)(**new)
    if isinstance(value, tuple):
        return tuple(map_files(item, change) for item in value)
    if isinstance(value, Mapping):
        return {name: map_files(item, change) for name, item in value.items()}
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, value: Any) -> Any:
    """A JSON value as the annotated type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or value is None or origin is Literal:
        return value
    if kind is float and isinstance(value, int):
        return value  # a box of whole pixels stays one
    if origin in (Union, types.UnionType):
        # Of a file that is written or not, the written one; else the one beside None.
        choices = [item for item in arguments if item not in (types.NoneType, Asset)]
        return _read(choices[0], value)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_read(arguments[0], item) for item in value)
        return tuple(_read(own, item) for own, item in zip(arguments, value, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return {key: _read(arguments[1], item) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)  # type: ignore[arg-type]
        known = (item.name for item in dataclasses.fields(kind) if item.name in value)
        return kind(**{name: _read(hints[name], value[name]) for name in known})  # type: ignore[operator]
    return kind(value)
