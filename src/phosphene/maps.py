"""Arithmetic on maps: reduce channels, blur, normalise. Maps are (N, h, w), gradients (N, C, H, W)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Sign = Literal["abs", "positive", "negative"]


def max_over_channels(gradient: Tensor, sign: Sign = "abs") -> Tensor:
    """(N, H, W): the largest magnitude over the channels (N, C, H, W), of the gradient or of one sign of it.

    Example:
        >>> max_over_channels(torch.tensor([[[[1.0]], [[-3.0]]]])).item()
        3.0
        >>> max_over_channels(torch.tensor([[[[1.0]], [[-3.0]]]]), "positive").item()
        1.0
    """
    if sign == "positive":
        return gradient.clamp(min=0).amax(dim=1)
    if sign == "negative":
        return (-gradient).clamp(min=0).amax(dim=1)
    return gradient.abs().amax(dim=1)


def normalize(values: Tensor) -> Tensor:
    """Maps (N, h, w) stretched to [0, 1], each by its own range; a constant map becomes 0."""
    flat = values.flatten(1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    span = high - low
    span = torch.where(span > 0, span, torch.ones_like(span))
    return (values - low[:, None, None]) / span[:, None, None]


def positive(values: Tensor) -> Tensor:
    """The positive part of maps."""
    return values.clamp(min=0)


def blur(values: Tensor, sigma: float) -> Tensor:
    """Maps (N, h, w) smoothed by a Gaussian of `sigma` cells, the border mirrored; sigma 0 changes nothing."""
    if sigma <= 0:
        return values
    radius = max(1, math.ceil(3 * sigma))
    position = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (position / sigma) ** 2)
    kernel = kernel / kernel.sum()
    rows, columns = (_mirrored(length, radius, values.device) for length in values.shape[-2:])
    with torch.autocast(values.device.type, enabled=False):
        smooth = F.conv2d(values[:, None][..., rows, :], kernel[None, None, :, None])
        return F.conv2d(smooth[..., columns], kernel[None, None, None, :])[:, 0]


def _mirrored(length: int, radius: int, device: torch.device) -> Tensor:
    """Indices of a line of `length` continued by `radius` on both sides by reflection, as often as needed."""
    index = torch.arange(-radius, length + radius, device=device) % (2 * length)
    return torch.where(index < length, index, 2 * length - 1 - index)
