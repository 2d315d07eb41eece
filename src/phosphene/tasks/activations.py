"""activations: what the channels of layers show for one picture -> grids and arrays, a row for each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from phosphene.errors import ModelError, OptionError
from phosphene.images import Picture
from phosphene.render import channel_grid
from phosphene.runtime import Prepared, activations
from phosphene.store import ActivationRow, Asset, ChannelRow, ChannelScale, Row, file_stem
from phosphene.types import Prediction


@dataclass(frozen=True)
class ActivationsConfig:
    """Which channels of which layers are drawn.

    Args:
        layers: dotted names; none for the default layer.
        channels: the channels to draw; none for the `count` with the largest mean.
        count: how many of the strongest channels to draw.
        shared: one color scale for all channels of a layer, or each its own.
    """

    layers: tuple[str, ...] = ()
    channels: tuple[int, ...] = ()
    count: int = 24
    shared: bool = True
    rows: ClassVar[type[Row]] = ActivationRow

    def names(self, classifier: Prepared) -> tuple[str, ...]:
        """The layers by name.

        Raises:
            NotFoundError: for a layer that there is not.
        """
        return tuple(classifier.layer_name(layer) for layer in self.layers) or (classifier.default_layer,)

    def described(self, classifier: Prepared) -> dict[str, Any]:
        """All options, as the manifest of a run has them."""
        names, channels = list(self.names(classifier)), list(self.channels)
        return {"layers": names, "channels": channels, "count": self.count, "shared": self.shared}

    def run(self, classifier: Prepared, picture: Picture) -> tuple[tuple[Prediction, ...], Iterator[ActivationRow]]:
        """What the network says of the picture, and a row for each layer, drawn when it is asked for."""
        names = self.names(classifier)
        seen = classifier.preprocessed([picture], classifier.views([picture]))
        logits, found = activations(classifier, seen, names)
        rows = (self._row(name, found[name][0].cpu().numpy()) for name in names)
        return tuple(classifier.predictions(logits)[0]), rows

    def _row(self, name: str, values: NDArray[np.float32]) -> ActivationRow:
        maps = channel_maps(values, name)
        chosen = _chosen(maps, self.channels, self.count, name)
        stem = file_stem(name)
        labels = [f"{index}  max {maps[index].max():.2g}" for index in chosen]
        return ActivationRow(
            name,
            name,
            values.shape,
            channels=tuple(
                ChannelRow(
                    index, float(values.mean()), float(values.max()), float((values == 0).mean()), index in chosen
                )
                for index, values in enumerate(maps)
            ),
            picture=Asset(f"{stem}.png", channel_grid(maps[chosen], labels, shared=self.shared)),
            array=Asset(f"{stem}.npy", values),
            scale=ChannelScale(self.shared, float(maps[chosen].min()), float(maps[chosen].max())),
        )


def channel_maps(values: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """(K, h, w): a layer's output for one image with its channels first.

    Raises:
        ModelError: if it has no such form.
    """
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
