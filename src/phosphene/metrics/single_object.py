"""Is there one object in an impression, and only one, of what size? Single-object index, object count, coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
import torch
from torch import Tensor

from phosphene.errors import OptionError
from phosphene.maps import blur, disc, strongest_disc
from phosphene.registry import register_metric
from phosphene.types import Size

# Of a side of 224: the radius of the disc that is covered or left alone.
_RADIUS = 64 / 224


def positive_evidence(images: Tensor, gradient: Tensor, fill: Tensor) -> Tensor:
    """(N, H, W): the positive part of gradient x (image - fill), summed over the channels.

    Args:
        images: (N, C, H, W) in [0, 1].
        gradient: (N, C, H, W) of the class's score.
        fill: (C, 1, 1), what stands for nothing.

    Example:
        >>> positive_evidence(torch.ones(1, 2, 1, 1), torch.tensor([[[[3.0]], [[-1.0]]]]), torch.zeros(2, 1, 1)).item()
        3.0
    """
    return (gradient * (images - fill.to(images))).clamp(min=0).sum(dim=1)


def salient_discs(evidence: Tensor, radius: float = _RADIUS) -> Tensor:
    """(N, 1, H, W): the disc inside the frame that holds most evidence (N, H, W); radius in shorter sides."""
    size: Size = (int(evidence.shape[-2]), int(evidence.shape[-1]))
    pixels = min(round(radius * min(size)), (min(size) - 1) // 2)
    return disc(strongest_disc(evidence, pixels), pixels, size)


@register_metric(title="Single-object index", paper="addepalli2020")
def single_object_index(
    images: Tensor,
    evidence: Tensor,
    fill: Tensor,
    probability: Callable[[Tensor], Tensor],
    *,
    radius: float = _RADIUS,
) -> Tensor:
    """How much more probable the class is in the most salient disc alone than in everything but that disc.

    ``p(class | all but the disc filled) - p(class | the disc filled)``: +1 for one object and only one, below 0 for
    an image with spares elsewhere. A patch of texture on grey scores well too: read it with the judge's
    probability and the object count. The index is ours; the paper shows pictures (its Figure 2).

    Args:
        images: (N, C, H, W) in [0, 1].
        evidence: (N, H, W), never negative (positive_evidence).
        fill: (C, 1, 1), what the covered part shows.
        probability: images (N, C, H, W) -> (N,) probability of each image's class.
        radius: of the disc, as a fraction of the shorter side.

    Returns:
        (N,) in [-1, 1].

    Example:
        >>> images = torch.zeros(1, 1, 21, 21)
        >>> images[0, 0, 10, 10] = 1.0
        >>> bright = lambda seen: seen.amax(dim=(1, 2, 3))
        >>> single_object_index(images, images[:, 0], torch.zeros(1, 1, 1), bright).item()
        1.0

    References:
        addepalli2020, section 3.2.
    """
    if evidence.shape != images[:, 0].shape:
        raise OptionError(f"evidence of shape {tuple(evidence.shape)} for images of {tuple(images.shape)}")
    inside = salient_discs(evidence, radius).to(images) > 0
    background = fill.to(images).expand_as(images)
    alone = probability(torch.where(inside, images, background))
    without = probability(torch.where(inside, background, images))
    return alone - without


@register_metric(title="Object count", paper="addepalli2020")
def object_count(evidence: Tensor, *, sigma: float = 0.04, level: float = 0.5) -> Tensor:
    """How many separate places hold the evidence: connected parts of the blurred map above half of its maximum.

    Args:
        evidence: (N, H, W), never negative.
        sigma: of the Gaussian blur, as a fraction of the shorter side.
        level: fraction of the maximum; parts touch along edges, not corners.

    Returns:
        (N,) whole numbers; 0 for a map without evidence.

    Example:
        >>> evidence = torch.zeros(1, 50, 50)
        >>> evidence[0, 10, 10] = evidence[0, 40, 40] = 1.0
        >>> object_count(evidence)
        tensor([2])
    """
    smooth = blur(evidence.float(), sigma * min(evidence.shape[-2:])).cpu().numpy()
    return torch.tensor([_parts(values, level) for values in smooth], dtype=torch.long, device="cpu")


def _parts(values: np.ndarray, level: float) -> int:
    peak = values.max()
    return int(scipy.ndimage.label(values > level * peak)[1]) if peak > 0 else 0


@register_metric(title="Coverage", paper="zhou2016")
def coverage(evidence: Tensor, *, level: float = 0.4) -> Tensor:
    """How much of the frame an object takes up: the share of places above a part of the map's maximum.

    For class activation maps of a network that took no part. The level is ours: above .4 of their maximum MobileNetV2's
    maps of 120 photographs cover .49 of the frame, and the boxes about the objects .51 (above .2: .70; above .5: .40).

    Args:
        evidence: (N, h, w), never negative, best in the size of the image.
        level: part of the maximum.

    Returns:
        (N,) in [0, 1]; 0 for a map without evidence.

    Example:
        >>> coverage(torch.tensor([[[1.0, 0.5], [0.1, 0.0]]])).item()
        0.5

    References:
        zhou2016, whose boxes are about such places.
    """
    peak = evidence.flatten(1).amax(dim=1)[:, None, None]
    return ((evidence > level * peak) & (peak > 0)).float().mean(dim=(1, 2))


@register_metric(title="Entropy of a fused image", paper="addepalli2020")
def entropy(probabilities: Tensor) -> Tensor:
    """(N,) in nats: how undecided a classifier is, from its probabilities (N, K); log 2 between two classes.

    Example:
        >>> entropy(torch.tensor([[0.5, 0.5, 0.0]]))
        tensor([0.6931])
    """
    shares: Tensor = torch.special.entr(probabilities)
    return shares.sum(dim=1)
