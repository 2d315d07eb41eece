"""What every run has in common: its plan, its manifest, its report, its answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from phosphene.errors import OptionError, PhospheneError
from phosphene.runs.common_options import CommonOptions
from phosphene.runtime import Prepared
from phosphene.store import FolderSink, Plan, Row, RunFolder, map_files, open_run, row_to_json
from phosphene.types import ReportMode


@dataclass
class Session:
    """One run under way: a folder that is being filled and the facts for its manifest."""

    common: CommonOptions
    classifier: Prepared
    folder: RunFolder
    options: Mapping[str, Any]
    started: float = field(default_factory=time.perf_counter)

    @classmethod
    def start(cls, command: str, common: CommonOptions, classifier: Prepared, **options: Any) -> Session:
        """Make the run folder; nothing is computed before it is known to be writable.

        A manifest is there from the start, so that a run that was cut off is still known as one.
        """
        folder = RunFolder.create(common.out, command, overwrite=common.overwrite)
        session = cls(common, classifier, folder, options)
        session._save_manifest(complete=False)
        return session

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, PhospheneError | KeyboardInterrupt):
            self.folder.discard()

    def finish(self, *, complete: bool = True, **content: Any) -> dict[str, Any]:
        """Write manifest and report; the JSON answer of the command, with absolute paths."""
        self._save_manifest(complete=complete, **content)
        report = _reported(self.folder.path, self.common.report)
        return {
            "run": str(self.folder.path),
            "report": None if report is None else str(report),
            **self.answer(content),
        }

    def _save_manifest(self, *, complete: bool, **content: Any) -> None:
        self.folder.save_manifest(
            complete=complete,
            model=self.common.choice.described(self.classifier),
            options=dict(self.options),
            seed=self.common.seed,
            threads=torch.get_num_threads(),
            device=str(self.classifier.device),
            precision=self.common.precision,
            seconds=time.perf_counter() - self.started,
            **content,
        )

    def answer(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Content as it is printed."""
        absolute: dict[str, Any] = self.folder.absolute(content)
        return absolute


def row_plan(
    command: str, keys: tuple[str, ...] | None, common: CommonOptions, classifier: Prepared, options: Mapping[str, Any]
) -> Plan:
    """The plan of a run that writes a row for each key; None where the keys are not known before."""
    facts = {
        "model": common.choice.described(classifier),
        "options": options,
        "seed": common.seed,
        "precision": common.precision,
    }
    return Plan(command, keys, facts, {"threads": torch.get_num_threads(), "device": str(classifier.device)})


def close_rows(
    sink: FolderSink, kind: type[Row], common: CommonOptions, started: float, *, complete: bool = True, **facts: Any
) -> dict[str, Any]:
    """End a run that wrote rows, and write its report; the JSON answer of the command, with absolute paths.

    Args:
        sink: that took the rows.
        kind: of the rows.
        common: the common options.
        started: what time.perf_counter gave then.
        complete: False if the run was stopped.
        **facts: for manifest and answer.
    """
    run = open_run(sink.place)
    rows = run.rows()
    # The rows once more, where programs that read the manifest alone look for them.
    listed = {kind.listing: [_listed(row) for row in rows]}
    sink.close(complete=complete, seconds=time.perf_counter() - started, **facts, **listed)
    report = _reported(sink.place, common.report)
    shown = [_listed(map_files(row, lambda file: Path(run.path(file)))) for row in rows]
    answer = {"run": run.place, "report": None if report is None else str(report), kind.listing: shown, **facts}
    return {name: sink.folder.absolute(value) for name, value in answer.items()}


def _reported(place: str | Path, mode: ReportMode | None) -> Path | None:
    # Imported here: it takes a third of a second, which the first result need not wait for.
    from phosphene.report import write_report

    return write_report(place, mode)


def _listed(row: Row) -> dict[str, Any]:
    """A row as manifests and answers list it."""
    return {name: value for name, value in row_to_json(row).items() if name != "kind"}


def check_resume(common: CommonOptions, resume: bool) -> None:
    """Refuse to go on with a run that is not named, or that is to be replaced.

    Raises:
        OptionError: naming the options.
    """
    if resume and common.out is None:
        raise OptionError("--resume needs --out, the folder of the run to go on with")
    if resume and common.overwrite:
        raise OptionError("--resume goes on with a run and --overwrite replaces it; drop one of them")
    if resume and common.out is not None and not Path(common.out).exists():
        common.say(f"{common.out}: there is no run to go on with; begun anew")
