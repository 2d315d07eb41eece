"""Pixel flipping: how much the class loses while the regions that a map ranks first are replaced by noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene.devices import wide
from phosphene.errors import OptionError
from phosphene.grids import in_proportion
from phosphene.registry import register_metric

Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Flipping:
    """What a classifier says while regions of one image are replaced.

    Args:
        values: (L + 1,) score of the class after 0, 1, ... L regions.
        aopc: the mean over them of what was lost since the start: the area over the curve; high is good.
    """

    values: Tensor
    aopc: float


@register_metric(title="Pixel flipping", paper="samek2017", family="faithfulness")
def pixel_flipping(
    image: Tensor,
    heat: Tensor,
    scores: Scores,
    *,
    cell: int | None = None,
    steps: int = 100,
    generator: torch.Generator | None = None,
    batch_size: int = 8,
) -> Flipping:
    """How fast the class fades while regions of the picture become noise, the one that the map ranks first before all.

    ``AOPC = 1 / (L + 1) sum over k = 0 ... L of f(x_0) - f(x_k)``; x_k is the image with the first k regions replaced
    by values drawn evenly from [0, 1]. A region is a square of `cell` pixels, its rank the sum of the map there. A
    map of few points in many regions gains as much as one of whole objects.

    Args:
        image: (C, H, W) in [0, 1].
        heat: (H, W).
        scores: maps copies (M, C, H, W) to the score (M,) of the class.
        cell: pixels along the side of a region, None for 9, of sides below 224 pixels less; those at the right and
            lower edge may be smaller.
        steps: L, or as many regions as there are.
        generator: source of the noise on the CPU; None starts a new one with seed 0.
        batch_size: copies per call of `scores`.

    Returns:
        A Flipping.

    Raises:
        OptionError: if the shapes do not fit, or for less than one pixel or step.

    Example:
        >>> image, heat = torch.ones(1, 4, 4), torch.eye(4)
        >>> found = pixel_flipping(image, heat, lambda copies: copies.mean((1, 2, 3)), cell=2, steps=2)
        >>> len(found.values), found.aopc > 0
        (3, True)

    References:
        samek2017, section III; bach2015.
    """
    if heat.shape != image.shape[-2:]:
        raise OptionError(f"a map of {tuple(heat.shape)} for an image of {tuple(image.shape)}; bring it to its size")
    cell = cell if cell is not None else min(in_proportion(9, (int(heat.shape[0]), int(heat.shape[1]))))
    if cell < 1 or steps < 1:
        raise OptionError(f"cell={cell} and steps={steps} must be at least 1")
    generator = generator or torch.Generator().manual_seed(0)
    height, width = heat.shape
    padded = F.pad(wide(heat)[None, None], (0, -width % cell, 0, -height % cell))
    regions = F.avg_pool2d(padded, cell)[0, 0]  # (h, w)
    order = regions.flatten().argsort(descending=True, stable=True)
    turn = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device)).view(regions.shape)
    turn = turn.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width].to(image.device)
    noise = torch.rand(image.shape, generator=generator, device="cpu", dtype=torch.float32).to(image)
    counts = torch.arange(min(steps, regions.numel()) + 1, device=image.device)
    found = [
        scores(torch.where((turn < part[:, None, None])[:, None], noise, image))
        for part in torch.split(counts, batch_size)
    ]
    values = wide(torch.cat(found))
    return Flipping(values.float(), float((values[0] - values).mean()))
