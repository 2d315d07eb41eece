"""Residual branches, read off a network's graph."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn
from torch.nn import functional as F

_PASSIVE = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Identity)
_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}  # functions, and methods by name


def residual_branches(traced: fx.GraphModule) -> tuple[str, ...]:
    """The modules at the end of residual branches: their output is added to a value that they were computed from.

    Found are branches that end in a module that is used for nothing else, or in functions of one alone. A block whose
    way past itself holds a layer of its own (a projection) has no branch: both ways lead through weights. Nor is a
    branch found that ends in a product of two values (squeeze and excitation), or that is the third term of a sum.

    Example:
        >>> from torch import nn
        >>> from phosphene.graph import trace
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        ...     def forward(self, x):
        ...         return x + self.second(self.first(x).relu())
        >>> residual_branches(trace(Block()))
        ('second',)
    """
    ends: list[fx.Node] = []
    for node in traced.graph.nodes:
        terms = [term for term in (*node.args, *node.kwargs.values()) if isinstance(term, fx.Node)]
        if node.target not in _ADDITIONS or len(terms) != 2:
            continue
        one, other = (_skip_passive(traced, term) for term in terms)
        for branch, past in ((one, other), (other, one)):
            end = _only_module(branch)
            if end is not None and _is_computed_from(end, past):
                ends.append(end)
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    elsewhere = {call.target for call in calls if call not in ends}
    return tuple(dict.fromkeys(str(end.target) for end in ends if end.target not in elsewhere))


def _skip_passive(traced: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Down through what does not change the values: dropout in eval mode, identity."""
    while node.args and isinstance(node.args[0], fx.Node):
        child = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
        empty = type(child) is nn.Sequential and len(child) == 0
        if not (isinstance(child, _PASSIVE) or empty or node.target in (F.dropout, F.dropout2d)):
            break
        node = node.args[0]
    return node


def _only_module(node: fx.Node) -> fx.Node | None:
    """The nearest module that all of a node's value comes through, and that is used for nothing but the node."""
    while len(node.users) == 1:
        if node.op == "call_module":
            return node
        sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if len(sources) != 1:
            return None
        (node,) = sources
    return None


def _is_computed_from(node: fx.Node, other: fx.Node) -> bool:
    """Whether another node's value is used, through any others, for this one's."""
    seen, waiting = set[fx.Node](), [node]
    while waiting:
        fresh = [source for source in waiting.pop().all_input_nodes if source not in seen]
        if other in fresh:
            return True
        seen.update(fresh)
        waiting.extend(fresh)
    return False
