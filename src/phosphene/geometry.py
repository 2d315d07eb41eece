"""Which part of the picture the network sees, and maps laid back on the original."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.grids import pixel_centers, sample_map
from phosphene.types import Size, View


def center_view(original: Size, short_side: int, crop: Size) -> View:
    """The usual view of a classifier: short side resized to `short_side`, the centre cut out.

    Example:
        >>> center_view((300, 451), 256, (224, 224)).crop
        (16, 80, 224, 224)
    """
    height, width = original
    short = min(height, width)
    scaled = (max(1, int(short_side * height / short)), max(1, int(short_side * width / short)))
    top, left = (round((full - part) / 2) for full, part in zip(scaled, crop, strict=True))
    return View(original, scaled, (top, left, *crop))


def ten_crops(size: Size, crop: Size) -> list[tuple[int, int, bool]]:
    """(top, left, mirrored) of the four corner crops, the central one, and their mirror images.

    Example:
        >>> ten_crops((256, 256), (224, 224))[:5]
        [(0, 0, False), (0, 32, False), (32, 0, False), (32, 32, False), (16, 16, False)]

    References:
        krizhevsky2012, section 4.1.
    """
    bottom, right = size[0] - crop[0], size[1] - crop[1]
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    return [(top, left, mirrored) for mirrored in (False, True) for top, left in corners]


def whole_view(original: Size, size: Size) -> View:
    """The whole picture squashed to `size`: nothing is left out, the aspect ratio may change."""
    return View(original, size, (0, 0, *size))


def lay_on_original(
    values: Tensor,
    offset: tuple[float, float],
    stride: tuple[float, float],
    view: View,
    *,
    size: Size | None = None,
    outside: float = 0.0,
) -> Tensor:
    """(H, W): one map (h, w) laid on the picture it came from, in the picture's own proportions.

    Args:
        values: (h, w) on the method's native grid.
        offset: centre of cell (0, 0) in network pixels.
        stride: network pixels between cells.
        view: what the network saw of the picture.
        size: (height, width) of the answer; default the picture's own. A smaller one of the same
            proportions gives the map for a thumbnail.
        outside: value where the network saw nothing.

    Example:
        >>> view = whole_view((2, 4), (2, 2))
        >>> lay_on_original(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), (0.5, 0.5), (1.0, 1.0), view)
        tensor([[0.0000, 0.2500, 0.7500, 1.0000],
                [0.0000, 0.2500, 0.7500, 1.0000]])
    """
    height, width = size or view.original
    (top, left, crop_height, crop_width), scaled = view.crop, view.scaled
    ys = pixel_centers(height) * (scaled[0] / height) - top
    xs = pixel_centers(width) * (scaled[1] / width) - left
    laid = sample_map(values[None], offset, stride, ys, xs)[0]
    seen = ((ys >= 0) & (ys < crop_height))[:, None] & ((xs >= 0) & (xs < crop_width))
    return torch.where(seen.to(laid.device), laid, torch.full_like(laid, outside))
