"""Where an image may change: masks biased to the centre; discs are in phosphene.maps."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.maps import disc, distance_from, strongest_disc
from phosphene.types import Size

__all__ = ["centered", "disc", "distance_from", "strongest_disc"]


def centered(size: Size, sigma: float) -> Tensor:
    """(1, 1, H, W): a Gaussian of `sigma` pixels about the image's centre, 1 there.

    Example:
        >>> round(centered((9, 9), 2.0)[0, 0, 4, 6].item(), 4)
        0.6065
    """
    rows = torch.arange(size[0], device="cpu") - (size[0] - 1) / 2
    columns = torch.arange(size[1], device="cpu") - (size[1] - 1) / 2
    squares = rows[:, None] ** 2 + columns[None, :] ** 2
    return torch.exp(-squares / (2 * sigma**2))[None, None]
