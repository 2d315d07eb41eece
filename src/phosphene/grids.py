"""Maps on a grid of cells, read at any place between: bilinear, with the cells where the method put them."""

from __future__ import annotations

import torch
from torch import Tensor


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


def to_network_size(
    values: Tensor, offset: tuple[float, float], stride: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """(N, H, W): maps on their native grid brought to one value per network pixel."""
    return sample_map(values, offset, stride, pixel_centers(size[0]), pixel_centers(size[1]))


def in_proportion(pixels: int, size: tuple[int, int]) -> tuple[int, int]:
    """So many pixels along each side of a picture of 224 or more, of a smaller side as much less; at least one.

    Example:
        >>> in_proportion(32, (224, 300)), in_proportion(32, (32, 28))
        ((32, 32), (5, 4))
    """
    rows, columns = (min(pixels, max(1, round(pixels * side / 224))) for side in size)
    return rows, columns
