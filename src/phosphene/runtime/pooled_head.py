"""The linear head of a network whose end no graph shows, told by the numbers of one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from phosphene.errors import PhospheneError
from phosphene.graph import LinearHead, is_passive, places_known, spatial_map, spatial_size
from phosphene.hooks import capture
from phosphene.runtime.layer_looks import LayerLooks
from phosphene.runtime.trials import near, trial
from phosphene.types import Layer

# Of what the mean adds to the scores, as a share: more than rounding makes of it.
_SAME = 1e-4


def pooled_head(looks: LayerLooks) -> LinearHead | None:
    """The last linear layer, and the last layer whose mean over its places it takes to the scores of noise.

    So it is found where the code cannot be read as a graph, and where the mean is taken in a way of its own, also of
    maps with channels last and of tokens.

    Args:
        looks: at the layers of a network as it was written.

    Returns:
        The head, whose `node` is empty; None if no layer's mean gives the scores.
    """
    network = looks.network
    names = [layer.name for layer in reversed(looks.layers) if _has_known_places(layer, looks)]
    with network.lock, trial(looks.classifier.device):
        images = network.noise(torch.Size((looks.classifier.preprocess.channels, *looks.size)))
        try:
            with capture(network.module, names, tokens_first=looks.tokens_first(names)) as found:
                scores = network.rows(images).float()
            whole = [name for name in names if len(found.get(name, ())) == len(images)]  # (no rows of windows)
            maps = {name: spatial_map(found[name], name, images, looks.layout(name)) for name in whole}
            means = {name: values.float().mean(dim=(2, 3)) for name, values in maps.items() if values[0, 0].numel() > 1}
            return _head_of(means, scores, network.module)
        except (RuntimeError, PhospheneError):  # whatever it is, the pass itself will say so better
            return None


def _head_of(means: Mapping[str, Tensor], scores: Tensor, module: nn.Module) -> LinearHead | None:
    for weight, bias in _linear(module, scores.shape[1]):
        added = scores if bias is None else scores - bias.float()
        for name, mean in means.items():
            if mean.shape[1] == weight.shape[1] and near(mean @ weight.float().T, added, _SAME):
                return LinearHead("", weight, bias, name)
    own = (name for name, mean in means.items() if mean.shape == scores.shape and near(mean, scores, _SAME))
    return next((LinearHead("", None, None, name) for name in own), None)


def _has_known_places(layer: Layer, looks: LayerLooks) -> bool:
    if layer.rows != 1 or layer.calls != 1 or is_passive(layer) or not places_known(layer):
        return False
    return spatial_size(layer.shape, looks.size, looks.layout(layer.name)) is not None


def _linear(module: nn.Module, classes: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """(weight (K, k), bias) of the layers that may give the scores, the last first."""
    for child in reversed(list(module.modules())):
        if isinstance(child, nn.Linear) and child.out_features == classes:
            yield child.weight, child.bias
        elif isinstance(child, nn.Conv2d) and child.out_channels == classes and child.weight[0, 0].numel() == 1:
            yield torch.flatten(child.weight, 1), child.bias  # (of groups it has fewer columns than there are channels)
