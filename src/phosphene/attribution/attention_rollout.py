"""Attention rollout: how much each patch is attended to, through all layers together."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.attribution.formula import by_formula
from phosphene.attribution.token_maps import token_map
from phosphene.registry import register_attribution


@register_attribution(
    title="Attention rollout",
    family="feature",
    paper="abnar2020",
    signed=False,
    display="range",
    caveat="Says where attention went, whatever the class: two classes get the same map.",
    needs="attention",
)
@by_formula(token_map)
def attention_rollout(weights: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """How much the score's token sees of each patch, when attention is followed back through all layers.

    ``A = A_L ... A_2 A_1`` with ``A_l = 0.5 W_l + 0.5 I``, W_l the attention of layer l averaged over its heads, its
    rows summing to one; the identity stands for the connection around each layer.

    Example:
        >>> from phosphene import Classifier, Target
        >>> class Tiny(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.patch, self.head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 2)
        ...         self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        ...     def forward(self, x):
        ...         x = self.patch(x).flatten(2).transpose(1, 2)
        ...         return self.head((x + self.attention(x, x, x)[0]).mean(1))
        >>> found = attention_rollout(Classifier(Tiny()), torch.rand(1, 3, 16, 16), Target.of(1))
        >>> round(float(found.maps.sum()), 4)
        1.0

    References:
        abnar2020, section 3, equation 1.
    """
    identity = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype, device=weights[0].device)
    rolled = identity
    for layer in weights:
        rolled = (0.5 * layer.mean(dim=0) + 0.5 * identity) @ rolled
    return rolled
