"""A right way back through batch and instance norms, whatever the strides of what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import _pop_mode, _push_mode
from torch.utils.hooks import RemovableHandle

from phosphene.autograd_graph import graph_nodes, node_kind
from phosphene.axes import Operations


@contextmanager
def right_norms(values: Tensor) -> Iterator[None]:
    """Inside, PyTorch's backward pass through the norms that `values` came from is right on the CPU.

    PyTorch (2.13) tells layouts apart by strides, and reads a gradient in the wrong order where an axis of length 1 has
    a stride that fits no layout, such as that of one image behind a transposition.
    """
    nodes = list(graph_nodes(values)) if values.device.type == "cpu" else []
    if any(map(_is_foreign, nodes)):
        with _SameStrides():  # type: ignore[no-untyped-call]
            yield
        return
    hooks = [hook for node in nodes if node_kind(node) == "NativeBatchNorm" for hook in _watched(node)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_foreign(node: Any) -> bool:
    """Whether a node is a function of somebody's own, which may run a norm on its way back."""
    return isinstance(node, BackwardCFunction) and not type(node)._forward_cls.__module__.startswith("phosphene.")  # type: ignore[attr-defined]


def _watched(node: Any) -> tuple[RemovableHandle, RemovableHandle]:
    """Strides are looked at while a node runs, and not in all of the pass, an eighth of whose time that would be.

    The mode is not entered by `with`, whose flags are the process's: a node that fails would leave them set. The stack
    of modes is the thread's, and autograd itself puts it back.
    """
    looking = _SameStrides()  # type: ignore[no-untyped-call]
    return node.register_prehook(lambda _gradients: _push_mode(looking)), node.register_hook(lambda *_: _popped())


def _popped() -> None:
    _pop_mode()


class _SameStrides(Operations):  # type: ignore[no-untyped-call]
    """Gives the gradient of a norm the strides of the norm's input, for which PyTorch's backward pass is right."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.native_batch_norm_backward.default and args[0].stride() != args[1].stride():
            args = (torch.empty_like(args[1]).copy_(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))
