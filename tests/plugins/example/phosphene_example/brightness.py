"""A metric: how bright a picture is."""

from __future__ import annotations

from torch import Tensor

from phosphene import register_metric


@register_metric(title="Brightness", paper="simonyan2014")
def brightness(images: Tensor) -> Tensor:
    """The mean of each image (N, C, H, W)."""
    return images.flatten(1).mean(dim=1)
