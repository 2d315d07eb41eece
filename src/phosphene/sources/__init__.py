"""Where pictures come from: files, folders, patterns, tables, tar shards, URLs, uploads; decoded ahead in threads.

A new source is one file here (or a module that another package names in its entry point group "phosphene.sources")
with one registered class that has one method, `entries`.
"""

from phosphene.sources.folder import Folder
from phosphene.sources.item import Entry, Item
from phosphene.sources.joined import Joined
from phosphene.sources.open_source import open_pictures, open_source, source_kinds
from phosphene.sources.path_list import PathList
from phosphene.sources.pattern import Glob
from phosphene.sources.single_files import Files
from phosphene.sources.source import COLUMN_TYPES, ColumnType, Source, SourceKind, register_source
from phosphene.sources.table import Table
from phosphene.sources.tar import Tar
from phosphene.sources.uploads import Uploads

__all__ = [
    "COLUMN_TYPES",
    "ColumnType",
    "Entry",
    "Files",
    "Folder",
    "Glob",
    "Item",
    "Joined",
    "PathList",
    "Source",
    "SourceKind",
    "Table",
    "Tar",
    "Uploads",
    "open_pictures",
    "open_source",
    "register_source",
    "source_kinds",
]
