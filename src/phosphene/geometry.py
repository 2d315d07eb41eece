"""Which part of the picture the network sees, and maps laid back on the original."""

from __future__ import annotations

import torch
from torch import Tensor

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


def whole_view(original: Size, size: Size) -> View:
    """The whole picture squashed to `size`: nothing is left out, the aspect ratio may change."""
    return View(original, size, (0, 0, *size))


def sample_map(
    values: Tensor, offset: tuple[float, float], stride: tuple[float, float], ys: Tensor, xs: Tensor
) -> Tensor:
    """(N, Y, X) maps (N, h, w) read at the rows `ys` and columns `xs`, in network pixels.

    Cell (i, j) stands at (offset + stride * index); between the cells the value is bilinear, beyond the outermost cells
    that of the nearest one. The positions may lie on the CPU wherever the maps are.
    """
    rows, row_weight, next_rows = _neighbours(ys, offset[0], stride[0], values.shape[-2], values)
    columns, column_weight, next_columns = _neighbours(xs, offset[1], stride[1], values.shape[-1], values)
    upper, lower = values[:, rows], values[:, next_rows]
    mixed = upper + (lower - upper) * row_weight[:, None]  # (N, Y, w)
    near, far = mixed[..., columns], mixed[..., next_columns]
    return near + (far - near) * column_weight


def pixel_centers(count: int) -> Tensor:
    """(count,) where the pixels of a line stand, 0.5 the first; in float64, which not every device has, on the CPU."""
    return torch.arange(count, dtype=torch.float64, device="cpu") + 0.5


def _neighbours(
    positions: Tensor, offset: float, stride: float, count: int, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(first cell, weight of the second, second cell) beside the values, worked out where the positions are."""
    cell = ((positions - offset) / stride).clamp(0, count - 1)
    low = cell.floor().clamp(max=max(count - 2, 0))
    first = low.long().to(values.device)
    return first, (cell - low).to(values), (first + 1).clamp(max=count - 1)


def to_network_size(values: Tensor, offset: tuple[float, float], stride: tuple[float, float], size: Size) -> Tensor:
    """(N, H, W): maps on their native grid brought to one value per network pixel."""
    return sample_map(values, offset, stride, pixel_centers(size[0]), pixel_centers(size[1]))


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
