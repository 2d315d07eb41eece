"""A small vision transformer in the three ways in which attention is written: fused, by hand, as PyTorch's module."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Form = Literal["fused", "by_hand", "module"]
FORMS: tuple[Form, ...] = ("fused", "by_hand", "module")


class Attention(nn.Module):
    """Self-attention of (N, T, width)."""

    def __init__(self, width: int, heads: int, form: Form) -> None:
        super().__init__()
        self.heads, self.form = heads, form
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "module":
            return self.inner(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]
        count, tokens, width = x.shape
        joined = F.linear(x, self.inner.in_proj_weight, self.inner.in_proj_bias)
        query, key, value = joined.reshape(count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if self.form == "fused":
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            weights = self.softmax((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1))
            mixed = weights @ value
        return self.inner.out_proj(mixed.transpose(1, 2).reshape(count, tokens, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, form: Form) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, form)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches of 4 pixels, with a class token or the mean of the patches before the head."""

    def __init__(
        self, form: Form = "fused", *, size: int = 16, class_token: bool = True, depth: int = 3, classes: int = 5
    ) -> None:
        super().__init__()
        width = 12
        generator = torch.Generator().manual_seed(5)
        self.patches = nn.Conv2d(3, width, 4, 4)
        cells = (size // 4) ** 2
        self.token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.position = nn.Parameter(torch.zeros(1, cells + class_token, width))
        self.blocks = nn.Sequential(*(Block(width, 3, form) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        with torch.no_grad():
            for tensor in self.parameters():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
            for child in self.modules():
                if isinstance(child, nn.LayerNorm):
                    child.weight.copy_(1 + 0.1 * child.weight)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.norm(self.blocks(x + self.position))
        return self.head(x[:, 0] if self.token is not None else x.mean(dim=1))  # type: ignore[no-any-return]
