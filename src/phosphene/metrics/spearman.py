"""Rank correlation of maps: do they order the places alike?"""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.devices import wide
from phosphene.metrics.pairs import check_pair
from phosphene.registry import register_metric


@register_metric(title="Spearman's rank correlation", paper="spearman1904", family="similarity")
def spearman(first: Tensor, second: Tensor) -> Tensor:
    """How much two sets of maps agree on the order of the places: 1 the same, 0 unrelated, -1 reversed.

    Pearson's correlation of the ranks; places of equal value share the mean of their ranks. Blind to any
    increasing change of the values, so two maps that look different may well agree. NaN where one of the maps is
    constant: it has no order.

    Args:
        first: (N, h, w) maps.
        second: (N, h, w) maps.

    Returns:
        (N,) float64 in [-1, 1].

    Raises:
        OptionError: if the shapes differ.

    Example:
        >>> maps = torch.tensor([[[1.0, 2.0], [3.0, 9.0]]])
        >>> spearman(maps, maps.exp()).item(), spearman(maps, -maps).item()
        (1.0, -1.0)

    References:
        spearman1904.
    """
    check_pair(first, second)
    a, b = (_ranks(wide(maps).flatten(1)) for maps in (first, second))  # (N, h * w)
    a, b = (ranks - ranks.mean(dim=1, keepdim=True) for ranks in (a, b))
    return ((a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()).clamp(-1, 1)


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1 along rows; equal values get the mean of the ranks they take up together."""
    ordered, order = values.sort(dim=1)
    place = torch.arange(values.shape[1], device=values.device).expand_as(order)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # Each run of equal values: where it begins, and, read from the right, where it ends.
    first = torch.where(new, place, 0).cummax(dim=1).values
    ends = torch.cat([new[:, 1:], new[:, :1]], dim=1)
    last = torch.where(ends, place, values.shape[1]).flip(1).cummin(dim=1).values.flip(1)
    return torch.empty_like(ordered, dtype=torch.float64).scatter_(1, order, (first + last).double() / 2 + 1)
