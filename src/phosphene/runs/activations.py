"""The run behind `phosphene activations`: what the channels of a layer show for one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phosphene.errors import ModelError, OptionError
from phosphene.images import read_image
from phosphene.render import channel_grid, thumbnail
from phosphene.runs.common import Common
from phosphene.runs.session import Session
from phosphene.runtime import activations
from phosphene.store import file_stem, keep_inputs


def show_activations(
    path: str,
    layers: Sequence[str],
    common: Common,
    *,
    channels: Sequence[int] = (),
    count: int = 24,
    shared: bool = True,
) -> dict[str, Any]:
    """Feature maps of layers for one picture: the strongest or the chosen channels as a grid, all of them as .npy.

    Args:
        path: the picture.
        layers: dotted names; none for the default layer.
        common: the common options.
        channels: the channels to draw; none for the `count` with the largest mean.
        count: how many of the strongest channels to draw.
        shared: one color scale for all channels of a layer, or each its own.

    Returns:
        The JSON answer of the command: {"run", "report", "layers": [...]}.
    """
    classifier = common.load()
    names = [classifier.layer_name(layer) for layer in layers] or [classifier.default_layer]
    picture = read_image(path, classifier.preprocess.channels)
    keep_inputs(common.out, common.overwrite, [path])
    session = Session.start(
        "activations", common, classifier, path=path, layers=names, channels=list(channels), count=count, shared=shared
    )
    seen = classifier.preprocessed([picture], classifier.views([picture]))
    logits, found = activations(classifier, seen, names)
    shown = session.folder.save_image("picture.jpg", thumbnail(picture, 640), quality=90)
    rows = [_layer_row(session, name, found[name][0].cpu().numpy(), channels, count, shared) for name in names]
    predicted = [
        {"index": best.index, "label": best.label, "probability": best.probability}
        for best in classifier.predictions(logits)[0]
    ]
    return session.finish(path=path, picture_shown=shown, predicted=predicted, layers=rows)


def _layer_row(
    session: Session, name: str, values: NDArray[np.float32], channels: Sequence[int], count: int, shared: bool
) -> dict[str, Any]:
    maps = _as_maps(values, name)
    chosen = _chosen(maps, channels, count, name)
    statistics = [
        {
            "index": index,
            "mean": float(channel.mean()),
            "max": float(channel.max()),
            "zeros": float((channel == 0).mean()),
            "drawn": index in chosen,
        }
        for index, channel in enumerate(maps)
    ]
    labels = [f"{index}  max {maps[index].max():.2g}" for index in chosen]
    picture = channel_grid(maps[chosen], labels, shared=shared)
    stem = file_stem(name)
    return {
        "layer": name,
        "shape": list(values.shape),
        "channels": statistics,
        "picture": session.folder.save_image(f"{stem}.png", picture),
        "array": session.folder.save_array(f"{stem}.npy", values),
        "scale": {"shared": shared, "low": float(maps[chosen].min()), "high": float(maps[chosen].max())},
    }


def _as_maps(values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """(K, h, w): a layer's output for one image with its channels first."""
    if values.ndim == 3:
        return values
    if values.ndim == 1:
        return values[:, None, None]
    if values.ndim == 2:  # tokens (T, K): a column of cells per channel
        return values.T[:, :, None]
    raise ModelError(f"the output of layer {name} has shape {values.shape} for one image; it cannot be drawn as maps")


def _chosen(maps: NDArray[np.float32], channels: Sequence[int], count: int, name: str) -> list[int]:
    for channel in channels:
        if not 0 <= channel < len(maps):
            raise OptionError(f"no channel {channel} in layer {name}; it has {len(maps)}, 0 to {len(maps) - 1}")
    if channels:
        return list(channels)
    strongest = np.argsort(-maps.mean(axis=(1, 2)), kind="stable")[:count]
    return [int(index) for index in strongest]
