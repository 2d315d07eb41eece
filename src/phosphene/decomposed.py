"""Attention as PyTorch fuses it, taken apart into the products and the softmax that the papers write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene.errors import ModelError


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What F.scaled_dot_product_attention returns, by two products and a softmax.

    Args:
        query: (..., T, d).
        key: (..., S, d).
        value: (..., S, e).
        attn_mask: added to the products, or where it is False they count nothing.
        dropout_p: 0; another is refused.
        is_causal: whether a token sees those before it alone.
        scale: of the products; None for 1 / sqrt(d).
        enable_gqa: refused.

    Raises:
        ModelError: for dropout that stays on, or heads that share keys.

    Example:
        >>> q, k, v = torch.rand(3, 1, 2, 5, 4).unbind()
        >>> torch.allclose(attention(q, k, v), F.scaled_dot_product_attention(q, k, v), atol=1e-6)
        True
    """
    if dropout_p or enable_gqa:
        raise ModelError("attention with dropout that stays on, or heads that share keys, cannot be taken apart")
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    return _weights(query, key, attn_mask, scale) @ value


def _weights(query: Tensor, key: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """(..., T, S) how much each query attends to each key; a mask says where, or is added to the products."""
    products = (query @ key.transpose(-2, -1)) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if mask is not None and mask.dtype == torch.bool:
        products = products.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        products = products + mask
    return products.softmax(dim=-1)


def multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any
) -> tuple[Tensor, Tensor | None]:
    """What F.multi_head_attention_forward returns without masks, of tokens to themselves or to others.

    Args:
        query: (T, N, E), or (T, E).
        key: (S, N, E), or (S, E).
        value: the same.
        *rest: as that function takes them, in its order.
        **named: by name.

    Raises:
        ModelError: for other forms: masks, extra keys, separate weights.
    """
    given = dict(zip(_REST, rest, strict=False)) | named
    odd = [name for name in ("bias_k", "bias_v", "key_padding_mask", "attn_mask") if given.get(name) is not None]
    odd += [name for name in ("add_zero_attn", "use_separate_proj_weight", "is_causal") if given.get(name)]
    if odd:
        raise ModelError(f"attention with {', '.join(odd)} cannot be taken apart")
    weight, bias, heads = given["in_proj_weight"], given["in_proj_bias"], given["num_heads"]
    if query is key is value:  # (one product is faster)
        queries, keys, values = F.linear(query, weight, bias).chunk(3, dim=-1)  # (T, N, E) each
    else:
        biases = (None, None, None) if bias is None else bias.chunk(3)
        queries, keys, values = map(F.linear, (query, key, value), weight.chunk(3), biases)

    def by_head(part: Tensor) -> Tensor:
        """(N, heads, T, d)."""
        part = part.unsqueeze(1) if part.ndim == 2 else part
        return part.reshape(part.shape[0], part.shape[1], heads, -1).permute(1, 2, 0, 3)

    weights = _weights(by_head(queries), by_head(keys))
    mixed = (weights @ by_head(values)).permute(2, 0, 1, 3).reshape(query.shape)
    output = F.linear(mixed, given["out_proj_weight"], given["out_proj_bias"])
    if not given.get("need_weights", True):
        return output, None
    shown = weights.mean(dim=1) if given.get("average_attn_weights", True) else weights
    return output, shown if query.ndim == 3 else shown.squeeze(0)


_REST = (
    *("embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "add_zero_attn"),
    *("dropout_p", "out_proj_weight", "out_proj_bias", "training", "key_padding_mask", "need_weights", "attn_mask"),
    *("use_separate_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "static_k", "static_v"),
    *("average_attn_weights", "is_causal"),
)

# By the name of the fused function; to be called where each of their steps is seen.
FUSED: Mapping[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head_attention,
}
