"""Pictures in tar archives, as WebDataset writes them: the files of one sample share a name up to its first dot."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby, tee
from pathlib import PurePosixPath
from typing import Any

from phosphene.errors import InputError
from phosphene.files import is_file, is_folder, is_url, join, names_in, open_file
from phosphene.path_match import numbered, path_parts
from phosphene.sources.decode import broken, is_picture_name, is_shard_name, load_bytes, load_range
from phosphene.sources.item import Entry
from phosphene.sources.pattern import expand, fixed_part
from phosphene.sources.source import ColumnType, Source, register_source

# What is read beside a picture: labels and columns; anything larger is data of another kind.
_MAX_BESIDE = 1_000_000
_BESIDE = (".cls", ".txt", ".json")


def _claims(spec: str) -> bool:
    """A tar archive, a pattern or range of them, or a folder that has some at its top."""
    if is_shard_name(spec):
        return is_file(spec) or bool(_wildcards(spec))
    return is_folder(spec) and any(is_shard_name(name) for name, is_dir in names_in(spec) if not is_dir)


def _wildcards(spec: str) -> str:
    return "".join(sign for sign in "*?[{" if sign in spec)


@register_source("tar", claims=_claims, looks_like="tar shards such as 'shards/{000..099}.tar'")
class Tar(Source):
    """The pictures in tar archives, in their order there; nothing is unpacked to disk.

    Files that follow one another and share folder and name up to the first dot belong together: ``7.jpg``, ``7.cls``
    and ``7.json``. What has a picture's ending right behind that name is a picture (of ``7.jpg`` and ``7.mask.png`` the
    first alone); a ``.cls`` file is its label, a ``.txt`` file the column ``text``, a ``.json`` file the column
    ``json``. A picture that is a link, and the place from which on an archive is damaged, are items with an error.
    Keys are the archive's path and the picture's within it.

    Archives on a disk that are not compressed are read in parts, picture by picture; all others as a stream.

    Args:
        place: path or URL of one archive or a folder of them, or a pattern or range (``{000..099}``) of them.

    Raises:
        InputError: if there is no such archive.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (8, 8)).save(tmp / "7.png")
        >>> _ = (tmp / "7.cls").write_text("281")
        >>> with tarfile.open(tmp / "s.tar", "w") as archive:
        ...     for name in ("7.png", "7.cls"):
        ...         archive.add(tmp / name, name)
        >>> [(item.key, item.picture.size, item.label) for item in Tar(str(tmp / "s.tar"))]
        [('s.tar/7.png', (8, 8), '281')]
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.place = os.fspath(place)
        if is_folder(self.place):
            names = [name for name, is_dir in names_in(self.place) if not is_dir and is_shard_name(name)]
            self._start, self.shards = self.place, [join(self.place, name) for name in names]
        else:
            self._start, self.shards = fixed_part(self.place.partition("{")[0]), expand(self.place)
        if not self.shards:
            raise InputError(f"{self.place}: there are no tar archives")

    @property
    def column_types(self) -> Mapping[str, ColumnType]:
        """What may stand beside a picture, as text."""
        return {"text": "string", "json": "string"}

    def entries(self) -> Iterator[Entry]:
        """One entry per picture; one with an error for an archive that cannot be read to its end."""
        start = len(path_parts(self._start))
        for shard in self.shards:
            prefix = "/".join(path_parts(shard)[start:])
            try:
                yield from _entries(shard, prefix)
            except InputError as error:
                yield Entry(f"{prefix}/", shard, broken(str(error)))


@dataclass(frozen=True)
class _Member:
    """One file of an archive: its path there, where its bytes lie, and these where they cannot be had later."""

    name: str
    start: int
    size: int
    content: bytes | None
    is_link: bool

    @property
    def sample(self) -> str:
        """What the files of one sample share."""
        path = PurePosixPath(self.name)
        return str(path.parent / path.name.lstrip(".").partition(".")[0])

    @property
    def ending(self) -> str:
        """The name from its first dot on."""
        return "." + PurePosixPath(self.name).name.lstrip(".").partition(".")[2]


def _entries(shard: str, prefix: str) -> Iterator[Entry]:
    samples = ((_pictures(group), _beside(group)) for group in _samples(_members(shard)))
    listed = ((member, beside) for found, beside in samples for member in found)
    # A name may be there twice, as in archives that were appended to.
    pictures, again = tee(listed)
    keys = numbered(f"{prefix}/{member.name}" for member, _ in again)
    for key, (member, beside) in zip(keys, pictures, strict=True):
        path = f"{shard}/{member.name}"
        columns = {"text": beside.get("txt"), "json": beside.get("json")}
        yield Entry(key, path, _loader(shard, member, path), beside.get("cls"), columns)


def _samples(members: Iterator[_Member]) -> Iterator[list[_Member]]:
    return (list(group) for _, group in groupby(members, key=lambda member: member.sample))


def _pictures(group: list[_Member]) -> list[_Member]:
    pictures = [member for member in group if is_picture_name(member.name)]
    return [member for member in pictures if member.ending.count(".") == 1] or pictures


def _beside(group: list[_Member]) -> dict[str, str]:
    found: dict[str, str] = {}
    for member in group:
        if member.ending in _BESIDE and member.content is not None:
            found[member.ending[1:]] = member.content.decode("utf-8", "replace").strip()
    return found


def _loader(shard: str, member: _Member, path: str) -> Any:
    if member.is_link:
        return broken(f"{path}: is a link within the archive, and no picture")
    if member.content is not None:
        return partial(load_bytes, path, member.content)
    return partial(load_range, shard, member.start, member.start + member.size, path)


def _members(shard: str) -> Iterator[_Member]:
    """The files of an archive in order; of its other members the links that are named like pictures."""
    in_parts = not is_url(shard) and shard.lower().endswith(".tar")
    count = 0
    try:
        with open_file(shard) as file, tarfile.open(fileobj=file, mode="r:" if in_parts else "r|*") as archive:
            for info in archive:
                count += 1
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all that it has seen
                if not (info.isfile() or info.issym() or info.islnk()):
                    continue
                is_link = not info.isfile()
                is_picture = is_picture_name(info.name)
                kept = is_picture and (not in_parts or info.issparse())
                kept = kept or (info.name.endswith(_BESIDE) and info.size <= _MAX_BESIDE)
                content = _content(archive, info) if kept and not is_link else None
                yield _Member(info.name.lstrip("/"), info.offset_data, info.size, content, is_link)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{shard}: damaged or cut short after {count} members ({_reason(error)})") from None


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info)
    return b"" if file is None else file.read()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
