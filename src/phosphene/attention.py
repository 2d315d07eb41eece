"""Watching a network's attention: the weights of every layer of it, however it is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from phosphene.autograd_graph import node_kind, nodes_below
from phosphene.decomposed import FUSED


@contextmanager
def watch_attention() -> Iterator[list[Tensor]]:
    """The attention weights of the layers that run inside the context, in their order, each (N, heads, T, T).

    Caught are fused attention, nn.MultiheadAttention, and a softmax over the last axis of products, as functions,
    methods and modules. Also attention that is not of all tokens to all tokens: (N, heads, T, S) of pooled tokens or of
    a class token alone, with more axes of windows; whoever follows attention has to look at the shapes. The values are
    part of the autograd graph, so a score can be differentiated with respect to them. Only this thread's runs are seen;
    the module is not touched.

    Example:
        >>> layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
        >>> tokens = torch.rand(1, 5, 8, requires_grad=True)
        >>> with watch_attention() as found:
        ...     _ = layer(tokens, tokens, tokens)
        >>> found[0].shape, torch.allclose(found[0].sum(-1), torch.ones(1, 2, 5))
        (torch.Size([1, 2, 5, 5]), True)
    """
    mode = _Watch()
    with mode:
        yield mode.found


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name in FUSED:
            with self:  # so that the softmax inside is seen
                return FUSED[name](*args, **kwargs)
        output = func(*args, **kwargs)
        if name == "softmax" and isinstance(output, Tensor) and _is_attention(output, args, kwargs):
            self.found.append(output)
        return output


def _is_attention(output: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a softmax is over the last axis of products of tokens: square ones, or others that a product made."""
    axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if output.ndim < 3 or axis not in (-1, output.ndim - 1) or output.shape[-1] == 1:
        return False
    return output.shape[-1] == output.shape[-2] or _is_of_products(output)


def _is_of_products(output: Tensor) -> bool:
    """Whether a softmax is of the products of two features, scaled, masked or laid out otherwise."""
    waiting = [] if output.grad_fn is None else nodes_below(output.grad_fn)
    while waiting:
        node = waiting.pop()
        if node_kind(node) == "Bmm":
            return True
        if node_kind(node) in _AROUND_PRODUCTS:
            waiting += nodes_below(node)
    return False


# What stands between the products and the softmax: scale, position bias, mask, layout.
_AROUND_PRODUCTS = {
    *("Add", "Sub", "Mul", "Div", "MaskedFill", "Where", "Clamp", "ToCopy"),
    *("View", "UnsafeView", "ReshapeAlias", "Expand", "Permute", "Transpose", "T", "Clone", "Unsqueeze", "Squeeze"),
}
