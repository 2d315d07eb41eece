"""Rows into a run folder, one line of JSON each, valid at any moment: killed, it holds all rows that were written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePath
from types import TracebackType
from typing import IO, Any

from PIL import Image

from phosphene.errors import TYPED_WRONG, CancelledError, InputError, OutputError, PhospheneError
from phosphene.files import text_bytes
from phosphene.store.begin import begin, remove_partial_files, write_manifest
from phosphene.store.lock import check_unlocked, lock
from phosphene.store.plan import Plan
from phosphene.store.row_json import map_files, row_from_json, row_to_json
from phosphene.store.rows import Asset, Row
from phosphene.store.run_folder import ROWS, RunFolder, array_bytes, image_bytes
from phosphene.store.sink import Sink, register_sink

# Pictures are encoded with the interpreter's lock released: the files of a row are made at once on that many threads.
_ENCODERS = min(4, os.cpu_count() or 1)


@register_sink("folder")
class FolderSink(Sink):
    """A run folder: manifest.json and plan.jsonl from the start, rows.jsonl that grows, and the files of the rows.

    The files of a row are written before its line, each under another name until it is whole; the line is handed to
    the system before `write` returns. A last line that was cut off is not counted, and cut away when the run is gone
    on with. Two processes cannot write to one folder.

    Args:
        place: the folder; None for a new one under ./phosphene-runs.
        plan: what the run is to do.
        overwrite: replace the run that is there.
        resume: go on with the run that is there.

    Example:
        >>> import numpy as np
        >>> from phosphene.store import Asset, MapRow, ExplainRow, TargetRow, open_run
        >>> with FolderSink(str(tmp / "run"), Plan("explain", ("a.jpg", "b.jpg"))) as sink:
        ...     map = MapRow("cam", TargetRow(281, "tabby"), map=Asset("a/cam.npy", np.eye(2)))
        ...     sink.write(ExplainRow("a.jpg", "photos/a.jpg", maps=(map,)))
        >>> run = open_run(tmp / "run")
        >>> run.is_complete, run.missing, run.rows()[0].maps[0].map
        (False, ('b.jpg',), PurePosixPath('a/cam.npy'))
    """

    def __init__(self, place: str | None, plan: Plan, *, overwrite: bool = False, resume: bool = False) -> None:
        self.plan = plan
        if overwrite and place is not None:
            check_unlocked(Path(place) / ROWS)
        self.place, self._manifest = begin(place, plan, overwrite=overwrite, resume=resume)
        self.folder = RunFolder(Path(self.place), plan.command)
        self._file = _open_to_append(self.folder.path / ROWS)
        self._encoders = ThreadPoolExecutor(_ENCODERS)
        self._resumed = resume
        if resume:
            remove_partial_files(self.place)
        self._status = {row.key: _status(row) for row in read_rows(self.place)}
        self.done = frozenset(self._status)

    @property
    def has_worked(self) -> bool:
        """Whether there is a row that is no error."""
        return any(status != "error" for status in self._status.values())

    def write(self, row: Row) -> None:
        """Write the files of a row, then its line.

        Raises:
            OutputError: if they cannot be written.
        """
        assets: list[Asset] = []
        map_files(row, lambda file: assets.append(file) if isinstance(file, Asset) else None)
        paths = self._encoders.map(partial(save_asset, self.folder), assets)
        saved = dict(zip(map(id, assets), paths, strict=True))
        row = map_files(row, lambda file: saved.get(id(file), file))
        line = json.dumps(row_to_json(row), allow_nan=False) + "\n"
        try:
            _append(self._file, line.encode())
        except OSError as error:
            raise OutputError(
                f"{self._file.name}: cannot be written ({error.strerror or error}); free space and resume"
            ) from None
        self._status[row.key] = _status(row)

    def close(self, *, complete: bool = True, **facts: Any) -> None:
        """Write what is known now to the manifest; the run is complete if every row of the plan is there.

        Facts go before what the manifest says of itself: the `rows` of an evaluation are its table.
        """
        if self._file.closed:
            return
        self._file.close()
        self._encoders.shutdown()
        planned = self.plan.keys or ()
        failed = sum(status == "error" for status in self._status.values())
        self._manifest["complete"] = complete and all(key in self._status for key in planned)
        self._manifest["rows"] = {"ok": len(self._status) - failed, "error": failed}
        self._manifest |= facts
        write_manifest(self.place, self._manifest)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, CancelledError):
            error.place = self.place
        if self._resumed:
            return
        if isinstance(error, PhospheneError) and not self._status:
            self.folder.discard()
        elif isinstance(error, TYPED_WRONG) and not self.has_worked:  # (what could not be read is told once more)
            self.folder.discard(whole=True)


def save_asset(folder: RunFolder, asset: Asset) -> PurePath:
    """Write an asset in the format of its name's ending; its path within the run."""
    return folder.save_bytes(asset.name, asset_bytes(asset))


def asset_bytes(asset: Asset) -> bytes:
    """An asset as the bytes of a file in the format of its name's ending.

    Example:
        >>> asset_bytes(Asset("hello.txt", "hello"))
        b'hello'
    """
    content = asset.content
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return text_bytes(content)
    if isinstance(content, Image.Image):
        return image_bytes(asset.name, content, **asset.options)
    if asset.name.endswith(".npy"):
        return array_bytes(content)
    return image_bytes(asset.name, Image.fromarray(content), **asset.options)


def read_rows(place: str | os.PathLike[str]) -> Iterator[Row]:
    """The rows of a run folder as they were written; lines that are not whole are passed over.

    Of a key that was written twice both rows come.
    """
    try:
        with (Path(place) / ROWS).open("rb") as file:
            for line in file:
                try:
                    yield row_from_json(json.loads(line))
                except (ValueError, InputError):
                    continue
    except FileNotFoundError:
        return


def _status(row: Row) -> str:
    return str(getattr(row, "status", "ok"))


def _open_to_append(path: Path) -> IO[bytes]:
    """The file of rows, locked for this process, without a last line that was cut off."""
    try:
        # Unbuffered: what is written is with the system, and a failed write leaves nothing for later.
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); choose another --out") from None
    try:
        lock(file.fileno(), path.parent)
    except OutputError:
        file.close()
        raise
    end = file.seek(0, os.SEEK_END)
    file.truncate(_end_of_last_line(file, end))
    return file


def _append(file: IO[bytes], content: bytes) -> None:
    """Add all of the content, or nothing where that fails."""
    end = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(end)
        raise


def _end_of_last_line(file: IO[bytes], end: int, block: int = 65536) -> int:
    """The place behind the last line end, searched from the end of the file."""
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
