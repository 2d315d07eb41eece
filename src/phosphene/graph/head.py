"""The linear head of a network, which class activation maps need."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from phosphene.errors import ModelError
from phosphene.types import Size

# Modules that pass on values unchanged in eval mode (softmax aside).
_PASSIVE_MODULES = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Flatten, nn.Identity, nn.Softmax, nn.LogSoftmax)
_PASSIVE_FUNCTIONS = {torch.flatten, F.dropout, F.dropout2d, torch.reshape, torch.squeeze, operator.getitem}
_PASSIVE_METHODS = {"flatten", "view", "reshape", "squeeze", "contiguous"}


@dataclass(frozen=True)
class LinearHead:
    """The end of a network that class activation maps need: features -> mean over places -> linear.

    Args:
        node: the FX node whose value (N, k, h, w) is averaged over its places.
        weight: (K, k), or None where the averaged channels are the classes themselves.
        bias: (K,) or None.
        layer: the module the averaged value comes from, for reports.
        window: (h, w) of places that a pool of fixed size averages; None for a pool of all places.
    """

    node: str
    weight: Tensor | None
    bias: Tensor | None
    layer: str
    window: Size | None = None


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
    return given if _mean_axes(node) in ([-2, -1], [2, 3]) else None


def _mean_axes(node: fx.Node) -> list[int]:
    """The axes that a node takes the mean over, sorted; none of another node."""
    if node.target not in (torch.mean, "mean") or node.op not in ("call_function", "call_method"):
        return []
    given = node.kwargs.get("dim", node.kwargs.get("axis", node.args[1] if len(node.args) > 1 else ()))
    axes = [*given] if isinstance(given, list | tuple) else []
    return sorted(axes) if all(isinstance(axis, int) for axis in axes) else []


def _is_one(size: Any) -> bool:
    return size == 1 or (isinstance(size, list | tuple) and list(size) == [1, 1])


def _window(traced: fx.GraphModule, node: fx.Node) -> Size | None:
    """Places that a pool of fixed size averages: it is one of all where the features have as many."""
    kernel, padding, over = None, _argument(node, 3, "padding") or 0, _argument(node, 4, "ceil_mode")
    if node.op == "call_module" and isinstance(child := traced.get_submodule(str(node.target)), nn.AvgPool2d):
        kernel, padding, over = child.kernel_size, child.padding, child.ceil_mode
    elif node.op == "call_function" and node.target is F.avg_pool2d:
        kernel = _argument(node, 1, "kernel_size")
    if kernel is None or padding not in (0, (0, 0), [0, 0]) or over:  # (past the edge it averages what there is)
        return None
    sides = kernel if isinstance(kernel, list | tuple) else (kernel, kernel)
    return (sides[0], sides[-1]) if sides and all(isinstance(side, int) for side in sides) else None


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
