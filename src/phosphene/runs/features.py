"""The run behind `phosphene features`: a folder of pictures -> facets of layers, drawn; report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from phosphene.errors import CancelledError
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.pictures import listed
from phosphene.runs.session import check_resume, close_rows, row_plan
from phosphene.store import FolderSink, keep_inputs, read_manifest
from phosphene.tasks.facets import collect, layers_to_read, pictures_for
from phosphene.tasks.features import FeaturesConfig


def draw_features(
    pictures: Sequence[str], config: FeaturesConfig, common: CommonOptions, *, resume: bool = False
) -> dict[str, Any]:
    """Find and draw the facets of layers; a broken picture is a row among the errors, the others count.

    Args:
        pictures: files, folders, patterns, tables, lists, tar archives and URLs of pictures; none where pinned
            facets bring theirs.
        config: what is drawn and how; its seed is that of the common options.
        common: the common options.
        resume: go on with the run in --out; layers that are done stay.

    Returns:
        The JSON answer of the command: {"run", "report", "layers": [...], "errors": [...]}.

    Raises:
        InputError: if no picture can be read.
        OptionError: for too few pictures, or options that make no sense.
        NotFoundError: for an unknown layer or recipe.
        CancelledError: if it was stopped; the layers that are done are kept.
    """
    check_resume(common, resume)
    classifier = common.load()
    config = replace(config, seed=common.seed)
    names = config.names(classifier)
    pin = config.pinned(classifier)
    source = pictures_for(pictures, pin)
    paths = {entry.key: entry.path for entry in listed(source, pictures)}
    keep_inputs(common.out, common.overwrite, [*pictures, *paths.values()])
    if not isinstance(pin, tuple):
        config = config.for_pictures(len(paths))
    options = config.described(classifier)
    options |= {"pictures": len(paths), "pictures_sha256": sha256("\0".join(paths).encode()).hexdigest()}
    plan = row_plan("features", names, common, classifier, options)

    begun = time.perf_counter()
    with FolderSink(common.out, plan, overwrite=common.overwrite, resume=resume) as sink:
        errors: list[dict[str, Any]] = read_manifest(sink.place).get("errors", [])
        try:
            if not sink.done.issuperset(names):
                # Of all layers, also those that are done: the last bits may depend on what else is looked at.
                collected = collect(classifier, source, layers_to_read(names, pin), progress=common.step)
                errors = [{"path": record.path, "error": record.error} for record in collected.broken]
                for row in config.run(classifier, collected, without=sink.done, progress=common.step):
                    sink.write(row)
        except CancelledError:
            close_rows(sink, config.rows, common, begun, complete=False, errors=errors)
            raise
        return close_rows(sink, config.rows, common, begun, errors=errors)
