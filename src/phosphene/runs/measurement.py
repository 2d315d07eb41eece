"""What every `phosphene evaluate` has in common: pieces that are kept as they are measured, then table and report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

import numpy as np

from phosphene.errors import TYPED_WRONG, CancelledError
from phosphene.evaluation.pieces import Piece
from phosphene.report import write_report
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.session import check_resume, row_plan
from phosphene.runtime import Prepared
from phosphene.store import Asset, FolderSink, PieceRow, RunFolder, keep_inputs, open_run

_ARRAYS = "pieces"


class Measurement:
    """An evaluation under way: a run folder that takes each piece as soon as it is measured, valid at any moment.

    Stopped or killed, it is gone on with by `resume`: under the same plan, with the pieces that are there.

    Args:
        command: what the run is called in its manifest.
        common: the common options.
        classifier: that is measured.
        inputs: files and folders that are read, which no --overwrite may clear.
        resume: go on with the run in --out, if there is one.
        **options: what decides the figures, for the manifest.

    Raises:
        OptionError: if a run is there already, or one of another plan, naming what differs.
        OutputError: if the folder cannot be written.
    """

    def __init__(
        self,
        command: str,
        common: CommonOptions,
        classifier: Prepared,
        *,
        inputs: Iterable[str | os.PathLike[str]] = (),
        resume: bool = False,
        **options: Any,
    ) -> None:
        check_resume(common, resume)
        keep_inputs(common.out, common.overwrite, inputs)
        plan = row_plan(command, None, common, classifier, options)
        self.common = common
        self._begun, self._resumed = time.perf_counter(), resume
        self._sink = FolderSink(common.out, plan, overwrite=common.overwrite, resume=resume)
        self._run = open_run(self._sink.place)
        rows = (row for row in self._run if isinstance(row, PieceRow))
        self._known = {row.key: row for row in rows if all(map(os.path.isfile, self._files(row).values()))}

    @property
    def folder(self) -> RunFolder:
        """Where charts and pictures go."""
        return self._sink.folder

    def _files(self, row: PieceRow) -> dict[str, str]:
        """Where the arrays of a piece lie."""
        return {name: self._run.path(str(file)) for name, file in row.arrays.items()}

    def keep(self, key: str, make: Callable[[], Piece]) -> Piece:
        """The piece of a key: that which is known, or what is made now and written before anything else is done.

        Raises:
            CancelledError: if the run is to be stopped.
        """
        self.common.cancel.raise_if_cancelled()
        if key in self._known:
            row = self._known[key]
            arrays = {name: np.load(file) for name, file in self._files(row).items()}
            return Piece(_numbers(row.values), arrays)
        piece = make()
        stem = f"{_ARRAYS}/{_mark(key)}"
        assets = {name: Asset(f"{stem}-{_mark(name)}.npy", values) for name, values in piece.arrays.items()}
        self._sink.write(PieceRow(key, piece.values, assets))
        return piece

    def drop_arrays(self, but: str) -> None:
        """Remove the arrays of all pieces but one, where that one is all that is asked for from now on."""
        for file in (self.folder.path / _ARRAYS).glob("*.npy"):
            if not file.name.startswith(f"{_mark(but)}-"):
                file.unlink()

    def finish(self, **content: Any) -> dict[str, Any]:
        """Write manifest and report; the JSON answer of the command, with absolute paths."""
        self._sink.close(seconds=time.perf_counter() - self._begun, **content)
        report = write_report(self.folder.path, self.common.report)
        return {
            "run": str(self.folder.path),
            "report": None if report is None else str(report),
            **{name: self.folder.absolute(value) for name, value in content.items()},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sink.__exit__(kind, error, trace)
        # What has to be asked for in another way is not gone on with, however much was measured before that was known.
        if isinstance(error, TYPED_WRONG) and not self._resumed:
            self.folder.discard(whole=True)
        if isinstance(error, CancelledError | KeyboardInterrupt) and not self._resumed:
            self.folder.discard()  # (where nothing was measured yet)
            if isinstance(error, CancelledError) and not self.folder.path.exists():
                error.place = None


def files_told(files: Iterable[str | os.PathLike[str]]) -> dict[str, Any]:
    """How many files there are and which, in short, for a plan."""
    names = [os.fspath(file) for file in files]
    return {"pictures": len(names), "pictures_sha256": sha256("\0".join(names).encode()).hexdigest()}


def _mark(name: str) -> str:
    return sha256(name.encode()).hexdigest()[:16]


def _numbers(value: Any) -> Any:
    """JSON with its nulls as NaN, as they were written."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float("nan") if value is None else value
