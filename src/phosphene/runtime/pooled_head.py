"""The linear head of a network, told by the numbers of one pass: of its graph's values, or of its layers' outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from phosphene.axes import Follow, has_places
from phosphene.graph import LinearHead, is_passive, nearest_module, places_known, spatial_map, spatial_size, with_values
from phosphene.hooks import capture
from phosphene.runtime.layer_looks import LayerLooks, tried_once
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


class _Told(NamedTuple):
    """A value in few numbers, so that not all need be kept.

    Args:
        mean: (1, C) over its places.
        cells: (1, C, 3) what is the same in whatever order they stand: mean square, smallest and largest.
        order: (1, C) a weighted sum, which is not.
    """

    mean: Tensor
    cells: Tensor
    order: Tensor


class _Run(NamedTuple):
    """A pass over one image.

    Args:
        scores: (1, K).
        linears: the linear layers, the last first.
        values: what tells of each value that has places, in the order in which they were made.
        flat: (1, k) other values of the graph, by node, among which is what a linear layer is given.
    """

    scores: Tensor
    linears: list[_Linear]
    values: dict[_Where, _Told]
    flat: dict[str, Tensor]


@tried_once
def pooled_head(looks: LayerLooks) -> LinearHead | None:
    """The linear layer that gives the scores, and the value whose mean over its places it is given.

    Two images of noise tell, by their values and by how these differ: so it does not matter how a mean is spelled. The
    values are those of the network's graph on the way to the linear layer, or where its code cannot be read as one the
    outputs of its layers; the last that fits, or of those that hold the same in another order the first.

    Args:
        looks: at the layers of a network as it was written.

    Returns:
        The head; None if no mean gives the scores.

    Raises:
        ModelError: if the network does not run on images of this size.
        ResourceError: if there is no memory for one image.
    """
    network, device = looks.network, looks.classifier.device
    image = torch.Size((looks.classifier.preprocess.channels, *looks.size))
    run = _of_layers if network.own_traced is None else _of_graph
    with network.lock, trial(device):
        images = network.noise(image)
        # (One after the other, as all values of a pass are kept.)
        one, other = in_batches(lambda start, stop: run(looks, images[start:stop]), 2, 1, device, image)
        scores = torch.cat([one.scores, other.scores])
        for first, second in zip(one.linears, other.linears, strict=False):
            given, output = torch.cat([first.given, second.given]), torch.cat([first.output, second.output])
            if (
                output.shape == scores.shape
                and near(output, scores, _SAME)
                and torch.equal(first.weight, second.weight)
            ):
                where = _averaged(one, other, given, looks)
                if where is not None:
                    layer = next((name for name, layer in network.module.named_modules() if _has(layer, first)), None)
                    return LinearHead(*where, torch.flatten(first.weight.detach(), 1), first.bias, layer)
        where = _averaged(one, other, scores, looks)
    return None if where is None else LinearHead(*where, None, None)


def _has(layer: Any, linear: _Linear) -> bool:
    weight = getattr(layer, "weight", None)
    return isinstance(weight, Tensor) and weight.shape == linear.weight.shape and torch.equal(weight, linear.weight)


def _averaged(one: _Run, other: _Run, given: Tensor, looks: LayerLooks) -> _Where | None:
    """Of which value (N, k) numbers are the mean over places."""
    there = [where for where in one.values if where in other.values]
    traced = looks.network.own_traced
    if traced is not None:
        flat = (name for name, value in reversed(one.flat.items()) if torch.equal(value, given[:1]))
        before = _before(traced, next(flat, None))
        there = [where for where in there if where[0] in before]
    fitting = [
        where for where in there if _is_same(torch.cat([one.values[where].mean, other.values[where].mean]), given)
    ]
    if not fitting:
        return None
    last = one.values[fitting[-1]]
    first = next(told for where in fitting if near((told := one.values[where]).cells, last.cells, _SAME))
    return next(where for where in reversed(fitting) if near(one.values[where].order, first.order, _SAME))


def _before(traced: fx.GraphModule, name: str | None) -> set[str]:
    """The names of the nodes that one is computed from; None for the output."""
    ends = [node for node in traced.graph.nodes if (node.op == "output" if name is None else node.name == name)]
    found: set[str] = set()
    while ends:
        node = ends.pop()
        if node.name not in found:
            found.add(node.name)
            ends += node.all_input_nodes
    return found


def _of_graph(looks: LayerLooks, images: Tensor) -> _Run:
    """A pass over the values of a network's graph."""
    traced = looks.network.own_traced
    assert traced is not None
    nodes = [node for node in traced.graph.nodes if node.op not in ("output", "get_attr")]
    with _Linears() as linears, Follow() as follow:
        output, values = looks.classifier.run(with_values(traced, nodes), follow.name(images, "NCPP"))
    made = [(node, value) for node, value in zip(nodes, values, strict=True) if isinstance(value, Tensor)]
    layouts = {node: _layout(follow, value, looks) for node, value in made}
    maps = (((node.name, nearest_module(node), layouts[node]), value) for node, value in made if layouts[node])
    scores = looks.classifier.rows(output, len(images)).float()
    lengths = {scores.shape[1], *(one.given.shape[1] for one in linears.ran)}
    flat = {
        node.name: value.detach().flatten(1).float()
        for node, value in made
        if value.ndim > 1 and len(value) == 1 and value.numel() in lengths
    }
    return _Run(scores, linears.ran, _read(maps, images), flat)


def _layout(follow: Follow, value: Tensor, looks: LayerLooks) -> Layout | None:
    """Which axis of a value of the graph is which, if it has places of the picture in their order; else None."""
    if value.ndim not in (3, 4) or len(value) != 1:
        return None
    axes, layout = follow.axes(value), follow.layout(value)
    if axes is None and value.ndim == 4:
        layout = "NCHW"
    elif not has_places(axes) or (value.ndim == 3 and (follow.moves or follow.made(value))):  # (by windows, say)
        return None
    # (Known rows and columns may have other proportions than the picture.)
    sides = axes is not None and value.ndim == 4 and all(len(axis) == 1 for axis in axes)
    return layout if sides or spatial_size(tuple(value.shape[1:]), looks.size, layout) is not None else None


def _of_layers(looks: LayerLooks, images: Tensor) -> _Run:
    """A pass over the layers of a network whose code is no graph."""
    names = [layer.name for layer in looks.layers if _may_be_averaged(layer, looks)]
    with _Linears() as linears, capture(looks.network.module, names, tokens_first=looks.tokens_first(names)) as found:
        scores = looks.network.rows(images).float()
    # (No rows of windows.)
    maps = ((("", name, looks.layout(name)), found[name]) for name in names if len(found.get(name, ())) == len(images))
    return _Run(scores, linears.ran, _read(maps, images), {})


def _read(maps: Iterable[tuple[_Where, Tensor]], images: Tensor) -> dict[_Where, _Told]:
    found = {}
    for where, value in maps:
        cells = spatial_map(value.detach(), where[1], images, where[2]).float().flatten(2)
        if cells.shape[2] > 1:
            extremes = torch.stack([cells.square().mean(2), cells.amin(2), cells.amax(2)], dim=2)
            weights = torch.linspace(1, 2, cells.shape[2], dtype=cells.dtype, device=cells.device).square()
            found[where] = _Told(cells.mean(2), extremes, cells @ weights)
    return found


def _is_same(mean: Tensor, given: Tensor) -> bool:
    if mean.shape != given.shape or not near(mean, given, _SAME):
        return False
    change = given[1:] - given[:-1]  # (a large constant part hides it)
    return bool(change.any()) and near(mean[1:] - mean[:-1], change, _SAME_CHANGE)


def _may_be_averaged(layer: Layer, looks: LayerLooks) -> bool:
    """Whether a layer has places of the picture, and in their order as far as is known."""
    if layer.rows != 1 or layer.calls != 1 or is_passive(layer) or places_known(layer) < _SURE:
        return False
    if (layer.moved or layer.made) and len(layer.shape) == 2:  # (tokens by windows, say)
        return False
    return spatial_size(layer.shape, looks.size, looks.layout(layer.name)) is not None


class _Linears(TorchFunctionMode):
    """Keeps what linear layers and convolutions of one pixel are given and give, the last first."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[_Linear] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _LINEAR and not torch._C._functorch.is_functorch_wrapped_tensor(output):  # (none is seen outside)
            given, weight, bias = (*args, *(None,) * 3)[:3]
            named = kwargs or {}
            given, weight, bias = named.get("input", given), named.get("weight", weight), named.get("bias", bias)
            pixel = weight.ndim == 2 or (weight.ndim == 4 and weight.shape[2:].numel() == given.shape[2:].numel() == 1)
            # (Of groups a weight has fewer columns.)
            if pixel and output.ndim in (2, 4) and given.shape[1] == weight.shape[1]:
                values = given.detach().flatten(1).float(), output.detach().flatten(1).float()
                self.ran.insert(0, _Linear(weight.detach(), bias, *values))
        return output
