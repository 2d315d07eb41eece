"""Shards of a run: Parquet files of one schema, a row for each picture, method and target; written whole, read back.

This module knows the schema and one file; `shard_sink` cuts a run into files. pyarrow is imported when a shard is
written or read, and nowhere else.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from functools import singledispatch
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phosphene.errors import InputError, OptionError, to_install
from phosphene.files import join, names_in, open_file, text_bytes, written_whole
from phosphene.store.rle import decode_mask, encode_mask
from phosphene.store.row_json import plain
from phosphene.store.rows import (
    Asset,
    ExplainRow,
    File,
    Grid,
    LocateRow,
    MapRow,
    ObjectRow,
    PredictRow,
    Row,
    TargetRow,
    as_array,
)
from phosphene.types import Prediction, View

if TYPE_CHECKING:
    import pyarrow as pa

# Raised when a column comes, or changes its name, type or meaning: all shards of a run have one schema. 2: what an
# audit asks for (label_index to mask_share), and where maps lie.
SHARD_SCHEMA = 2
# The key of the counts in a file's metadata.
_COUNTS = "phosphene.counts"
MapType = Literal["none", "float16", "float32"]
Record = dict[str, Any]

COLUMNS = (
    "key", "path", "status", "error", "predicted", "label", "method", "layer", "target_index", "target_label",
    "score", "map", "map_shape", "map_dtype", "view", "box", "mask", "seconds", "label_index", "correct",
    "picture_size", "map_grid", "map_display", "evidence_inside", "mask_share",
)  # fmt: skip

# What a file name holds beyond Unicode is spelled in Parquet; in names, which pictures are found again by, a backslash
# before what only looks spelled is spelled as well, however often that is done: no two names become one.
_NAMES = ("key", "path")
_LOOKS_SPELLED = re.compile(r"\\(?=(?:x5c)*ud[89a-f][0-9a-f]{2})")
_SPELLED = re.compile(r"\\(?:x5c(?=(?:x5c)*ud[89a-f][0-9a-f]{2})|ud[89a-f][0-9a-f]{2})")

# Records that are compressed together, and read together: with maps some megabytes.
_RECORDS_A_GROUP = 128
_SMALL_RECORDS_A_GROUP = 4096


@dataclass(frozen=True)
class ShardFormat:
    """What the shards of a run hold.

    Args:
        maps: type that map values are kept with; "none" keeps no maps.
        overlays: whether overlays are kept, as JPEG in a column of their own.
        columns: the source's own columns, each "string", "int64", "float64" or "bool"; one that is called as a column
            of ours is kept as `source_NAME`.
    """

    maps: MapType = "float16"
    overlays: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.maps not in ("none", "float16", "float32"):
            raise OptionError(f"maps '{self.maps}'; choose none, float16 or float32")

    def column_name(self, name: str) -> str:
        """What a column of the source is called in the shards.

        Example:
            >>> ShardFormat().column_name("camera"), ShardFormat().column_name("score")
            ('camera', 'source_score')
        """
        return f"source_{name}" if name in (*COLUMNS, "overlay") else name


@dataclass(frozen=True)
class ShardCounts:
    """How many pictures and rows a shard, or several, hold; failed are the rows that hold an error.

    Example:
        >>> one = ShardCounts.of([{"key": "a", "status": "ok"}, {"key": "a", "status": "error"}])
        >>> one + one
        ShardCounts(pictures=2, rows=4, failed=2)
    """

    pictures: int = 0
    rows: int = 0
    failed: int = 0

    @classmethod
    def of(cls, records: Sequence[Record]) -> ShardCounts:
        """The counts of records, all those of a picture among them."""
        failed = sum(record["status"] == "error" for record in records)
        return cls(len({record["key"] for record in records}), len(records), failed)

    def __add__(self, other: ShardCounts) -> ShardCounts:
        sums = (own + more for own, more in zip(astuple(self), astuple(other), strict=True))
        return ShardCounts(*sums)


def shard_name(number: int) -> str:
    """The file of a shard.

    Example:
        >>> shard_name(7)
        'part-00007.parquet'
    """
    return f"part-{number:05d}.parquet"


def shard_names(place: str) -> dict[int, str]:
    """The finished shards of a run by number."""
    found = (name for name, is_dir in names_in(place) if not is_dir)
    return {int(name[5:-8]): name for name in found if _is_shard(name)}


def has_shards(place: str) -> bool:
    """Whether a run has finished or begun shards."""
    return any(_is_shard(name.removesuffix(UNFINISHED)) for name, is_dir in names_in(place) if not is_dir)


# Rows of a shard that was not finished when the run was ended early; tools that read *.parquet pass it over.
UNFINISHED = ".unfinished"


def _is_shard(name: str) -> bool:
    return name.startswith("part-") and name.endswith(".parquet") and name[5:-8].isdigit()


def arrow() -> Any:
    """Pyarrow.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise to_install("shards need pyarrow", "pyarrow>=17") from None
    return pyarrow


def shard_schema(format: ShardFormat) -> pa.Schema:
    """The Arrow schema of a run's shards.

    Example:
        >>> tuple(shard_schema(ShardFormat()).names) == COLUMNS
        True
    """
    pa = arrow()
    prediction = pa.struct([("index", pa.int32()), ("label", pa.string()), ("probability", pa.float32())])
    sides, pair = pa.list_(pa.int32()), pa.list_(pa.float64())
    fields = {
        "key": pa.string(),
        "path": pa.string(),
        "status": pa.string(),
        "error": pa.string(),
        "predicted": pa.list_(prediction),
        "label": pa.string(),
        "method": pa.string(),
        "layer": pa.string(),
        "target_index": pa.int32(),
        "target_label": pa.string(),
        "score": pa.float64(),
        "map": pa.binary(),
        "map_shape": sides,
        "map_dtype": pa.string(),
        "view": pa.struct([("original", sides), ("scaled", sides), ("crop", sides)]),
        "box": pa.list_(pa.float64()),
        "mask": pa.struct([("size", sides), ("counts", pa.string())]),
        "seconds": pa.float64(),
        "label_index": pa.int32(),
        "correct": pa.bool_(),
        "picture_size": sides,
        "map_grid": pa.struct([("offset", pair), ("stride", pair), ("size", sides)]),
        "map_display": pa.string(),
        "evidence_inside": pa.float64(),
        "mask_share": pa.float64(),
    }
    if format.overlays:
        fields["overlay"] = pa.binary()
    types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
    for name, kind in format.columns.items():
        fields[format.column_name(name)] = types[kind]
    return pa.schema(list(fields.items()))


@singledispatch
def records_of(row: Row, _format: ShardFormat) -> list[Record]:
    """The records of a shard that a row becomes: one for each method and target, one alone for an error."""
    raise OptionError(f"rows of kind '{row.kind}' are not kept in shards; use a run folder")


@records_of.register
def _(row: ExplainRow, format: ShardFormat) -> list[Record]:
    head = _head(row, row.predicted, format)
    return [head | _map_record(shown, format) for shown in row.maps] if row.maps else [head]


@records_of.register
def _(row: PredictRow, format: ShardFormat) -> list[Record]:
    return [_head(row, row.predicted, format) | {"seconds": row.seconds}]


@records_of.register
def _(row: LocateRow, format: ShardFormat) -> list[Record]:
    head = _head(row, row.predicted or (), format) | {"method": row.method, "seconds": row.seconds}
    head |= {"overlay": _jpeg(row.overlay) if format.overlays else None}
    return [head | _object_record(found, format) for found in row.objects] if row.objects else [head]


def _head(row: Any, predicted: Sequence[Prediction], format: ShardFormat) -> Record:
    carried = {format.column_name(name): (row.columns or {}).get(name) for name in format.columns}
    names = ("key", "path", "status", "error", "label")
    head = {"predicted": plain(predicted), "picture_size": plain(row.size)}
    return carried | {name: getattr(row, name) for name in names} | head


def _map_record(shown: MapRow, format: ShardFormat) -> Record:
    names = ("method", "layer", "status", "error", "score", "seconds")
    record = {name: plain(getattr(shown, name)) for name in names} | _map_cells(shown.map, format)
    record |= {"target_index": shown.target.index, "target_label": shown.target.label}
    record |= {"view": plain(shown.view), "map_grid": plain(shown.grid), "map_display": shown.display}
    return record | {"overlay": _jpeg(shown.overlay) if format.overlays else None}


def _object_record(found: ObjectRow, format: ShardFormat) -> Record:
    mask = as_array(found.mask)
    record = {"target_index": found.index, "target_label": found.label, "score": found.probability}
    record |= {"box": list(found.box), "mask": None if mask is None else encode_mask(mask > 0)}
    return record | _map_cells(found.map, format)


def _map_cells(file: File | None, format: ShardFormat) -> Record:
    values = as_array(file)
    if values is None or format.maps == "none":
        return {"map": None, "map_shape": None, "map_dtype": None}
    # Little-endian whatever the machine: the bytes travel. Beyond the range of float16 is infinity, and no error.
    with np.errstate(over="ignore"):
        kept = np.ascontiguousarray(values, dtype=np.dtype(format.maps).newbyteorder("<"))
    return {"map": kept.tobytes(), "map_shape": list(kept.shape), "map_dtype": format.maps}


def _jpeg(file: File | None) -> bytes | None:
    if not isinstance(file, Asset) or isinstance(file.content, str):
        return None
    if isinstance(file.content, bytes):
        return file.content
    picture = file.content if isinstance(file.content, Image.Image) else Image.fromarray(file.content)
    content = io.BytesIO()
    picture.convert("RGB").save(content, "JPEG", quality=88)
    return content.getvalue()


def write_shard(
    place: str, name: str, records: Iterable[Record], format: ShardFormat, about: Mapping[str, str] | None = None
) -> ShardCounts:
    """Write one shard whole, compressed as its records come.

    Args:
        place: path or URL of the run.
        name: of the file.
        records: its rows, in order.
        format: of all shards of the run.
        about: more for the file's metadata, beside the version of the schema and the counts.

    Raises:
        OutputError: if it cannot be written.
    """
    pa = arrow()
    metadata = {"phosphene.shard_schema": str(SHARD_SCHEMA), **(about or {})}
    schema = shard_schema(format)
    large = format.overlays or format.maps != "none"
    keys: set[str] = set()
    rows = failed = 0
    waiting = iter(records)
    with (
        written_whole(place, name) as file,
        pa.parquet.ParquetWriter(file, schema.with_metadata(metadata), compression="zstd") as writer,
    ):
        while group := list(islice(waiting, _RECORDS_A_GROUP if large else _SMALL_RECORDS_A_GROUP)):
            writer.write_table(pa.Table.from_pylist([_spelled(record) for record in group], schema=schema))
            keys.update(record["key"] for record in group)
            rows, failed = rows + len(group), failed + sum(record["status"] == "error" for record in group)
        counts = ShardCounts(len(keys), rows, failed)
        writer.add_key_value_metadata({_COUNTS: json.dumps(asdict(counts))})
    return counts


def _spelled(record: Record) -> Record:
    """A record as Parquet takes it, whatever names of files, labels and columns hold."""
    return {name: _spell(value, name in _NAMES) for name, value in record.items()}


def _spell(value: Any, is_name: bool = False) -> Any:
    r"""Text, alone or within lists and dicts, with what is no Unicode spelled; that of names can be undone.

    Example:
        >>> print(_spell(["caf\udce9.jpg"], True), _spell(r"caf\udce9.jpg", True), _spell(r"caf\udce9.jpg"))
        ['caf\\udce9.jpg'] caf\x5cudce9.jpg caf\udce9.jpg
    """
    if isinstance(value, str):
        text = _LOOKS_SPELLED.sub(r"\\x5c", value) if is_name else value
        return text_bytes(text).decode()
    if isinstance(value, dict):
        return {key: _spell(item) for key, item in value.items()}
    return [_spell(item) for item in value] if isinstance(value, list) else value


def _named(record: Record) -> Record:
    """A record as it was before it was spelled, as to names."""
    names = {name: _SPELLED.sub(_unspelled, record[name]) for name in _NAMES if record.get(name) is not None}
    return record | names


def _unspelled(found: re.Match[str]) -> str:
    code = found[0][2:]
    return "\\" if code == "5c" else chr(int(code, 16))


def shard_counts(place: str, name: str) -> ShardCounts:
    """What a shard holds, from its last few kilobytes.

    Raises:
        InputError: if it is damaged.
    """
    pa = arrow()
    where = join(place, name)
    try:
        with open_file(where) as file:
            about = pa.parquet.read_metadata(file).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(where, error) from None
    if _COUNTS.encode() in about:
        return ShardCounts(**json.loads(about[_COUNTS.encode()]))
    return ShardCounts.of(read_shard(place, name, ["key", "status"])[0])  # of schema 1


def _damaged(where: str, error: Exception) -> InputError:
    return InputError(f"{where}: damaged ({' '.join(str(error).split())})")


def read_shard(place: str, name: str, columns: Sequence[str] | None = None) -> tuple[list[Record], dict[str, str]]:
    """(records, metadata) of one shard.

    Raises:
        InputError: if it is damaged, or was written by a newer phosphene.
    """
    pa = arrow()
    where = join(place, name)
    try:
        with open_file(where) as file:
            table = pa.parquet.read_table(file, columns=None if columns is None else list(columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(where, error) from None
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if int(about.get("phosphene.shard_schema", 0)) > SHARD_SCHEMA:
        raise InputError(f"{where}: was made by a newer phosphene; upgrade")
    return [_named(record) for record in table.to_pylist()], about


def shard_records(place: str, name: str, columns: Sequence[str] | None = None) -> Iterator[Record]:
    """The records of one shard, a few at a time in memory.

    Raises:
        InputError: if it is damaged.
    """
    pa = arrow()
    where = join(place, name)
    try:
        with open_file(where) as file:
            for group in pa.parquet.ParquetFile(file).iter_batches(_RECORDS_A_GROUP, columns=columns):
                yield from map(_named, group.to_pylist())
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(where, error) from None


def begun_shards(place: str) -> list[str]:
    """The files of all rows that are there: finished shards, and for others what was kept at an early end."""
    finished = shard_names(place)
    begun = {name.removesuffix(UNFINISHED): name for name, is_dir in names_in(place) if name.endswith(UNFINISHED)}
    return [name if name in finished.values() else begun[name] for name in sorted({*begun, *finished.values()})]


def done_in_shards(place: str, manifest: Mapping[str, Any], planned: tuple[str, ...] | None) -> frozenset[str]:
    """The keys whose rows are there; of finished shards by their numbers alone, where the plan tells their keys."""
    size = manifest.get("shards", {}).get("size")
    finished = shard_names(place)
    keys: set[str] = set()
    for name in begun_shards(place):
        if planned is None or size is None or name.endswith(UNFINISHED):
            keys.update(record["key"] for record in read_shard(place, name, ["key"])[0])
    if planned is not None and size is not None:
        for number in finished:
            keys.update(planned[number * size : (number + 1) * size])
    return frozenset(keys)


def rows_in_shards(place: str) -> Iterator[Row]:
    """The rows of all shards, one shard at a time in memory; maps and masks as assets."""
    for name in begun_shards(place):
        records, about = read_shard(place, name)
        carried = [column for column in records[0] if column not in (*COLUMNS, "overlay")] if records else []
        make = _MAKERS[about.get("phosphene.kind", "explain")]
        for _, group in groupby(records, key=lambda record: record["key"]):
            yield make(list(group), carried)


def _row_head(records: Sequence[Record], carried: Sequence[str]) -> dict[str, Any]:
    first = records[0]
    head = {name: first[name] for name in ("key", "path", "label")}
    head |= {"size": None if first.get("picture_size") is None else tuple(first["picture_size"])}
    columns = {name.removeprefix("source_"): first[name] for name in carried}
    predicted = tuple(Prediction(**item) for item in first["predicted"] or ())
    return head | {"predicted": predicted, "columns": columns or None}


def _explain_row(records: Sequence[Record], carried: Sequence[str]) -> Row:
    head = _row_head(records, carried)
    if records[0]["method"] is None:
        return ExplainRow(**head, status=records[0]["status"], error=records[0]["error"])
    return ExplainRow(**head, maps=tuple(_map_row(record) for record in records))


def _map_row(record: Record) -> MapRow:
    names = ("method", "layer", "status", "error", "score", "seconds")
    return MapRow(
        **{name: record[name] for name in names},
        target=TargetRow(record["target_index"], record["target_label"]),
        map=_map_asset(record),
        display=record.get("map_display"),
        view=None if record["view"] is None else View(**_tuples(record["view"])),
        grid=None if record.get("map_grid") is None else Grid(**_tuples(record["map_grid"])),
        overlay=None if record.get("overlay") is None else Asset("overlay.jpg", record["overlay"]),
    )


def _tuples(value: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    return {name: tuple(items) for name, items in value.items()}


def _map_asset(record: Record) -> Asset | None:
    values = map_values(record)
    return None if values is None else Asset("map.npy", values)


def map_values(record: Record) -> NDArray[Any] | None:
    """(h, w) the map of a record; None where none was kept."""
    if record.get("map") is None:
        return None
    values = np.frombuffer(record["map"], np.dtype(record["map_dtype"]).newbyteorder("<"))
    return values.reshape(record["map_shape"])


def _predict_row(records: Sequence[Record], carried: Sequence[str]) -> Row:
    about = {name: records[0][name] for name in ("status", "error", "seconds")}
    return PredictRow(**_row_head(records, carried), **about)


def _locate_row(records: Sequence[Record], carried: Sequence[str]) -> Row:
    about = {name: records[0][name] for name in ("status", "error", "seconds", "method")}
    found = tuple(_object_row(record) for record in records if record["target_label"] is not None)
    return LocateRow(**_row_head(records, carried), **about, objects=found)


def _object_row(record: Record) -> ObjectRow:
    return ObjectRow(
        record["target_index"],
        record["target_label"],
        record["score"],
        tuple(record["box"]),
        mask=None if record["mask"] is None else Asset("mask.png", decode_mask(record["mask"])),
        map=_map_asset(record),
    )


_MAKERS: dict[str, Callable[[Sequence[Record], Sequence[str]], Row]] = {
    "explain": _explain_row,
    "predict": _predict_row,
    "locate": _locate_row,
}
