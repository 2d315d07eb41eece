"""Files by path or URL: listed, read, and written whole or not at all; URLs go through fsspec.

A place is a string: a local path, or a URL such as ``s3://bucket/folder`` or ``memory://run``. Strings travel to other
processes as they are; fsspec keeps its connections by itself.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from phosphene.errors import InputError, MissingExtraError, OutputError
from phosphene.run_mark import MANIFEST, MANIFEST_HEAD, is_manifest_of_run

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[^:].*)?://")


def text_bytes(text: str) -> bytes:
    r"""A text in UTF-8; the bytes of a file name that are none are spelled out.

    Example:
        >>> print(text_bytes("caf\udce9.jpg").decode())
        caf\udce9.jpg
    """
    return text.encode("utf-8", "backslashreplace")


def is_url(place: str) -> bool:
    """Whether a place is a URL for fsspec and no local path.

    Example:
        >>> is_url("s3://bucket/a.jpg"), is_url("photos/a.jpg"), is_url("C:/photos")
        (True, False, False)
    """
    return _URL.match(place) is not None


def join(folder: str, name: str) -> str:
    """A name within a folder; a name that is a URL or an absolute path stays what it is.

    Example:
        >>> join("memory://pictures", "a/b.jpg"), join("photos", "./b.jpg"), join("photos", "/data/b.jpg")
        ('memory://pictures/a/b.jpg', 'photos/b.jpg', '/data/b.jpg')
    """
    if is_url(name) or not folder:
        return name
    if is_url(folder):
        parts = (_path_of(folder).rstrip("/"), name.removeprefix("./"))
        return _with_path(folder, "/".join(filter(None, parts)))
    return str(Path(folder) / name)


def parent(place: str) -> str:
    """The folder that a file lies in.

    Example:
        >>> parent("memory://tables/labels.csv"), parent("labels.csv")
        ('memory://tables', '.')
    """
    if is_url(place):
        return _with_path(place, _path_of(place).rstrip("/").rpartition("/")[0])
    return str(Path(place).parent)


def is_folder(place: str) -> bool:
    """Whether there is a folder."""
    if is_url(place):
        fs, path = _remote(place)
        return bool(fs.isdir(path))
    return os.path.isdir(place)  # unlike Path.is_dir it says no of a name that is too long


def is_file(place: str) -> bool:
    """Whether there is a file."""
    if is_url(place):
        fs, path = _remote(place)
        return bool(fs.isfile(path))
    return os.path.isfile(place)


def open_file(place: str) -> BinaryIO:
    """The file, open for reading; it can be searched.

    Raises:
        InputError: one line that names it.
    """
    try:
        if is_url(place):
            fs, path = _remote(place)
            return cast(BinaryIO, fs.open(path, "rb"))
        return Path(place).open("rb")
    except (OSError, ValueError) as error:
        raise unreadable(place, error) from None


def read_file(place: str, start: int | None = None, stop: int | None = None) -> bytes:
    """The bytes of a file, or those from `start` to `stop`.

    Raises:
        InputError: one line that names it.
    """
    try:
        if is_url(place):
            fs, path = _remote(place)
            return cast(bytes, fs.cat_file(path, start=start, end=stop))
        with Path(place).open("rb") as file:
            file.seek(start or 0)
            return file.read(-1 if stop is None else stop - (start or 0))
    except (OSError, ValueError) as error:
        raise unreadable(place, error) from None


def unreadable(place: str, error: Exception) -> InputError:
    """The error of a file that cannot be read, as one line."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{place}: is a link to nothing" if os.path.islink(place) else f"{place}: no such file")
    if isinstance(error, IsADirectoryError):
        return InputError(f"{place}: is a directory")
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{place}: cannot be read ({reason})")


def names_in(folder: str) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of all that lies directly in a folder, sorted by name.

    Raises:
        InputError: if the folder cannot be listed.
    """
    try:
        if not is_url(folder):
            with os.scandir(folder) as found:
                return sorted((entry.name, _is_dir(entry)) for entry in found)
        fs, path = _remote(folder)
        listed = fs.ls(path, detail=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be listed ({getattr(error, 'strerror', None) or error})") from None
    # Object stores may list the folder itself, as an object of no bytes.
    inside = [item for item in listed if item["name"].strip("/") != path.strip("/")]
    return sorted({(item["name"].rstrip("/").rpartition("/")[2], item["type"] == "directory") for item in inside})


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def glob(pattern: str) -> list[str]:
    """The files that a pattern with ``*``, ``**``, ``?`` and ``[...]`` fits, sorted folder by folder."""
    if is_url(pattern):
        fs, path = _remote(pattern)
        listed = fs.glob(path, detail=True)
        found = [_with_path(pattern, name) for name, about in listed.items() if about["type"] == "file"]
    else:
        whole = f"{pattern}/*" if re.search(r"(^|/)\*\*$", pattern) else pattern
        found = [name for name in _local_glob(whole) if not Path(name).is_dir()]
    return sorted(set(found), key=lambda name: name.split("/"))


def _local_glob(pattern: str) -> Iterator[str]:
    """As Python's glob, which follows a link to a folder above as deep as names may be, and two of them for ever."""
    from glob import escape, iglob

    stars = re.search(r"(^|/)\*\*/", pattern)
    if stars is None:
        yield from iglob(pattern)
        return
    above = pattern[: stars.start()] + stars[1]
    for root in iglob(above) if above else [""]:
        for folder in _folders_below(root, frozenset()):
            yield from _local_glob(escape(folder) + pattern[stars.end() :])


def _folders_below(folder: str, above: frozenset[str]) -> Iterator[str]:
    """A folder, with a slash at its end or empty, and those below that are not hidden; none that is above itself."""
    real = os.path.realpath(folder)
    if real in above:
        return
    yield folder
    with suppress(InputError):  # one that cannot be listed has nothing that fits
        for name, is_dir in names_in(folder or "."):
            if is_dir and not name.startswith("."):
                yield from _folders_below(f"{folder}{name}/", above | {real})


def is_run(folder: str) -> bool:
    """Whether a folder is a run of ours, finished or not."""
    try:
        return is_manifest_of_run(read_file(join(folder, MANIFEST), 0, MANIFEST_HEAD))
    except InputError:
        return False


def write_whole(folder: str, name: str, content: bytes) -> None:
    """Write a file of a folder so that a reader sees all of it or nothing, whatever happens meanwhile.

    Raises:
        OutputError: if it cannot be written.
    """
    with written_whole(folder, name) as file:
        file.write(content)


@contextmanager
def written_whole(folder: str, name: str) -> Iterator[BinaryIO]:
    """A file of a folder, open to be written, that is there when the block has ended, and not if it raises.

    A local file gets its name when it is whole; of a store that fsspec reaches, which shows an object when it is whole,
    it waits in memory.

    Raises:
        OutputError: if it cannot be written.
    """
    target = join(folder, name)
    try:
        if is_url(target):
            content = io.BytesIO()
            yield content
            fs, path = _remote(target)
            fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            fs.pipe_file(path, content.getvalue())
        else:
            with _written_local(Path(target)) as file:
                yield file
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written ({error.strerror or error}); free space or choose another --out"
        ) from None


def remove(folder: str, name: str) -> None:
    """Remove a file of a folder if it is there."""
    target = join(folder, name)
    if not is_url(target):
        Path(target).unlink(missing_ok=True)
    elif is_file(target):
        fs, path = _remote(target)
        fs.rm_file(path)


@contextmanager
def _written_local(target: Path) -> Iterator[BinaryIO]:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", suffix=".partial", delete=False) as file:
            partial = Path(file.name)
            yield cast(BinaryIO, file)
        partial.chmod(0o644)
        os.replace(partial, target)
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _path_of(url: str) -> str:
    """The path on the file system that a URL leads to; of a chain (zip://a::s3://b/c.zip) that of its first link."""
    link = next(link for link in url.split("::") if "://" in link)
    return link.split("://", 1)[1]


def _with_path(url: str, path: str) -> str:
    """The URL with another path on the same file system."""
    links = url.split("::")
    index = next(index for index, link in enumerate(links) if "://" in link)
    protocol = links[index].split("://", 1)[0]
    path = path.split("://", 1)[-1]  # some file systems list whole URLs
    links[index] = f"{protocol}://{path if protocol in ('file', 'local') else path.lstrip('/')}"
    return "::".join(links)


def _remote(place: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path on it."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(place)
    except ImportError as error:
        raise MissingExtraError(f"{place}: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise InputError(f"{place}: {' '.join(str(error).split())}") from None
    return fs, path


def cache_folder() -> Path:
    """Where what is costly to make again is kept: `PHOSPHENE_CACHE`, or phosphene in the user's cache folder."""
    own, shared = os.environ.get("PHOSPHENE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "phosphene"


def read_cached(name: str) -> bytes | None:
    """What is kept under a name in the user's cache; None where there is nothing, or it is damaged."""
    try:
        content = (cache_folder() / name).read_bytes()
    except (OSError, RuntimeError):  # (a user may have no home)
        return None
    digest, kept = content[:32], content[32:]
    return kept if hashlib.sha256(kept).digest() == digest else None


def keep_cached(name: str, content: bytes) -> None:
    """Keep something under a name in the user's cache; where nothing can be written it is made anew next time."""
    try:
        place = cache_folder() / name
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(str(place.parent), place.name, hashlib.sha256(content).digest() + content)
    except (OSError, RuntimeError, OutputError):
        return
