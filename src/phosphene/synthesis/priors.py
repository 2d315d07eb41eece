"""What is known of natural images: total variation and its step."""

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
