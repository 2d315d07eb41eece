"""Which pictures an evaluation looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phosphene.errors import InputError, OptionError
from phosphene.images import expand_paths, list_images
from phosphene.sources import open_source
from phosphene.sources.decode import is_list_name, is_table_name
from phosphene.sources.pattern import Glob, is_pattern


def chosen_files(images: Sequence[str], limit: int) -> list[Path]:
    """At most `limit` files of paths, folders, patterns, tables and lists of paths, taken evenly from all; 0 takes all.

    Evenly, so that folders that are sorted by class are sampled fairly.

    Raises:
        InputError: if there is none.
        OptionError: for a negative limit.
    """
    if limit < 0:
        raise OptionError(f"--limit {limit}: give how many pictures, or 0 for all")
    files = [file for image in images for file in _files_of(image)]
    if not files:
        raise InputError("no pictures were given; name files or folders with --images")
    refuse_missing(files)
    if limit == 0 or limit >= len(files):
        return files
    return [files[index] for index in np.linspace(0, len(files) - 1, limit).round().astype(int)]


def _files_of(image: str) -> list[Path]:
    if is_pattern(image):
        return [Path(entry.path) for entry in Glob(image).entries()]
    if (is_table_name(image) or is_list_name(image)) and Path(image).is_file():
        return [Path(entry.path) for entry in open_source(image).entries()]
    return expand_paths([image])


def refuse_missing(files: Sequence[Path]) -> None:
    """Refuse files of which none is there, before there is a run folder.

    Raises:
        InputError: naming the first.
    """
    if not any(file.is_file() for file in files):
        if files[0].is_dir():
            list_images(files[0])  # raises why it was not taken apart
        raise InputError(f"{files[0]}: no such file or folder")
