"""The run behind `phosphene features`: a folder of pictures -> facets of layers, drawn; report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from phosphene.images import expand_paths
from phosphene.pipeline.features import collect
from phosphene.runs.session import Common, close_rows, row_plan
from phosphene.store import FolderSink
from phosphene.synthesis.facets import check_counts
from phosphene.tasks.features import FeaturesConfig


def draw_features(pictures: Sequence[str], config: FeaturesConfig, common: Common) -> dict[str, Any]:
    """Find and draw the facets of layers; a broken picture is a row among the errors, the others count.

    Args:
        pictures: folders of pictures, or pictures.
        config: what is drawn and how; its seed is that of the common options.
        common: the common options.

    Returns:
        The JSON answer of the command: {"run", "report", "layers": [...], "errors": [...]}.

    Raises:
        InputError: if no picture can be read.
        OptionError: for too few pictures, or options that make no sense.
        NotFoundError: for an unknown layer or recipe.
    """
    classifier = common.load()
    config = replace(config, seed=common.seed)
    options = config.described(classifier)
    names = config.names(classifier)
    paths = expand_paths(pictures)
    check_counts(len(paths), config.facets, config.exemplars)
    plan = row_plan("features", names, common, classifier, {**options, "pictures": len(paths)})
    begun = time.perf_counter()
    errors: list[dict[str, Any]] = []
    with FolderSink(common.out, plan, overwrite=common.overwrite) as sink:
        try:
            collected = collect(classifier, paths, names, progress=common.announce)
            errors = [{"path": record.path, "error": record.error} for record in collected.broken]
            for row in config.run(classifier, collected, progress=common.announce):
                sink.write(row)
        except KeyboardInterrupt:
            close_rows(sink, config.rows, common, begun, complete=False, errors=errors)
            raise
        return close_rows(sink, config.rows, common, begun, errors=errors)
