"""Where an image may change: discs, their best places, and masks biased to the centre."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.errors import OptionError
from phosphene.types import Size


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
    centers = centers.float()
    rows = torch.arange(size[0], device=centers.device)[None, :, None] - centers[:, 0, None, None]
    columns = torch.arange(size[1], device=centers.device)[None, None, :] - centers[:, 1, None, None]
    distance = torch.hypot(rows, columns)[:, None]
    limit = torch.as_tensor(radius, dtype=torch.float32, device=centers.device).reshape(-1, 1, 1, 1)
    if softness <= 0:
        return (distance <= limit).float()
    return ((limit - distance) / softness + 0.5).clamp(0, 1)


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
        addepalli2021, equation 5.
    """
    height, width = values.shape[-2:]
    side = 2 * radius + 1
    if side > height or side > width:
        raise OptionError(
            f"a disc of radius {radius} does not fit into {height} x {width}; choose at most "
            f"{(min(height, width) - 1) // 2}"
        )
    kernel = disc(torch.tensor([[radius, radius]], device=values.device), radius, (side, side))[0, 0].double()
    shape = (int(height), int(width))
    spectrum = torch.fft.rfft2(values.double()) * torch.fft.rfft2(kernel, s=shape).conj()
    sums = torch.fft.irfft2(spectrum, s=shape)[:, : height - side + 1, : width - side + 1]  # by the disc's corner
    # Rounded, so that equal sums tie whatever the FFT's last bits are.
    ceiling = sums.flatten(1).amax(dim=1).clamp(min=1e-30)[:, None]
    best = ((sums.flatten(1) / ceiling * 1e9).round()).argmax(dim=1)
    columns = width - side + 1
    return torch.stack([best // columns, best % columns], dim=1) + radius


def centered(size: Size, sigma: float) -> Tensor:
    """(1, 1, H, W): a Gaussian of `sigma` pixels about the image's centre, 1 there.

    Example:
        >>> round(centered((9, 9), 2.0)[0, 0, 4, 6].item(), 4)
        0.6065
    """
    rows = torch.arange(size[0]) - (size[0] - 1) / 2
    columns = torch.arange(size[1]) - (size[1] - 1) / 2
    squares = rows[:, None] ** 2 + columns[None, :] ** 2
    return torch.exp(-squares / (2 * sigma**2))[None, None]
