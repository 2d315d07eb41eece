"""Gradient-weighted attention, after Chefer, Gur and Wolf: attention that raises the score, through all layers."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.attribution.formula import by_formula
from phosphene.attribution.token_maps import token_map
from phosphene.registry import register_attribution


@register_attribution(
    title="Gradient-weighted attention (Chefer)",
    family="gradient",
    paper="chefer2021",
    signed=False,
    display="positive",
    caveat="Attention that speaks against the class is dropped: the map holds no counter-evidence.",
    needs="attention",
)
@by_formula(token_map)
def attention_relevance(weights: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """How much each patch counts for the class: attention weighted by its gradient, followed through all layers.

    ``R <- R + M_l R`` from the first layer to the last, beginning with the identity, ``M_l = mean over heads of
    relu(dS/dA_l * A_l)``; the map is R less the identity, in the row of the token that the score is read from.

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
        >>> attention_relevance(Classifier(Tiny()), torch.rand(1, 3, 16, 16), Target.of(1)).maps.shape
        torch.Size([1, 4, 4])

    References:
        chefer2021, equations 5 and 6.
    """
    identity = torch.eye(weights[0].shape[-1], dtype=weights[0].dtype, device=weights[0].device)
    found = identity
    for layer, slope in zip(weights, gradients, strict=True):
        found = found + (slope * layer).clamp(min=0).mean(dim=0) @ found
    return found - identity
