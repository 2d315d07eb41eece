"""A right way back through batch and instance norms, whatever the strides of what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from phosphene.autograd_graph import graph_nodes, node_kind
from phosphene.axes import Operations


@contextmanager
def right_norms(values: Tensor) -> Iterator[None]:
    """Inside, PyTorch's backward pass through the norms that `values` came from is right on the CPU.

    PyTorch (2.13) tells layouts apart by strides, and reads a gradient in the wrong order where an axis of length 1 has
    a stride that fits no layout, such as that of one image behind a transposition.
    """
    nodes = list(graph_nodes(values))
    hooks = [hook for node in nodes if node_kind(node) == "NativeBatchNorm" for hook in _restrided(node)]
    try:
        with _SameStrides() if any(map(_may_norm, nodes)) else nullcontext():  # type: ignore[no-untyped-call]
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _restrided(norm: Any) -> list[Any]:
    """A hook that gives what comes back to a norm's node the strides of the norm's input; none once it is freed."""
    try:
        strides = norm._saved_input.stride()
    except RuntimeError:  # what an earlier pass went back through is freed: a network may keep its values for means
        return []
    # (The strides and not the node: a node that holds itself through its hook is never freed.)
    return [norm.register_prehook(partial(_with_strides, strides))]


def _with_strides(strides: tuple[int, ...], gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    first, *others = gradients
    if first is None or first.stride() == strides:
        return gradients
    return (first.new_empty_strided(first.shape, strides).copy_(first), *others)


def _may_norm(node: Any) -> bool:
    """Whether a node is a function of somebody's own, which may run a norm on its way back."""
    return isinstance(node, BackwardCFunction) and not type(node)._forward_cls.__module__.startswith(  # type: ignore[attr-defined]
        "phosphene."
    )


class _SameStrides(Operations):  # type: ignore[no-untyped-call]
    """Gives the gradient of a norm the strides of the norm's input, for which PyTorch's backward pass is right."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_batch_norm_backward.default and args[0].stride() != args[1].stride():
            args = (torch.empty_like(args[1]).copy_(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))
