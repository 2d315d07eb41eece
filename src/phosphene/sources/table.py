"""Pictures that a table names: CSV, TSV or Parquet with a column of paths; its other columns are carried along."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import tee
from typing import Any

from phosphene.errors import InputError, NotFoundError, suggest, to_install, warn
from phosphene.files import is_file, join, open_file, parent, unreadable
from phosphene.path_match import numbered
from phosphene.sources.decode import broken, is_table_name, load_listed
from phosphene.sources.item import Entry
from phosphene.sources.source import ColumnType, Source, register_source

# What a column is called in the tables that are around; of several that are there the first in this order.
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "image_file", "url")
LABEL_COLUMNS = ("label", "class_index", "wnid", "class", "class_name")
_ROWS_AT_ONCE = 1024
# Of a column that is not carried along: pictures or features.
_BYTES = "bytes"


def _claims(spec: str) -> bool:
    return is_table_name(spec) and is_file(spec)


@register_source("table", claims=_claims, looks_like="a table (.csv, .tsv or .parquet) with a column of paths")
class Table(Source):
    r"""The pictures that the rows of a table name; paths are relative to the folder of the table.

    CSV is UTF-8, with or without a byte order mark, separated by comma, semicolon or tab; its values are carried as
    text. Of Parquet numbers, truth values and text are carried as they are, dates and times as text, lists and structs
    as JSON; columns of bytes are left out, with a warning. Keys are the paths as they are written; one that several
    rows name is numbered.

    Args:
        place: path or URL of the table.
        path_column: the column of paths; None for the usual names (path, file, filename, image, ...).
        label_column: the column of true classes; None for the usual names (label, class_index, wnid, class), if any.

    Raises:
        InputError: if the table cannot be read or has no column of paths.
        NotFoundError: if it has no column of the name given.
        MissingExtraError: for Parquet without pyarrow.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (8, 8)).save(tmp / "a.png")
        >>> _ = (tmp / "labels.csv").write_text("path,label,camera\na.png,tabby,left\n")
        >>> [(item.key, item.label, item.columns["camera"]) for item in Table(tmp / "labels.csv")]
        [('a.png', 'tabby', 'left')]
    """

    def __init__(
        self, place: str | os.PathLike[str], path_column: str | None = None, label_column: str | None = None
    ) -> None:
        self.place = os.fspath(place)
        types = _parquet_types(self.place) if _is_parquet(self.place) else _csv_types(self.place)
        self._types = {name: kind for name, kind in types.items() if kind != _BYTES}
        names = list(self._types)
        self.path_column = _chosen(self.place, names, path_column, PATH_COLUMNS)
        if self.path_column is None:
            raise InputError(
                f"{self.place}: has no column of paths such as {', '.join(PATH_COLUMNS[:4])} (it has: "
                f"{', '.join(names) or 'none'}); call it path, or name it: "
                "path_column=, of phosphene batch --path-column"
            )
        self.label_column = _chosen(self.place, names, label_column, LABEL_COLUMNS)
        # (One that is called as those of paths holds the picture itself.)
        left_out = ", ".join(name for name in types if name not in self._types and name.lower() not in PATH_COLUMNS)
        if left_out:
            warn(f"{self.place}: holds bytes in {left_out}, which are not carried along; numbers and text are")

    @property
    def column_types(self) -> Mapping[str, ColumnType]:
        """All columns but those of the paths and the labels."""
        taken = (self.path_column, self.label_column)
        return {name: kind for name, kind in self._types.items() if name not in taken}

    def entries(self) -> Iterator[Entry]:
        """One entry per row, in the order of the table.

        Raises:
            InputError: if the table is damaged further down.
        """
        rows, again = tee(self._rows())
        keys = numbered(_path(row, self.path_column) or "(no path)" for row in again)
        for key, row in zip(keys, rows, strict=True):
            yield self._entry(key, row)

    def _rows(self) -> Iterator[dict[str, Any]]:
        return _parquet_rows(self.place, list(self._types)) if _is_parquet(self.place) else _csv_rows(self.place)

    def _entry(self, key: str, row: Mapping[str, Any]) -> Entry:
        path = _path(row, self.path_column)
        place = join(parent(self.place), path)
        load = partial(load_listed, place, self.place) if path else broken(f"{self.place}: a row without a path")
        label = None if self.label_column is None else row.get(self.label_column)
        columns = {name: _carried(row.get(name), kind) for name, kind in self.column_types.items()}
        return Entry(key, place, load, None if label in (None, "") else str(label), columns)


def _path(row: Mapping[str, Any], column: str | None) -> str:
    return str(row.get(column or "") or "").strip()


def _chosen(place: str, names: Sequence[str], wanted: str | None, usual: Sequence[str]) -> str | None:
    if wanted is None:
        lowered = {name.lower(): name for name in reversed(names)}
        return next((lowered[name] for name in usual if name in lowered), None)
    if wanted not in names:
        raise NotFoundError(f"{place}: has no column '{wanted}'{suggest(wanted, names)} (it has: {', '.join(names)})")
    return wanted


def _carried(value: Any, kind: ColumnType) -> Any:
    """A value as the type that its column is carried with."""
    if value is None or kind != "string" or isinstance(value, str):
        return value
    return json.dumps(value, default=_text, ensure_ascii=False) if isinstance(value, list | dict) else _text(value)


def _text(value: Any) -> str:
    """A value that JSON knows none of, dates and times as ISO 8601 has them.

    Example:
        >>> from datetime import date
        >>> from decimal import Decimal
        >>> _text(date(1970, 1, 2)), _text(Decimal("1.50"))
        ('1970-01-02', '1.50')
    """
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


def _is_parquet(place: str) -> bool:
    return place.lower().endswith(".parquet")


def _csv_types(place: str) -> dict[str, ColumnType]:
    with _opened(place) as file:
        names = _reader(place, file).fieldnames or ()
    return dict.fromkeys((name for name in names if name), "string")


def _csv_rows(place: str) -> Iterator[dict[str, Any]]:
    with _opened(place) as file:
        reader = _reader(place, file)
        try:
            yield from reader
        except (csv.Error, UnicodeDecodeError, OSError) as error:
            raise InputError(f"{place}, line {reader.line_num + 1}: cannot be read ({error})") from None


def _opened(place: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(open_file(place), encoding="utf-8-sig", newline="")


def _reader(place: str, file: io.TextIOWrapper) -> csv.DictReader[str]:
    """A reader whose separator is the one that the first line uses most."""
    try:
        head = file.readline()
        file.seek(0)
        separator = max(",;\t", key=head.count)
        reader = csv.DictReader(file, delimiter=separator)
        _ = reader.fieldnames
    except UnicodeDecodeError:
        raise InputError(f"{place}: is not in UTF-8; save the table as UTF-8") from None
    except (csv.Error, OSError) as error:
        raise InputError(f"{place}: cannot be read ({error})") from None
    return reader


@contextmanager
def _parquet(place: str) -> Iterator[Any]:
    """The Parquet file, open."""
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise to_install(f"{place}: Parquet needs pyarrow", "pyarrow>=17") from None
    with open_file(place) as file:
        try:
            yield parquet.ParquetFile(file)
        except (ArrowInvalid, OSError) as error:
            raise unreadable(place, error) from None


def _parquet_types(place: str) -> dict[str, ColumnType]:
    with _parquet(place) as file:
        return {field.name: _column_type(str(field.type)) for field in file.schema_arrow}


def _column_type(arrow: str) -> ColumnType:
    if "binary" in arrow:
        return _BYTES
    if arrow in ("float", "double", "halffloat"):
        return "float64"
    if arrow in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"):
        return "int64"
    return "bool" if arrow == "bool" else "string"


def _parquet_rows(place: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with _parquet(place) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
            yield from _in_microseconds(batch).to_pylist()


def _in_microseconds(batch: Any) -> Any:
    """Some rows without finer time stamps: Python alone has none, and pyarrow refuses those that are."""
    import pyarrow as pa

    for at, field in enumerate(batch.schema):
        if str(field.type).startswith("timestamp[ns"):
            values = batch.column(at).cast(pa.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(at, field.name, values)
    return batch
