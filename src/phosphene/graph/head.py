"""The linear head of a network, which class activation maps need."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from phosphene.errors import ModelError

# How long a side of a pool's window is: so many places, or as many as its input has rows or columns.
Side = int | Literal["rows", "columns"]
Window = tuple[Side, Side]

# Modules that pass on values unchanged in eval mode (softmax aside).
_PASSIVE_MODULES = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Flatten, nn.Identity, nn.Softmax, nn.LogSoftmax)
_PASSIVE_FUNCTIONS = {torch.flatten, F.dropout, F.dropout2d, torch.reshape, torch.squeeze, operator.getitem}
_PASSIVE_METHODS = {"flatten", "view", "reshape", "squeeze", "contiguous"}


@dataclass(frozen=True)
class LinearHead:
    """The end of a network that class activation maps need: features -> mean over places -> linear.

    Args:
        node: the FX node whose value (N, k, h, w) is averaged over its places; empty where it is the output of `layer`
            that is, and no graph says so.
        weight: (K, k), or None where the averaged channels are the classes themselves.
        bias: (K,) or None.
        layer: the module the averaged value comes from, for reports.
        window: (h, w) of places that a pool of fixed size averages, a number or as many as the features have; None
            for a pool of all places.
        linear: dotted name of the linear layer, where a pass told of it and no graph.
    """

    node: str
    weight: Tensor | None
    bias: Tensor | None
    layer: str
    window: Window | None = None
    linear: str | None = None


def linear_head(traced: fx.GraphModule, scores: fx.Node) -> LinearHead:
    """The linear head of a traced network.

    Args:
        traced: the graph.
        scores: the node that holds the class scores, out of `outputs(traced)`.

    Raises:
        ModelError: naming the operation that stands where pooling or a linear layer was expected.
    """
    node = skip_passive(traced, scores)
    weight, bias, features = _linear_parameters(traced, node)
    pool = skip_passive(traced, features if weight is not None else node)
    given = _averaged(traced, pool)
    if given is None:
        raise ModelError(
            f"no class activation map: the network ends in '{_describe(traced, pool)}', not in global average pooling "
            "and one linear layer; use grad_cam, which needs neither"
        )
    averaged = skip_passive(traced, given, flatten=False)
    return LinearHead(averaged.name, weight, bias, _nearest_module(averaged), _window(traced, pool))


def skip_passive(traced: fx.GraphModule, node: Any, *, flatten: bool = True) -> fx.Node:
    """Down through what does not change the values: dropout in eval mode, flatten, reshape, identity."""
    while isinstance(node, fx.Node):
        if node.op == "call_module":
            child = traced.get_submodule(str(node.target))
            passive = isinstance(child, _PASSIVE_MODULES) and not isinstance(child, nn.Softmax | nn.LogSoftmax)
            passive = passive or (type(child) is nn.Sequential and len(child) == 0)
            passive = passive and (flatten or not isinstance(child, nn.Flatten))
        elif node.op == "call_function":
            passive = node.target in _PASSIVE_FUNCTIONS - {operator.getitem} and (
                flatten or node.target in (F.dropout, F.dropout2d)
            )
        else:
            passive = flatten and node.op == "call_method" and node.target in _PASSIVE_METHODS
        if not passive or not node.args:
            return node
        node = node.args[0]
    raise ModelError("no class activation map: the network's output does not depend on its input; use grad_cam")


def _linear_parameters(traced: fx.GraphModule, node: fx.Node) -> tuple[Tensor | None, Tensor | None, Any]:
    """(weight, bias, input node) of the last linear layer or 1 x 1 convolution after pooling; else Nones."""
    if node.op == "call_module":
        child = traced.get_submodule(str(node.target))
        if isinstance(child, nn.Linear):
            return child.weight, child.bias, _argument(node, 0, "input")
        if (
            isinstance(child, nn.Conv2d)
            and _is_pointwise(child)
            and _averaged(traced, skip_passive(traced, _argument(node, 0, "input"))) is not None
        ):
            return torch.flatten(child.weight, 1), child.bias, _argument(node, 0, "input")
    if node.op == "call_function" and node.target is F.linear:
        weight, bias = (_parameter(traced, _argument(node, *one)) for one in ((1, "weight"), (2, "bias")))
        return weight, bias, _argument(node, 0, "input")
    return None, None, node


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if place < len(node.args) else node.kwargs.get(name)


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == (1, 1) and convolution.groups == 1


def _parameter(traced: fx.GraphModule, node: Any) -> Tensor | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = traced
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def _averaged(traced: fx.GraphModule, node: fx.Node) -> Any:
    """What a node takes the mean of over all rows and columns; None if it does something else."""
    given = _argument(node, 0, "input")
    if node.op == "call_module":
        child = traced.get_submodule(str(node.target))
        whole = isinstance(child, nn.AdaptiveAvgPool2d) and _is_one(child.output_size)
        return given if whole or _window(traced, node) is not None else None
    if node.op == "call_function" and node.target is F.adaptive_avg_pool2d:
        return given if _is_one(_argument(node, 1, "output_size")) else None
    if node.op == "call_function" and node.target is F.avg_pool2d:
        return given if _window(traced, node) is not None else None
    axes, keeps = _mean(node)
    if axes in ([-2, -1], [2, 3]):
        return given
    if len(axes) == 1 and isinstance(given, fx.Node):  # in two steps
        inner, kept = _mean(given)
        if len(inner) == 1 and axes[0] in _SECOND_STEP.get((inner[0] % 4, kept), ()):
            return _argument(given, 0, "input")
        if axes[0] in (2, -1) and not keeps and _flattens_places(given):
            return _argument(given, 0, "input")
    return None


# Which axis is the other one of places, once the mean over one was taken: by that one, and whether it was kept.
_SECOND_STEP = {(3, False): (2, -1), (2, False): (2, -1), (3, True): (2, -2), (2, True): (3, -1)}


def _mean(node: fx.Node) -> tuple[list[int], bool]:
    """(the axes that a node takes the mean over, sorted; whether it keeps them); no axes for another node."""
    if node.target not in (torch.mean, "mean") or node.op not in ("call_function", "call_method"):
        return [], False
    given = node.kwargs.get("dim", node.kwargs.get("axis", node.args[1] if len(node.args) > 1 else ()))
    axes = [*given] if isinstance(given, list | tuple) else [given, *_numbers(node.args[2:])]
    numbers = _numbers(axes)
    return (sorted(numbers) if len(numbers) == len(axes) else []), bool(_argument(node, 2, "keepdim"))


def _numbers(values: Any) -> list[int]:
    return [one for one in values if isinstance(one, int) and not isinstance(one, bool)]


def _flattens_places(node: fx.Node) -> bool:
    whole = _argument(node, 2, "end_dim") in (None, -1, 3)
    return whole and node.target in (torch.flatten, "flatten") and _argument(node, 1, "start_dim") in (2, -2)


def _is_one(size: Any) -> bool:
    return size == 1 or (isinstance(size, list | tuple) and list(size) == [1, 1])


def _window(traced: fx.GraphModule, node: fx.Node) -> Window | None:
    """Places that a pool of fixed size averages: it is one of all where the features have as many."""
    kernel, padding, over = None, _argument(node, 3, "padding") or 0, _argument(node, 4, "ceil_mode")
    if node.op == "call_module" and isinstance(child := traced.get_submodule(str(node.target)), nn.AvgPool2d):
        kernel, padding, over = child.kernel_size, child.padding, child.ceil_mode
    elif node.op == "call_function" and node.target is F.avg_pool2d:
        kernel = _argument(node, 1, "kernel_size")
    if kernel is None or padding not in (0, (0, 0), [0, 0]) or over:  # (past the edge it averages what there is)
        return None
    features = _argument(node, 0, "input")
    if _is_size(kernel, features):
        return "rows", "columns"
    sides = [_side(side, features) for side in (kernel if isinstance(kernel, list | tuple) else (kernel, kernel))]
    if not 1 <= len(sides) <= 2 or sides[0] is None or sides[-1] is None:
        return None
    return sides[0], sides[-1]


_SIDES: dict[int, Side] = {2: "rows", -2: "rows", 3: "columns", -1: "columns"}


def _is_size(value: Any, features: Any) -> bool:
    """Whether a value of the graph is (rows, columns) of the features, as in `x.size()[2:]`."""
    if not isinstance(value, fx.Node) or value.target is not operator.getitem:
        return False
    return value.args[1] in (slice(2, None), slice(-2, None)) and _is_shape(value.args[0], features)


def _is_shape(value: Any, features: Any) -> bool:
    if not isinstance(value, fx.Node) or not value.args or value.args[0] is not features:
        return False
    return (value.target == "size" and len(value.args) == 1) or (value.target is getattr and value.args[1] == "shape")


def _side(value: Any, features: Any) -> Side | None:
    """A number, or what of the features a value of the graph is as long as, as in `x.size(3)` or `x.shape[3]`."""
    if isinstance(value, int):
        return value
    axis: Any = None
    if isinstance(value, fx.Node) and value.target == "size" and value.args[:1] == (features,):
        axis = _argument(value, 1, "dim")
    elif isinstance(value, fx.Node) and value.target is operator.getitem and _is_shape(value.args[0], features):
        axis = value.args[1]
    return _SIDES.get(axis) if isinstance(axis, int) else None


def _nearest_module(node: fx.Node) -> str:
    """The closest module below a node; what functions follow it is appended."""
    functions: list[str] = []
    while node.op not in ("call_module", "placeholder"):
        functions.append(str(getattr(node.target, "__name__", node.target)))
        below = [argument for argument in node.args if isinstance(argument, fx.Node)]
        if not below:
            break
        node = below[0]
    return " + ".join([str(node.target), *reversed(functions)])


def _describe(traced: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(traced.get_submodule(str(node.target))).__name__})"
    return str(getattr(node.target, "__name__", node.target))
