"""Pictures out of files, URLs and bytes: the functions that entries load with; all of them can be pickled."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path, PurePath
from typing import Any, NoReturn

from phosphene.errors import InputError, ResourceError
from phosphene.files import is_url, read_file
from phosphene.images import EXTENSIONS, Picture, read_image


def load_place(place: str, **reading: Any) -> Picture:
    """The picture in a local file or behind a URL; keywords as those of read_image."""
    return load_bytes(place, read_file(place), **reading) if is_url(place) else read_image(place, **reading)


def load_listed(place: str, list_name: str, **reading: Any) -> Picture:
    """The picture that a table or list names; one that is not there is told with where its path was looked for."""
    if not is_url(place) and not Path(place).exists():
        raise InputError(f"{place}: no such file; paths in {list_name} are relative to the folder that it lies in")
    return load_place(place, **reading)


def load_bytes(name: str, content: bytes, **reading: Any) -> Picture:
    """The picture in the bytes of a file; `name` is what an error says.

    Raises:
        ResourceError: if there is no room for temporary files.
    """
    # Through a file: read_image is the one place that knows how pictures break.
    place = None
    try:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            place = Path(file.name)
            file.write(content)
        return read_image(place, **reading)
    except InputError as error:
        raise InputError(str(error).replace(str(place), name)) from None
    except OSError as error:
        raise ResourceError(
            f"{name}: no temporary file can be written ({error.strerror or error}); free space, or name another "
            "folder in TMPDIR"
        ) from None
    finally:
        if place is not None:
            place.unlink()


def load_range(place: str, start: int, stop: int, name: str, **reading: Any) -> Picture:
    """The picture in a part of a file."""
    return load_bytes(name, read_file(place, start, stop), **reading)


def refuse(message: str, **_reading: Any) -> NoReturn:
    """Raise the error that was known when the picture was listed."""
    raise InputError(message)


def broken(message: str) -> partial[NoReturn]:
    """The loader of an entry that cannot be read: it raises the error that the listing found."""
    return partial(refuse, message)


def is_picture_name(name: str) -> bool:
    """Whether a name ends as picture files do; hidden files (``.a.jpg``, and the ``._a.jpg`` of macOS) are none.

    Example:
        >>> is_picture_name("a/b.JPG"), is_picture_name("b.txt"), is_picture_name("a/._b.jpg")
        (True, False, False)
    """
    path = PurePath(name)
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def is_shard_name(name: str) -> bool:
    """Whether a name ends as tar archives do.

    Example:
        >>> is_shard_name("train-000.tar"), is_shard_name("train.tar.gz"), is_shard_name("start")
        (True, True, False)
    """
    return name.lower().endswith((".tar", ".tar.gz", ".tgz"))


def is_table_name(name: str) -> bool:
    """Whether a name ends as tables do.

    Example:
        >>> is_table_name("labels.CSV"), is_table_name("labels.parquet"), is_table_name("labels.xlsx")
        (True, True, False)
    """
    return name.lower().endswith((".csv", ".tsv", ".parquet"))


def is_list_name(name: str) -> bool:
    """Whether a name ends as plain lists do.

    Example:
        >>> is_list_name("train.txt"), is_list_name("train.LST"), is_list_name("txt")
        (True, True, False)
    """
    return name.lower().endswith((".txt", ".lst"))
