"""The autograd graph behind a result, node by node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor


def graph_nodes(result: Tensor) -> Iterator[Any]:
    """Every node of the autograd graph behind a result, once."""
    waiting, seen = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(nodes_below(node))


def nodes_below(node: Any) -> list[Any]:
    """What a node of the autograd graph was made from, as far as it needs gradients."""
    return [below for below, _ in node.next_functions if below is not None]


def node_kind(node: Any) -> str:
    """What a node of the autograd graph does: 'MulBackward0' -> 'Mul'."""
    return re.sub(r"Backward\d*$", "", node.name())
