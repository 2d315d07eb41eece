"""What the operations of a graph do to places: which work place by place, and which on what they are given."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn
from torch.nn import functional as F

_POINTWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout, nn.Dropout2d, nn.BatchNorm2d),
)
_POINTWISE_FUNCTIONS = {
    *(F.relu, F.relu6, F.hardtanh, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid),
    *(F.dropout, torch.relu, torch.sigmoid, torch.tanh, torch.clamp, torch.add, torch.sub, torch.mul),
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg),
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv),
}
_POINTWISE_METHODS = {"relu", "sigmoid", "tanh", "clamp", "add", "sub", "mul", "contiguous"}


def is_pointwise(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether each place of what a node gives depends on that place of its operands alone.

    Args:
        node: of a graph; its operands are taken to have the same places, or none.
        module: that it calls, of which nobody changed what it does; None for a function or method.

    Example:
        >>> graph = fx.symbolic_trace(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 3)))
        >>> [is_pointwise(node, graph.get_submodule(node.target)) for node in graph.graph.nodes if "call" in node.op]
        [True, False]
    """
    if module is not None:
        return type(module) in _POINTWISE_MODULES
    if node.target is torch.cat:
        return node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0) in (1, -3)
    if node.op == "call_method":
        return str(node.target).removesuffix("_") in _POINTWISE_METHODS
    return node.target in _POINTWISE_FUNCTIONS


def changes_its_input(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a node, which calls a module or none, works in place on what it is given first.

    Example:
        >>> graph = fx.symbolic_trace(nn.Sequential(nn.ReLU(inplace=True), nn.ReLU()))
        >>> nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
        >>> [changes_its_input(node, graph.get_submodule(node.target)) for node in nodes]
        [True, False]
    """
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = str(getattr(node.target, "__name__", node.target))
    own = name in ("iadd", "isub", "imul", "itruediv") or (name.endswith("_") and not name.endswith("__"))
    return own or bool(node.kwargs.get("inplace"))
