"""How much of a map's positive evidence lies inside a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.devices import wide
from phosphene.metrics.pairs import check_pair
from phosphene.registry import register_metric


@register_metric(title="Share of the evidence inside a mask", paper="arras2022", family="localization")
def evidence_share(maps: Tensor, masks: Tensor) -> Tensor:
    """Which part of the evidence for the target lies inside a mask; one minus this lies outside.

    ``sum of max(0, A) inside / sum of max(0, A)``: evidence against the target is not weighed. A map that knows
    nothing gets the mask's share of the area, so the number means something only beside that one
    (``masks.double().mean((1, 2))``).

    Args:
        maps: (N, h, w) attributions; values above 0 speak for the target.
        masks: (N, h, w) boolean, True inside.

    Returns:
        (N,) float64 in [0, 1]; NaN for a map without positive evidence.

    Raises:
        OptionError: if the shapes differ.

    Example:
        >>> maps = torch.tensor([[[3.0, -5.0], [1.0, 0.0]]])
        >>> evidence_share(maps, torch.tensor([[[True, True], [False, False]]])).item()
        0.75

    References:
        arras2022, where it is called relevance mass accuracy.
    """
    check_pair(maps, masks)
    evidence = wide(maps).clamp(min=0)
    inside = torch.where(masks.bool().to(evidence.device), evidence, torch.zeros_like(evidence))
    return inside.sum(dim=(1, 2)) / evidence.sum(dim=(1, 2))
