"""The run behind `phosphene predict`: pictures -> the network's best classes, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from phosphene.runs.common_options import CommonOptions
from phosphene.runs.pictures import run_over_pictures
from phosphene.tasks import PredictConfig


def predict_pictures(
    specs: Sequence[str], config: PredictConfig, common: CommonOptions, *, resume: bool = False
) -> dict[str, Any]:
    """Classify pictures; a broken picture becomes a row with its error, the others are done.

    Args:
        specs: files, folders, patterns, tables, lists, tar archives and URLs of pictures.
        config: how many classes are told and what is seen.
        common: the common options.
        resume: go on with the run in --out.

    Returns:
        The JSON answer of the command: {"run", "report", "images": [...]}.

    Raises:
        PhospheneError: for what concerns the whole run: options, model, output folder.
        CancelledError: if it was stopped; what was done is kept.
    """
    return run_over_pictures("predict", specs, config, common, common.load(), resume=resume)
