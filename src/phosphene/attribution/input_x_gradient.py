"""Input times gradient: each pixel's share of the score in the network's linear approximation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from phosphene.attribution.result import attribution
from phosphene.classifier import Classifier
from phosphene.registry import register_attribution
from phosphene.runtime import input_gradient
from phosphene.targets import Target
from phosphene.types import Attribution


@register_attribution(
    title="Input x gradient",
    family="gradient",
    paper="shrikumar2016",
    display="percentile",
    caveat="What equals the baseline gets nothing, however much the network looks at it.",
)
def input_x_gradient(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    baseline: Literal["black", "mean"] = "black",
    batch_size: int | None = None,
) -> Attribution:
    """How much each pixel, as far as it differs from the baseline, adds to the score to first order.

    ``A[i, j] = sum_c (I[i, j, c] - baseline[c]) * dS / dI[i, j, c]``, with I in [0, 1].

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        baseline: black (0) or mean, the classifier's mean image.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, H, W).

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> images = torch.rand(1, 3, 2, 2)
        >>> result = input_x_gradient(Classifier(net), images, Target.of(1))
        >>> torch.allclose(result.maps.sum(), net(images)[0, 1], atol=1e-6)
        True

    References:
        shrikumar2016.
    """
    score, gradient = input_gradient(classifier, images, target, batch_size=batch_size)
    images = images.detach().to(gradient)
    start = classifier.mean_image.to(gradient) if baseline == "mean" else torch.zeros_like(images[:1])
    return attribution(((images - start) * gradient).sum(dim=1), images, target, score)
