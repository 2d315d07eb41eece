"""Deep features of pictures: the principal components of a middle layer, on the working grid of each picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phosphene.attribution.result import even_grid
from phosphene.geometry import lay_on_original, whole_view
from phosphene.graph import FunctionModule, places_known, spatial_map, spatial_size
from phosphene.images import Picture, picture_size
from phosphene.localization.principal_components import principal_components
from phosphene.runtime import Prepared, activations
from phosphene.types import Layer, Size, View

# Of the image's pixels to a cell: the grid on which edges and parts are told apart, and not yet whole objects.
_FINEST, _COARSEST = 8, 16


def deep_features(
    classifier: Prepared, pictures: Sequence[Picture], size: Size, grids: Sequence[Size], count: int
) -> list[NDArray[np.floating] | None]:
    """What each place of each picture looks like to a middle layer: (h, w, count) on its grid, see deep_feature_layer.

    Args:
        classifier: the network.
        pictures: any; one that comes several times is looked at once.
        size: that the whole frame is shown at.
        grids: (h, w) of the answer, per picture.
        count: principal components.

    Returns:
        One array per picture; None for each where the network has no such layer, or is a function and shows none.
    """
    if isinstance(classifier.network.module, FunctionModule):
        return [None] * len(pictures)
    looks = classifier.network.looks(size)
    layer = deep_feature_layer(looks.layers, looks.size, looks.changes_with_picture)
    if layer is None:
        return [None] * len(pictures)
    grid_of = dict(zip(map(id, pictures), grids, strict=True))
    found: dict[int, NDArray[np.floating]] = {}
    for picture in {id(picture): picture for picture in pictures}.values():
        view = whole_view(picture_size(picture), size)
        image = classifier.preprocessed([picture], [view])
        output = activations(classifier, image, [layer])[1][layer]
        values = spatial_map(output, f"layer {layer}", image, classifier.layout(layer))[0]
        parts = principal_components(values.cpu().double().numpy(), count)
        found[id(picture)] = _laid(torch.from_numpy(parts), view, grid_of[id(picture)])
    return [found[id(picture)] for picture in pictures]


def _laid(parts: Tensor, view: View, grid: Size) -> NDArray[np.floating]:
    """(h, w, count): each component on the working grid."""
    offset, stride = even_grid(view.size, (parts.shape[0], parts.shape[1]))
    laid = [lay_on_original(part, offset, stride, view, size=grid) for part in parts.unbind(-1)]
    return np.asarray(torch.stack(laid, dim=-1).numpy())


def deep_feature_layer(
    layers: Sequence[Layer], size: Size, sees_picture: Callable[[str], bool] = lambda _: True
) -> str | None:
    """The last layer with at most 8 (and less than 16) pixels of the image to a cell, at the least depth of the module
    tree that has one: the block that ends a stage, not a convolution within it. None if there is none.

    Of those whose axes are known to be places, if there are any: weights may have the proportions of a map, too.

    Args:
        layers: what ran, in the order of completion.
        size: of the images.
        sees_picture: whether what a layer gives changes with the picture; asked of those of which little is known.

    Example:
        >>> grids = {"stem": (8, 112, 112), "a.0": (8, 28, 28), "a.1.conv": (8, 28, 28), "a.1": (8, 28, 28),
        ...          "b.0.conv": (8, 28, 28), "b.0": (8, 14, 14)}
        >>> layers = [Layer(name, "Block", shape, i) for i, (name, shape) in enumerate(grids.items())]
        >>> deep_feature_layer(layers, (224, 224))
        'a.1'
    """
    fitting = []
    for layer in layers:
        grid = spatial_size(layer.shape, size, layer.layout)
        if layer.rows == 1 and grid is not None and _FINEST * grid[0] <= size[0] < _COARSEST * grid[0]:
            fitting.append(layer)
    for known in (2, 1, 0):
        names = [layer.name for layer in fitting if places_known(layer) == known]
        for depth in sorted({name.count(".") for name in names}):
            for name in reversed([name for name in names if name.count(".") == depth]):
                if known == 2 or sees_picture(name):
                    return name
    return None
