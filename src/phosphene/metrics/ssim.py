"""Structural similarity: do two maps look alike?"""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.devices import wide
from phosphene.errors import OptionError
from phosphene.maps import normalize
from phosphene.metrics.pairs import check_pair
from phosphene.registry import register_metric

# The paper's window: 11 x 11, a Gaussian of 1.5 pixels; its constants K1 and K2.
_RADIUS, _SIGMA, _K1, _K2 = 5, 1.5, 0.01, 0.03


@register_metric(title="Structural similarity", paper="wang2004", family="similarity")
def ssim(first: Tensor, second: Tensor, *, stretch: bool = True) -> Tensor:
    """How much two sets of maps look alike: 1 for the same picture, about 0 for unrelated ones.

    ``mean over places of (2 ma mb + C1)(2 sab + C2) / ((ma^2 + mb^2 + C1)(sa^2 + sb^2 + C2))`` with means m, variances
    s^2 and covariance sab in a Gaussian window, ``C = (0.01)^2`` and ``(0.03)^2``, over the places where the whole
    window fits. Large flat areas count as alike, so two sparse maps that agree nowhere still score high: read
    it beside the rank correlation, and beside what unrelated maps get.

    Args:
        first: (N, h, w) maps, at least 11 on each side.
        second: (N, h, w) maps.
        stretch: stretch each map to [0, 1] by its own range first, as pictures are shown; without it the values
            must be in [0, 1] already.

    Returns:
        (N,) float64 in [-1, 1].

    Raises:
        OptionError: if the shapes differ or the maps are smaller than the window.

    Example:
        >>> maps = torch.rand(1, 16, 16)
        >>> round(ssim(maps, 3 * maps + 1).item(), 6), ssim(maps, 1 - maps).item() < 0
        (1.0, True)

    References:
        wang2004, equation 13.
    """
    check_pair(first, second)
    size = 2 * _RADIUS + 1
    if min(first.shape[-2:]) < size:
        shape = tuple(first.shape[-2:])
        raise OptionError(f"ssim: maps of {shape} are smaller than its window of {size} x {size}; enlarge them first")
    a, b = (normalize(wide(maps)) if stretch else wide(maps) for maps in (first, second))
    mean_a, mean_b = _windowed(a), _windowed(b)
    variance_a = _windowed(a * a) - mean_a**2
    variance_b = _windowed(b * b) - mean_b**2
    covariance = _windowed(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + _K1**2) * (2 * covariance + _K2**2)
    likeness = likeness / ((mean_a**2 + mean_b**2 + _K1**2) * (variance_a + variance_b + _K2**2))
    return likeness.mean(dim=(1, 2))


def _windowed(values: Tensor) -> Tensor:
    """Gaussian means (N, h - 10, w - 10) of maps (N, h, w), where the window fits."""
    position = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64, device="cpu")
    bell = torch.exp(-0.5 * (position / _SIGMA) ** 2)
    weights = (bell / bell.sum()).tolist()
    height, width = values.shape[-2] - 2 * _RADIUS, values.shape[-1] - 2 * _RADIUS
    # Shifted copies are added: several times faster than a convolution in float64.
    rows = torch.zeros_like(values[:, :height])
    for shift, weight in enumerate(weights):
        rows.add_(values[:, shift : shift + height], alpha=weight)
    means = torch.zeros_like(rows[:, :, :width])
    for shift, weight in enumerate(weights):
        means.add_(rows[:, :, shift : shift + width], alpha=weight)
    return means
