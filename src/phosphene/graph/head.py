"""The linear head of a network, which class activation maps need."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from phosphene.types import Layout


@dataclass(frozen=True)
class LinearHead:
    """The end of a network that class activation maps need: features -> mean over places -> linear.

    Args:
        node: the FX node whose value is averaged over its places; empty where no graph shows it, and it is the output
            of `layer`.
        layer: the module the averaged value comes from, and the functions behind it, for reports.
        layout: which axis of the value is which.
        weight: (K, k), or None where the averaged channels are the classes themselves.
        bias: (K,) or None.
        linear: dotted name of the linear layer, if it is a layer.
    """

    node: str
    layer: str
    layout: Layout | None
    weight: Tensor | None
    bias: Tensor | None
    linear: str | None = None

    def class_weights(self, classes: int) -> Tensor | None:
        """(classes, k) how much each channel adds to each class, on the CPU; one output of two is read as (-z, z)."""
        if self.weight is None:
            return None
        weights = self.weight.detach().float().cpu()
        return torch.cat([-weights, weights]) if (len(weights), classes) == (1, 2) else weights


def nearest_module(node: fx.Node) -> str:
    """The closest module below a node; what functions follow it is appended."""
    functions: list[str] = []
    while node.op not in ("call_module", "placeholder"):
        functions.append(str(getattr(node.target, "__name__", node.target)))
        below = [one for one in node.all_input_nodes if _is_made(one)]
        if not below:
            break
        node = below[0]
    return " + ".join([str(node.target), *reversed(functions)])


def _is_made(node: fx.Node) -> bool:
    """Whether a value is no weight, nor a part of one."""
    while node.op in ("call_function", "call_method") and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node.op != "get_attr"
