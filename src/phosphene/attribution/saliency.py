"""Class saliency maps: the derivative of the class score with respect to each pixel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from phosphene.attribution.result import attribution
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.geometry import ten_crops
from phosphene.maps import Sign, max_over_channels
from phosphene.registry import register_attribution
from phosphene.runtime import input_gradient
from phosphene.targets import Target
from phosphene.types import Attribution


@register_attribution(
    title="Class saliency",
    family="gradient",
    paper="simonyan2014",
    signed=False,
    display="positive",
    caveat="Shows where a tiny change of a pixel would move the score, not which pixels made it.",
    view=lambda options: "margin" if options.get("crops") == 10 else None,
)
def saliency(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    crops: Literal[1, 10] = 1,
    sign: Sign = "abs",
    batch_size: int | None = None,
) -> Attribution:
    """How strongly each pixel moves the class score: max over channels of |dS/dx|, by one backward pass.

    ``M[i, j] = max_c |dS / dI[i, j, c]|``. With ``crops=10`` the map is the mean over the four corner crops, the
    central one and their mirror images, each put back, un-mirrored, where it came from; every pixel is
    divided by the number of crops that covered it, and the score is the mean over the crops.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1]; for ten crops larger than the network's input on both sides.
        target: the class or unit whose score is differentiated.
        crops: 1 for the image as it is, 10 for Krizhevsky's ten crops.
        sign: abs for magnitudes; positive or negative to keep one sign of the gradient.
        batch_size: images per pass; None chooses.

    Returns:
        Maps (N, H, W), never negative.

    Raises:
        OptionError: for ten crops of images no larger than the network's input.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> result = saliency(Classifier(net), torch.rand(1, 3, 2, 2), Target.of(1))
        >>> weight = net[1].weight[1].view(3, 2, 2)
        >>> torch.allclose(result.maps[0], weight.abs().amax(0))
        True

    References:
        simonyan2014, section 3.1.
    """
    if crops == 1:
        score, gradient = input_gradient(classifier, images, target, batch_size=batch_size)
        return attribution(max_over_channels(gradient, sign), images, target, score)
    places = _ten_crops(images, classifier.preprocess.size)
    images = images.detach().to(classifier.device)
    target = target.expand(len(images))
    height, width = classifier.preprocess.size or (0, 0)
    maps, coverage = torch.zeros_like(images[:, 0]), torch.zeros_like(images[0, 0])
    score = images.new_zeros(len(images))
    for top, left, mirrored in places:
        crop = images[..., top : top + height, left : left + width]
        values, gradient = input_gradient(classifier, _flip(crop, mirrored), target, batch_size=batch_size)
        maps[..., top : top + height, left : left + width] += _flip(max_over_channels(gradient, sign), mirrored)
        coverage[top : top + height, left : left + width] += 1
        score += values / len(places)
    return attribution(maps / coverage.clamp(min=1), images, target, score)


def _ten_crops(images: Tensor, size: tuple[int, int] | None) -> list[tuple[int, int, bool]]:
    """(top, left, mirrored) of Krizhevsky's ten crops."""
    rows, columns = images.shape[-2:]
    if size is None or rows <= size[0] or columns <= size[1]:
        shown = "any size" if size is None else f"{size[0]} x {size[1]}"
        raise OptionError(
            f"ten crops need images larger than the network's input ({shown}), got {rows} x {columns}; "
            "pass the picture to explain(), which cuts it out with a margin"
        )
    return ten_crops((int(rows), int(columns)), size)


def _flip(values: Tensor, mirrored: bool) -> Tensor:
    return values.flip(-1) if mirrored else values
