"""The run behind `phosphene activations`: what the channels of a layer show for one picture."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from phosphene.images import picture_size, read_image
from phosphene.render import thumbnail
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.session import close_rows, row_plan
from phosphene.store import FolderSink, keep_inputs
from phosphene.tasks import ActivationsConfig


def show_activations(path: str, config: ActivationsConfig, common: CommonOptions) -> dict[str, Any]:
    """Feature maps of layers for one picture: the strongest or the chosen channels as a grid, all of them as .npy.

    Args:
        path: the picture.
        config: which channels of which layers.
        common: the common options.

    Returns:
        The JSON answer of the command: {"run", "report", "layers": [...]}.
    """
    begun = time.perf_counter()
    classifier = common.load()
    options = {"path": path, **config.described(classifier)}
    picture = read_image(path, **classifier.preprocess.reading)
    keep_inputs(common.out, common.overwrite, [path])
    predicted, rows = config.run(classifier, picture)
    plan = row_plan("activations", config.names(classifier), common, classifier, options)
    with FolderSink(common.out, plan, overwrite=common.overwrite) as sink:
        shown = sink.folder.save_image("picture.jpg", thumbnail(picture, 640), quality=90)
        for row in rows:
            sink.write(row)
        best = [asdict(prediction) for prediction in predicted]
        size = list(picture_size(picture))
        return close_rows(sink, config.rows, common, begun, path=path, size=size, picture_shown=shown, predicted=best)
