"""What is known of natural images: total variation and its step; contrast, brightness and saturation."""

from __future__ import annotations

import torch
from torch import Tensor


def total_variation(images: Tensor) -> Tensor:
    """(N,) anisotropic total variation: sum of |I[i+1, j] - I[i, j]| + |I[i, j+1] - I[i, j]| over all channels.

    Example:
        >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
        tensor([2.])

    References:
        addepalli2020, equation 1.
    """
    vertical = images.diff(dim=-2).abs().flatten(1).sum(dim=1)
    horizontal = images.diff(dim=-1).abs().flatten(1).sum(dim=1)
    return vertical + horizontal


def total_variation_gradient(images: Tensor) -> Tensor:
    """(N, C, H, W) the (sub)gradient of the total variation; 0 where neighbours are equal.

    Example:
        >>> total_variation_gradient(torch.tensor([[[[0.0, 1.0, 1.0]]]]))
        tensor([[[[-1.,  1.,  0.]]]])
    """
    gradient = torch.zeros_like(images)
    for dim in (-2, -1):
        slope = images.diff(dim=dim).sign()
        length = images.shape[dim]
        gradient.narrow(dim, 1, length - 1).add_(slope)
        gradient.narrow(dim, 0, length - 1).sub_(slope)
    return gradient


def total_variation_step(images: Tensor, rate: float) -> Tensor:
    """The images one step of size `rate` down their total variation.

    A slope smaller than the step would be turned around by it (a subgradient step chatters), so each pair of
    neighbours moves towards each other by no more than meets in the middle (ours): the size of a move is
    min(rate, a quarter of the difference), which never overshoots with four neighbours.
    """
    moved = images.clone()
    for dim in (-2, -1):
        slope = images.diff(dim=dim)
        pull = slope.mul(0.25).clamp_(-rate, rate)
        length = images.shape[dim]
        moved.narrow(dim, 1, length - 1).sub_(pull)
        moved.narrow(dim, 0, length - 1).add_(pull)
    return moved


# The mean of a photograph stays between these.
_BRIGHTNESS = (0.4, 0.58)


def tones_of(mean: float) -> tuple[float, tuple[float, float]]:
    """(the value about which pictures lie, lowest and highest mean of one), by the mean of all: of most, photographs'.

    Example:
        >>> tones_of(0.45), tones_of(0.0)  # photographs, and what nobody said anything about
        ((0.5, (0.4, 0.58)), (0.5, (0.4, 0.58)))
        >>> tones_of(0.25)  # digits on black
        (0.25, (0.2, 0.38))
    """
    if mean <= 0 or _BRIGHTNESS[0] <= mean <= _BRIGHTNESS[1]:
        return 0.5, _BRIGHTNESS
    return mean, (mean - 0.05, mean + 0.13)


def natural_tones(
    images: Tensor, contrast: float, brightness: tuple[float, float], saturated: float, middle: float = 0.5
) -> Tensor:
    """The images with half of what their contrast and brightness exceed taken back, and extremes pulled in.

    Each channel keeps its mean but for a shift of brightness that all channels share, so hues stay.

    Args:
        images: (N, C, H, W) in about [0, 1].
        contrast: largest standard deviation about the channels' means.
        brightness: lowest and highest mean.
        saturated: a value v loses ``saturated * (2v - 1)^5``.
        middle: the value that loses nothing; (v - middle) / max(middle, 1 - middle) stands for 2v - 1.

    Example:
        >>> dark = torch.zeros(1, 3, 4, 4)
        >>> round(natural_tones(dark, 0.25, (0.4, 0.6), 0.0).mean().item(), 3)
        0.2
    """
    channels, mean = images.mean(dim=(2, 3), keepdim=True), images.mean(dim=(1, 2, 3), keepdim=True)
    off = images - channels
    spread = off.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    kept = (contrast / spread.clamp(min=1e-6)).clamp(max=1)
    toned = images + 0.5 * (off * (kept - 1) + mean.clamp(*brightness) - mean)
    return toned - saturated * ((toned - middle) / max(middle, 1 - middle)) ** 5
