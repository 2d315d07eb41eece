"""Where results go and come back from: typed rows, sinks that take them, and runs that are opened again.

A new sink is one file here (or a module that another package names in its entry point group "phosphene.store") with
one registered class.
"""

from phosphene.run_mark import MANIFEST
from phosphene.store.begin import begin, keep_inputs, remove_partial_files, taken_back, write_manifest
from phosphene.store.folder_sink import FolderSink, asset_bytes
from phosphene.store.lock import is_locked, locked
from phosphene.store.memory_sink import MemorySink
from phosphene.store.pinned import PinnedFacet, read_pinned
from phosphene.store.plan import Plan
from phosphene.store.rle import decode_mask, encode_mask
from phosphene.store.row_json import map_files, row_from_json, row_to_json
from phosphene.store.rows import (
    ActivationRow,
    Asset,
    ChannelRow,
    ChannelScale,
    Curve,
    Exemplar,
    ExplainRow,
    FacetRow,
    FeatureRow,
    File,
    Grid,
    ImpressionRow,
    JudgeRow,
    LocateRow,
    MapRow,
    ObjectRow,
    PieceRow,
    PredictRow,
    Row,
    ScaleRow,
    TargetRow,
    Versus,
)
from phosphene.store.run import Run, open_run, read_manifest
from phosphene.store.run_folder import SCHEMA, RunFolder, file_stem, picture_folder, versions, without_nan
from phosphene.store.shard_sink import ShardSink, in_shards
from phosphene.store.shards import (
    COLUMNS,
    MapType,
    Record,
    ShardCounts,
    ShardFormat,
    begun_shards,
    map_values,
    read_shard,
    records_of,
    shard_counts,
    shard_name,
    shard_names,
    shard_records,
    write_shard,
)
from phosphene.store.sink import Sink, open_sink, register_sink, sink_kinds

__all__ = [
    "COLUMNS",
    "MANIFEST",
    "SCHEMA",
    "ActivationRow",
    "Asset",
    "ChannelRow",
    "ChannelScale",
    "Curve",
    "Exemplar",
    "ExplainRow",
    "FacetRow",
    "FeatureRow",
    "File",
    "FolderSink",
    "Grid",
    "ImpressionRow",
    "JudgeRow",
    "LocateRow",
    "MapRow",
    "MapType",
    "MemorySink",
    "ObjectRow",
    "PieceRow",
    "PinnedFacet",
    "Plan",
    "PredictRow",
    "Record",
    "Row",
    "Run",
    "RunFolder",
    "ScaleRow",
    "ShardCounts",
    "ShardFormat",
    "ShardSink",
    "Sink",
    "TargetRow",
    "Versus",
    "asset_bytes",
    "begin",
    "begun_shards",
    "decode_mask",
    "encode_mask",
    "file_stem",
    "in_shards",
    "is_locked",
    "keep_inputs",
    "locked",
    "map_files",
    "map_values",
    "open_run",
    "open_sink",
    "picture_folder",
    "read_manifest",
    "read_pinned",
    "read_shard",
    "records_of",
    "register_sink",
    "remove_partial_files",
    "row_from_json",
    "row_to_json",
    "shard_counts",
    "shard_name",
    "shard_names",
    "shard_records",
    "sink_kinds",
    "versions",
    "without_nan",
    "taken_back",
    "write_manifest",
    "write_shard",
]
