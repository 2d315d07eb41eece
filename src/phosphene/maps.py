"""Arithmetic on maps: reduce channels, blur, normalise. Maps are (N, h, w), gradients (N, C, H, W)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene.devices import wide
from phosphene.errors import OptionError
from phosphene.types import Size

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


def disc(centers: Tensor, radius: float | Tensor, size: Size, softness: float = 0.0) -> Tensor:
    """(N, 1, H, W): 1 within `radius` pixels of each center (N, 2) (row, column), 0 outside.

    Args:
        centers: pixel coordinates.
        radius: pixels, one for all or (N,).
        size: (height, width).
        softness: pixels over which the edge falls from 1 to 0, about the radius; 0 is a hard edge.

    Example:
        >>> disc(torch.tensor([[1, 1]]), 1, (3, 3))[0, 0].tolist()
        [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]]
    """
    distance = distance_from(centers, size)
    limit = torch.as_tensor(radius, dtype=torch.float32, device=centers.device).reshape(-1, 1, 1, 1)
    if softness <= 0:
        return (distance <= limit).float()
    return ((limit - distance) / softness + 0.5).clamp(0, 1)


def distance_from(centers: Tensor, size: Size) -> Tensor:
    """(N, 1, H, W): how many pixels each place is away from each center (N, 2) (row, column)."""
    centers = centers.float()
    rows = torch.arange(size[0], device=centers.device)[None, :, None] - centers[:, 0, None, None]
    columns = torch.arange(size[1], device=centers.device)[None, None, :] - centers[:, 1, None, None]
    return torch.hypot(rows, columns)[:, None]


def strongest_disc(values: Tensor, radius: int) -> Tensor:
    """(N, 2) center (row, column) of the disc of `radius` pixels, inside the frame, that holds most of maps (N, H, W).

    One convolution with the disc, by FFT; of equal places the first in reading order wins.

    Raises:
        OptionError: if the disc does not fit into the maps.

    Example:
        >>> values = torch.zeros(1, 9, 9)
        >>> values[0, 4, 5] = 1.0
        >>> strongest_disc(values, 0)
        tensor([[4, 5]])

    References:
        addepalli2020, equation 5.
    """
    height, width = values.shape[-2:]
    side = 2 * radius + 1
    if side > height or side > width:
        raise OptionError(
            f"a disc of radius {radius} does not fit into {height} x {width}; choose at most "
            f"{(min(height, width) - 1) // 2}"
        )
    device, values = values.device, wide(values)
    center = torch.tensor([[radius, radius]], device=values.device)
    kernel = disc(center, radius, (side, side))[0, 0].to(values)
    shape = (int(height), int(width))
    spectrum = torch.fft.rfft2(values) * torch.fft.rfft2(kernel, s=shape).conj()
    sums = torch.fft.irfft2(spectrum, s=shape)[:, : height - side + 1, : width - side + 1]  # by the disc's corner
    # Rounded, so that equal sums tie whatever the FFT's last bits are.
    ceiling = values.abs().flatten(1).sum(dim=1).clamp(min=1e-30)[:, None]
    best = ((sums.flatten(1) / ceiling * 1e9).round()).argmax(dim=1)
    columns = width - side + 1
    return (torch.stack([best // columns, best % columns], dim=1) + radius).to(device)
