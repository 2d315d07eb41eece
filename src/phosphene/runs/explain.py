"""The run behind `phosphene explain`: pictures x classes x methods -> maps, overlays, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from phosphene.runs.common_options import CommonOptions
from phosphene.runs.pictures import run_over_pictures
from phosphene.sources import Source
from phosphene.store import ExplainRow, FolderSink, Run
from phosphene.tasks import ExplainConfig
from phosphene.tasks.map_rows import is_colored_by, method_scales, recolored


def explain_pictures(
    specs: Sequence[str], config: ExplainConfig, common: CommonOptions, *, resume: bool = False
) -> dict[str, Any]:
    """Explain pictures; a broken picture becomes a row with its error, the others are done.

    Args:
        specs: files, folders, patterns, tables, lists, tar archives and URLs of pictures.
        config: what is explained and how; its seed is that of the common options.
        common: the common options.
        resume: go on with the run in --out.

    Returns:
        The JSON answer of the command: {"run", "report", "images": [...]}.

    Raises:
        PhospheneError: for what concerns the whole run: options, model, output folder.
        CancelledError: if it was stopped; what was done is kept.
    """
    classifier = common.load()
    config = replace(config, seed=common.seed).checked(classifier)

    def color_alike(run: Run, sink: FolderSink, source: Source) -> dict[str, Any]:
        """Write again the rows whose maps are not colored by the one scale of their method."""
        if config.scale != "shared":
            return {}
        rows = {row.key: row for row in run.rows() if isinstance(row, ExplainRow)}
        scales = method_scales(list(rows.values()))
        colored = {key for key, row in rows.items() if is_colored_by(row, scales)}
        for item in source.items(skip=colored, cancel=common.cancel, **classifier.preprocess.reading):
            if item.picture is not None:
                values = lambda file: np.load(run.path(file))  # noqa: E731
                sink.write(recolored(rows[item.key], item.picture, scales, values))
        return {}

    return run_over_pictures("explain", specs, config, common, classifier, resume=resume, finish=color_alike)
