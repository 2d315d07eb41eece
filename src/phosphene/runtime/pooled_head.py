"""The linear head of a network, told by the numbers of one pass: of its graph's values, or of its layers' outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from phosphene.axes import Follow, has_places
from phosphene.errors import PhospheneError, ResourceError
from phosphene.graph import LinearHead, is_passive, nearest_module, places_known, spatial_map, spatial_size, with_values
from phosphene.hooks import capture
from phosphene.runtime.layer_looks import LayerLooks
from phosphene.runtime.micro_batches import in_batches
from phosphene.runtime.trials import near, trial
from phosphene.types import Layer, Layout

# What rounding makes of a mean, and of the difference between those of two images, as a share.
_SAME, _SAME_CHANGE = 1e-4, 1e-3
# Axes of which it is known that they are the picture's places.
_SURE = 2

# Functions, and the operations that exported networks are of.
_LINEAR = (F.linear, F.conv2d, torch.conv2d, torch.ops.aten.linear.default, torch.ops.aten.conv2d.default)

# A value that has places: its node of the graph, if there is one, the nearest layer, and which axis is which.
_Where = tuple[str, str, Layout | None]


class _Linear(NamedTuple):
    """A linear layer as it ran: what it was given (N, k), and what it gave (N, K)."""

    weight: Tensor
    bias: Tensor | None
    given: Tensor
    output: Tensor


class _Run(NamedTuple):
    """A pass: the scores (N, K), the means (N, C) of values over their places and the linear layers, the last first."""

    scores: Tensor
    means: dict[_Where, Tensor]
    linears: list[_Linear]


def pooled_head(looks: LayerLooks) -> LinearHead | None:
    """The linear layer that gives the scores, and the last value whose mean over its places it is given.

    Two images of noise tell, by their values and by how these differ: so it does not matter how a mean is spelled. The
    values are all of the network's graph, or where its code cannot be read as one the outputs of its layers.

    Args:
        looks: at the layers of a network as it was written.

    Returns:
        The head; None if no mean gives the scores.

    Raises:
        ResourceError: if there is no memory for one image.
    """
    network, device = looks.network, looks.classifier.device
    image = torch.Size((looks.classifier.preprocess.channels, *looks.size))
    values = _of_layers if network.own_traced is None else _of_graph
    with network.lock, trial(device):
        images = network.noise(image)
        try:  # (one after the other, as all values of a pass are kept)
            one, other = in_batches(lambda start, stop: _run(values, looks, images[start:stop]), 2, 1, device, image)
        except ResourceError:
            raise
        except (RuntimeError, PhospheneError):  # whatever it is, the pass itself will say so better
            return None
    scores = torch.cat([one.scores, other.scores])
    means = {where: torch.cat([mean, other.means[where]]) for where, mean in one.means.items() if where in other.means}
    for first, second in zip(one.linears, other.linears, strict=False):
        given, output = torch.cat([first.given, second.given]), torch.cat([first.output, second.output])
        if first.weight is second.weight and output.shape == scores.shape and near(output, scores, _SAME):
            for where, mean in means.items():
                if _is_same(mean, given):
                    named = network.module.named_modules()
                    name = next((name for name, layer in named if getattr(layer, "weight", None) is first.weight), None)
                    return LinearHead(*where, torch.flatten(first.weight, 1), first.bias, name)
    own = (where for where, mean in means.items() if _is_same(mean, scores))
    return next((LinearHead(*where, None, None) for where in own), None)


def _run(values: Any, looks: LayerLooks, images: Tensor) -> _Run:
    with _Linears() as linears:
        found = values(looks, images)
        scores = next(found)
        maps = ((where, value.float()) for where, value in found if value[0, 0].numel() > 1)
        return _Run(scores, {where: value.mean(dim=(2, 3)) for where, value in maps}, linears.ran)


def _of_graph(looks: LayerLooks, images: Tensor) -> Iterator[Any]:
    """The scores, then where it is and the map of each value of the graph that has places, the last first."""
    traced = looks.network.own_traced
    assert traced is not None
    nodes = [node for node in traced.graph.nodes if node.op not in ("output", "get_attr")]
    with Follow() as follow:
        output, values = looks.classifier.run(with_values(traced, nodes), follow.name(images, "NCPP"))
    yield looks.classifier.rows(output, len(images)).float()
    for node, value in zip(reversed(nodes), reversed(values), strict=True):
        if isinstance(value, Tensor) and value.ndim in (3, 4) and len(value) == len(images):
            axes, layout = follow.axes(value), follow.layout(value)
            if axes is None and value.ndim == 4:
                layout = "NCHW"
            elif not has_places(axes) or (value.ndim == 3 and follow.moves):  # (tokens by windows, say)
                continue
            if spatial_size(tuple(value.shape[1:]), looks.size, layout) is not None:
                yield (node.name, nearest_module(node), layout), spatial_map(value, node.name, images, layout)


def _of_layers(looks: LayerLooks, images: Tensor) -> Iterator[Any]:
    """The scores, then where it is and the map of each layer's output that has places, the last first."""
    names = [layer.name for layer in reversed(looks.layers) if _may_be_averaged(layer, looks)]
    with capture(looks.network.module, names, tokens_first=looks.tokens_first(names)) as found:
        yield looks.network.rows(images).float()
    for name in names:
        if len(found.get(name, ())) == len(images):  # (no rows of windows)
            layout = looks.layout(name)
            yield ("", name, layout), spatial_map(found[name], name, images, layout)


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


class _Linears(TorchFunctionMode):
    """Keeps what linear layers and convolutions of one pixel are given and give, the last first."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[_Linear] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _LINEAR:
            given, weight, bias = (*args, *(None,) * 3)[:3]
            named = kwargs or {}
            given, weight, bias = named.get("input", given), named.get("weight", weight), named.get("bias", bias)
            pixel = weight.ndim == 2 or (weight[0, 0].numel() == 1 and given[0, 0].numel() == 1)
            # (Of groups a weight has fewer columns.)
            alone = not torch._C._functorch.is_functorch_wrapped_tensor(
                output
            )  # (nothing within a vmap is seen outside)
            if alone and pixel and output.ndim in (2, 4) and given.shape[1] == weight.shape[1]:
                values = given.detach().flatten(1).float(), output.detach().flatten(1).float()
                self.ran.insert(0, _Linear(weight, bias, *values))
        return output
