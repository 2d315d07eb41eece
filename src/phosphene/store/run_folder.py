"""Run folders on a disk: every file whole or not there, and a manifest that says how the run was made."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from phosphene import __version__
from phosphene.errors import OptionError, OutputError
from phosphene.files import text_bytes, write_whole
from phosphene.run_mark import MANIFEST

# 1: all rows in the manifest. 2: the manifest before the first row, rows in files of their own.
SCHEMA = 2

# Where runs go unless told otherwise.
DEFAULT_FOLDER = "phosphene-runs"
PLAN, ROWS = "plan.jsonl", "rows.jsonl"
_BEGUN = (MANIFEST, PLAN, ROWS)


class RunFolder:
    """A folder that a command fills: files appear whole, or not at all.

    Values that are a PurePath stand for files of the run: relative in the manifest, so that the folder can be
    moved, absolute in what commands print.

    Args:
        path: the folder.
        command: what fills it; goes into the manifest.

    Example:
        >>> folder = RunFolder.create(Path(tempfile.mkdtemp()) / "run", "explain")
        >>> name = folder.save_text("notes/hello.txt", "hello")
        >>> (folder.path / name).read_text()
        'hello'
    """

    def __init__(self, path: Path, command: str) -> None:
        self.path = path
        self.command = command

    @classmethod
    def create(cls, path: str | os.PathLike[str] | None, command: str, *, overwrite: bool = False) -> RunFolder:
        """A new folder; None makes one under ./phosphene-runs, named by command and time.

        Raises:
            OptionError: if it holds a run already and `overwrite` is not set, is a file or a link to nowhere, or holds
                something that is no run of phosphene.
            OutputError: if it cannot be made.
        """
        folder = _fresh_name(command) if path is None else Path(path)
        try:
            _refuse_links_to_nowhere(folder)
            if folder.exists():
                _clear(folder, overwrite)
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written ({_reason(error)}); choose another --out") from None
        return cls(folder.absolute(), command)

    def discard(self, *, whole: bool = False) -> None:
        """Remove the folder of a run that failed before it made anything: nothing but its manifest and plan is in it.

        The folder that runs are put into by default goes with its only one.

        Args:
            whole: remove also what was made.
        """
        made = [item for item in self.path.glob("*") if item.name not in _BEGUN or _holds_rows(item)]
        if self.path.exists() and (whole or not made):
            shutil.rmtree(self.path)
            if self.path.parent.name == DEFAULT_FOLDER and not any(self.path.parent.iterdir()):
                self.path.parent.rmdir()

    def save_array(self, name: str, array: np.ndarray[Any, Any]) -> PurePath:
        """Write an array as .npy."""
        return self.save_bytes(name, array_bytes(array))

    def save_image(self, name: str, image: Image.Image, **options: Any) -> PurePath:
        """Write a picture in the format of the name's ending."""
        # Not straight to the file: Pillow takes no notice of a short write on a full disk.
        return self.save_bytes(name, image_bytes(name, image, **options))

    def save_bytes(self, name: str, content: bytes) -> PurePath:
        """Write bytes as they are."""
        write_whole(str(self.path), name, content)
        return PurePath(name)

    def save_text(self, name: str, text: str) -> PurePath:
        """Write a text file in UTF-8; what a file name may hold beyond it is spelled out."""
        return self.save_bytes(name, text_bytes(text))

    def save_json(self, name: str, value: Any) -> PurePath:
        """Write JSON, with the run's own files relative to it."""
        return self.save_text(name, json.dumps(value, indent=1, default=_relative, allow_nan=False) + "\n")

    def save_manifest(self, **facts: Any) -> PurePath:
        """Write manifest.json: schema, versions, time, command, and the facts given."""
        return self.save_json(MANIFEST, {**manifest_head(self.command), **without_nan(facts)})

    def absolute(self, value: Any) -> Any:
        """The value with every file of the run as an absolute path, ready to be printed as JSON."""
        if isinstance(value, PurePath):
            return str(self.path / value)
        if isinstance(value, Mapping):
            return {key: self.absolute(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.absolute(item) for item in value]
        return value


def array_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """An array as the bytes of an .npy file."""
    content = BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def image_bytes(name: str, image: Image.Image, **options: Any) -> bytes:
    """A picture as the bytes of a file in the format of the name's ending."""
    content = BytesIO()
    image.save(content, format=Image.registered_extensions()[PurePath(name).suffix.lower()], **options)
    return content.getvalue()


def manifest_head(command: str) -> dict[str, Any]:
    """What every manifest begins with; `is_run` knows a run by it."""
    head = {"schema": SCHEMA, "phosphene": __version__, "command": command, "versions": versions()}
    return {**head, "created": datetime.now(UTC).isoformat(timespec="seconds")}


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "pillow")}}


def file_stem(text: str, limit: int = 60) -> str:
    """Any text as a safe part of a file name; a long one ends in a mark that tells it from others.

    Example:
        >>> file_stem("occlusion:window=10x20 / cat")
        'occlusion-window-10x20-cat'
        >>> file_stem("Kätzchen süß")
        'Katzchen-suss'
        >>> file_stem("one name or another", 16)
        'one-nam-147dd57a'
    """
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss").replace("ẞ", "SS"))
    stem = re.sub(r"[^A-Za-z0-9._]+", "-", re.sub(r"[\u0300-\u036f]", "", plain)).strip("-._")
    if len(stem) > limit:
        stem = f"{stem[: limit - 9]}-{hashlib.sha256(text_bytes(text)).hexdigest()[:8]}"
    return stem or "unnamed"


def picture_folder(number: int, path: str | os.PathLike[str]) -> str:
    """The folder of one picture within a run.

    Args:
        number: of the picture in the run, from 0.
        path: where it came from.

    Example:
        >>> picture_folder(0, "photos/My cat.jpg")
        '001-My-cat'
    """
    return f"{number + 1:03d}-{file_stem(Path(path).stem, 40)}"


def without_nan(value: Any) -> Any:
    """The value with NaN and infinity as None, which JSON can carry."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def _holds_rows(file: Path) -> bool:
    return file.name == ROWS and file.stat().st_size > 0


def _fresh_name(command: str) -> Path:
    stem = f"{command}-{datetime.now():%Y%m%d-%H%M%S}"
    base = Path(DEFAULT_FOLDER)
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 10_000))
    return next(base / name for name in names if not (base / name).exists())


def _refuse_links_to_nowhere(folder: Path) -> None:
    for link in (folder, *folder.parents):
        if link.is_symlink() and not link.exists():
            raise OptionError(f"{link}: is a link to nowhere ({os.readlink(link)}); choose another --out")


def _clear(folder: Path, overwrite: bool) -> None:
    if not folder.is_dir():
        raise OptionError(f"{folder}: is a file; --out takes a folder")
    content = list(folder.iterdir())
    # What was being written when a run was killed before it had a manifest.
    leftovers = [item for item in content if item.name.startswith(".") and item.suffix == ".partial"]
    if len(leftovers) == len(content):
        for item in leftovers:
            item.unlink()
        return
    if not (folder / MANIFEST).is_file():
        raise OptionError(f"{folder}: holds files that are no phosphene run; choose another --out")
    if not overwrite:
        more = ", --resume to go on with it," if _is_unfinished(folder) else ""
        raise OptionError(f"{folder}: exists already; add --overwrite{more} or choose another --out")
    for item in content:
        shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()


def _relative(value: Any) -> str:
    if isinstance(value, PurePath):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} in a manifest")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _is_unfinished(folder: Path) -> bool:
    """Whether it is a run that writes row by row and was stopped."""
    try:
        return (folder / ROWS).is_file() and json.loads((folder / MANIFEST).read_text("utf-8")).get("complete") is False
    except (OSError, ValueError, AttributeError):  # whatever it is, it is no run to go on with
        return False
