"""What the CAM family shares: one map per layer from its activations and gradients, and several layers made one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from phosphene.attribution.result import attribution, even_grid
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.geometry import to_network_size
from phosphene.graph import LayerName, spatial_map
from phosphene.runtime import layer_gradients, prepare
from phosphene.types import Attribution, Target

Layers = LayerName | tuple[str, ...]
MapOf = Callable[[Tensor, Tensor], Tensor]


def layer_names(classifier: Classifier, layer: Layers | None) -> tuple[str, ...]:
    """The dotted names of one layer, of several (a tuple, or joined by +), or of the default for None."""
    prepared = prepare(classifier)
    given: Sequence[Any] = (
        layer if isinstance(layer, tuple) else layer.split("+") if isinstance(layer, str) else [layer]
    )
    names = tuple(prepared.layer_name(item) for item in given)
    if not names or len(set(names)) < len(names):
        raise OptionError(f"layer={'+'.join(names)}: name each layer once, and at least one")
    return names


def gradient_maps(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    layer: Layers | None,
    relu: bool,
    batch_size: int | None,
    map_of: MapOf,
) -> Attribution:
    """The Attribution of `map_of(activations, gradients)`, both (N, k, h, w), at each layer, fused."""
    names = layer_names(classifier, layer)
    found = layer_gradients(classifier, images, target, names, batch_size=batch_size)
    maps = []
    for name in names:
        layout, what = prepare(classifier).layout(name), f"layer {name}"
        both = (found.activations[name], found.gradients[name])
        maps.append(map_of(*(spatial_map(values, what, images, layout) for values in both)))
    return fused(maps, names, images, target, found.score, relu)


def fused(
    maps: Sequence[Tensor], names: tuple[str, ...], images: Tensor, target: Target, score: Tensor, relu: bool
) -> Attribution:
    """The Attribution of one map (N, h, w) as it is, or of several layers' maps made one.

    Several are each divided by their largest magnitude, so that layers of different scales weigh the same, brought to
    the finest of their grids and averaged: a reading of ours, as papers and libraries differ.
    """
    maps = [values.clamp(min=0) if relu else values for values in maps]
    if len(maps) > 1:
        finest = max((tuple(values.shape[-2:]) for values in maps), key=lambda grid: grid[0] * grid[1])
        maps = [torch.stack([_resized(_scaled(values), (finest[0], finest[1])) for values in maps]).mean(dim=0)]
    return attribution(maps[0], images, target, score, layer="+".join(names))


def _scaled(values: Tensor) -> Tensor:
    largest = values.abs().amax(dim=(1, 2), keepdim=True)
    return values / torch.where(largest > 0, largest, torch.ones_like(largest))


def _resized(values: Tensor, cells: tuple[int, int]) -> Tensor:
    offset, stride = even_grid(cells, (int(values.shape[-2]), int(values.shape[-1])))
    return to_network_size(values, offset, stride, cells)
