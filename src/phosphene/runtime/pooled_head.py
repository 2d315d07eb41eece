"""The linear head of a network whose end no graph shows, told by the numbers of one pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phosphene.errors import PhospheneError
from phosphene.graph import LinearHead, is_passive, places_known, spatial_map, spatial_size
from phosphene.hooks import capture, is_scripted
from phosphene.runtime.layer_looks import LayerLooks
from phosphene.runtime.trials import near, trial
from phosphene.types import Layer

# What rounding makes of a mean, and of the difference between those of two images, as a share.
_SAME, _SAME_CHANGE = 1e-4, 1e-3
# Axes of which it is known that they are the picture's places.
_SURE = 2


class _Linear(NamedTuple):
    """A linear layer as it ran: what it was given (N, k), and what it gave (N, K)."""

    name: str
    weight: Tensor
    bias: Tensor | None
    given: Tensor
    output: Tensor


def pooled_head(looks: LayerLooks) -> LinearHead | None:
    """The linear layer that gives the scores, and the last layer whose mean over its places it is given.

    Two images of noise tell, by their values and by how these differ. So it is found where the code cannot be read as a
    graph, and where the mean is taken in a way of its own, also of maps with channels last and of tokens.

    Args:
        looks: at the layers of a network as it was written.

    Returns:
        The head, whose `node` is empty; None if no layer's mean gives the scores.
    """
    network = looks.network
    with network.lock, trial(looks.classifier.device):
        try:
            names = [layer.name for layer in reversed(looks.layers) if _may_be_averaged(layer, looks)]
            images = network.noise(torch.Size((looks.classifier.preprocess.channels, *looks.size)))
            with capture(network.module, names, tokens_first=looks.tokens_first(names)) as found, ExitStack() as stack:
                ran = _watched(network.module, stack)
                scores = network.rows(images).float()
            whole = [name for name in names if len(found.get(name, ())) == len(images)]  # (no rows of windows)
            maps = {name: spatial_map(found[name], name, images, looks.layout(name)) for name in whole}
        except (RuntimeError, PhospheneError):  # whatever it is, the pass itself will say so better
            return None
        means = {name: values.float().mean(dim=(2, 3)) for name, values in maps.items() if values[0, 0].numel() > 1}
        for linear in ran:
            if linear.output.shape == scores.shape and near(linear.output, scores, _SAME):
                for name, mean in means.items():
                    if _is_same(mean, linear.given):
                        return LinearHead("", linear.weight, linear.bias, name, linear=linear.name)
        own = (name for name, mean in means.items() if _is_same(mean, scores))
        return next((LinearHead("", None, None, name) for name in own), None)


def _is_same(mean: Tensor, given: Tensor) -> bool:
    if mean.shape != given.shape or not near(mean, given, _SAME):
        return False
    change = given[1:] - given[:-1]  # (a large constant part hides it)
    return bool(change.any()) and near(mean[1:] - mean[:-1], change, _SAME_CHANGE)


def _may_be_averaged(layer: Layer, looks: LayerLooks) -> bool:
    """Whether a layer has places of the picture, and in their order as far as is known."""
    if layer.rows != 1 or layer.calls != 1 or is_passive(layer) or places_known(layer) < _SURE:
        return False
    if layer.moved and len(layer.shape) == 2:  # (tokens by windows, say)
        return False
    return spatial_size(layer.shape, looks.size, looks.layout(layer.name)) is not None


def _watched(module: nn.Module, stack: ExitStack) -> list[_Linear]:
    """A list that is filled as linear layers and convolutions of one pixel run, the last first, while hooks are on."""
    ran: list[_Linear] = []
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear | nn.Conv2d) and not is_scripted(child):

            def hook(one: Any, given: tuple[Any, ...], output: Any, name: str = name) -> None:
                if given and isinstance(given[0], Tensor) and isinstance(output, Tensor):
                    ran[:0] = _as_linear(name, one, given[0], output)

            stack.callback(child.register_forward_hook(hook).remove)
    return ran


def _as_linear(name: str, layer: nn.Linear | nn.Conv2d, given: Tensor, output: Tensor) -> Iterator[_Linear]:
    if layer.weight.ndim > 2 and (layer.weight[0, 0].numel() > 1 or given[0, 0].numel() > 1):
        return
    if output.ndim in (2, 4) and given.shape[1] == layer.weight.shape[1]:  # (of groups it has fewer columns)
        values = given.detach().flatten(1).float(), output.detach().flatten(1).float()
        yield _Linear(name, torch.flatten(layer.weight, 1), layer.bias, *values)
