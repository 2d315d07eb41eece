"""Insertion and deletion: does the class come and go with the places that the map ranks first?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from phosphene.devices import wide
from phosphene.errors import OptionError
from phosphene.registry import register_metric

Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Curve:
    """What a classifier says while an image is changed pixel by pixel.

    Args:
        fractions: (M,) share of the pixels changed, from 0 to 1.
        values: (M,) probability of the class.
        area: area under the curve by the trapezoid rule, in [0, 1].
    """

    fractions: Tensor
    values: Tensor
    area: float


@register_metric(title="Deletion", paper="petsiuk2018", family="faithfulness")
def deletion(
    image: Tensor, heat: Tensor, scores: Scores, *, blank: Tensor, step: int | None = None, batch_size: int = 8
) -> Curve:
    """How fast the class fades while the pixels that the map ranks first are replaced by `blank`; a small area is good.

    The curve begins at the clean image and ends at the blank one. Equal values are replaced in reading order.
    The half-blanked images are like nothing the network has seen, so part of what is measured is how it takes
    hard edges.

    Args:
        image: (C, H, W) in [0, 1].
        heat: (H, W); the highest values are replaced first.
        scores: maps copies (M, C, H, W) to the probability (M,) of the class.
        blank: (C, 1, 1) or (C, H, W): RISE uses what normalization maps to zero, the classifier's mean image.
        step: pixels replaced at a time: RISE replaces one row's worth, W; None takes 1/32 of the image (ours; the
            same ends, a coarser curve, a seventh of the passes at 224 pixels).
        batch_size: copies per call of `scores`.

    Returns:
        A Curve.

    Raises:
        OptionError: if the shapes do not fit, or for a step below 1.

    Example:
        >>> image, heat = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[2.0, 1.0]])
        >>> curve = deletion(image, heat, lambda copies: copies.mean((1, 2, 3)), blank=torch.zeros(1, 1, 1), step=1)
        >>> curve.values, curve.area
        (tensor([0.5000, 0.0000, 0.0000]), 0.125)

    References:
        petsiuk2018, section 4.
    """
    return _curve(image, blank.to(image).expand_as(image), heat, scores, step, batch_size)


@register_metric(title="Insertion", paper="petsiuk2018", family="faithfulness")
def insertion(
    image: Tensor, heat: Tensor, scores: Scores, *, start: Tensor, step: int | None = None, batch_size: int = 8
) -> Curve:
    """How fast the class appears while the pixels that the map ranks first come back; a large area is good.

    The curve begins at `start`, which says little, and ends at the clean image.

    Args:
        image: (C, H, W) in [0, 1].
        heat: (H, W); the highest values are put back first.
        scores: maps copies (M, C, H, W) to the probability (M,) of the class.
        start: (C, H, W): RISE uses `rise_blur` of the image.
        step: pixels put back at a time, as in `deletion`.
        batch_size: copies per call of `scores`.

    Returns:
        A Curve.

    Raises:
        OptionError: if the shapes do not fit, or for a step below 1.

    Example:
        >>> image, heat = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[2.0, 1.0]])
        >>> insertion(image, heat, lambda copies: copies.mean((1, 2, 3)), start=torch.zeros(1, 1, 2), step=1).area
        0.375

    References:
        petsiuk2018, section 4.
    """
    return _curve(start.to(image).expand_as(image), image, heat, scores, step, batch_size)


def rise_blur(image: Tensor, blank: Tensor) -> Tensor:
    """(C, H, W): the image as RISE's published code blurs it before insertion.

    Each channel is filtered by an 11 x 11 kernel, a Gaussian of 5 pixels folded back at the kernel's own border; what
    lies beyond the image counts as `blank`.

    Args:
        image: (C, H, W) in [0, 1].
        blank: (C, 1, 1) in [0, 1], the classifier's mean image.
    """
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = torch.from_numpy(gaussian_filter(point, 5)).to(image)
    # In the network's normalized units the border is zero; here that is the mean image.
    centered = (image - blank.to(image))[:, None]
    return F.conv2d(centered, kernel[None, None], padding=5)[:, 0] + blank.to(image)


def _curve(start: Tensor, end: Tensor, heat: Tensor, scores: Scores, step: int | None, batch_size: int) -> Curve:
    if heat.shape != start.shape[-2:]:
        raise OptionError(f"a map of {tuple(heat.shape)} for an image of {tuple(start.shape)}; bring it to its size")
    pixels = heat.numel()
    step = -(-pixels // 32) if step is None else step
    if step < 1:
        raise OptionError(f"step={step} pixels; change at least 1 pixel at a time")
    heat = heat.to(start.device)
    order = heat.flatten().argsort(descending=True, stable=True)
    turn = torch.empty_like(order).scatter_(0, order, torch.arange(pixels, device=heat.device)).view(heat.shape)
    counts = torch.tensor([*range(0, pixels, step), pixels], device=heat.device)
    found = [
        scores(torch.where((turn < part[:, None, None])[:, None], end, start))
        for part in torch.split(counts, batch_size)
    ]
    values, fractions = wide(torch.cat(found)), wide(counts) / pixels
    return Curve(fractions.float(), values.float(), float(torch.trapezoid(values, fractions)))
