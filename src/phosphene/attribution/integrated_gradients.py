"""Integrated gradients: the gradient summed along the way from a baseline to the image."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from phosphene.attribution.result import adding_up, attribution
from phosphene.classifier import Classifier
from phosphene.devices import widest
from phosphene.errors import OptionError
from phosphene.registry import register_attribution
from phosphene.runtime import input_gradient, prepare
from phosphene.runtime.micro_batches import batches
from phosphene.targets import Target
from phosphene.types import Attribution


@register_attribution(
    title="Integrated gradients",
    family="gradient",
    paper="sundararajan2017",
    display="percentile",
    caveat="The map is about the difference to the baseline: what looks like the baseline gets nothing.",
)
def integrated_gradients(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    steps: int = 50,
    baseline: Literal["black", "mean", "white"] = "black",
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Each pixel's share of the difference between the image's score and the baseline's; the shares add up to it.

    ``A[i, j] = sum_c (I - B) * integral_0^1 dS(B + a (I - B)) / dI da``, by Gauss-Legendre quadrature. The check
    `completeness_error` is ``|sum of A - (S(I) - S(B))|`` in units of the score: what the quadrature misses.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        steps: points of the quadrature, 1 or more.
        baseline: black (0), mean (the classifier's mean image) or white (1).
        batch_size: points per pass; None chooses. Memory does not grow with `steps`.
        progress: called with (points done, points in all).

    Returns:
        Signed maps (N, H, W) in units of the score.

    Raises:
        OptionError: for fewer than one step.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> images = torch.rand(1, 3, 2, 2)
        >>> result = integrated_gradients(Classifier(net), images, Target.of(1), steps=2)
        >>> torch.allclose(result.maps.sum(), net(images)[0, 1], atol=1e-6)
        True

    References:
        sundararajan2017, sections 3 and 5.
    """
    if steps < 1:
        raise OptionError(f"integrated_gradients: steps={steps} must be at least 1")
    classifier = prepare(classifier).settled()
    classifier.check_images(images)
    target = target.expand(len(images))
    mean = classifier.mean_image
    start = {"black": torch.zeros_like(mean), "mean": mean, "white": torch.ones_like(mean)}[baseline]
    maps, ends = [], []
    for index, image in enumerate(images.detach().to(classifier.device, torch.float32)):
        told = None if progress is None else partial(told_of, progress, index, len(images))
        own = target.rows(index, index + 1)
        shares, scores = path_shares(classifier, image, own, start.to(image), steps, batch_size, told)
        maps.append(shares.sum(dim=0))
        ends.append(scores)
    values, (low, high) = torch.stack(maps), torch.stack(ends, dim=1)
    return attribution(values.float(), images, target, high, **adding_up(values.sum(dim=(1, 2)), high - low, "steps"))


def path_shares(
    classifier: Classifier,
    image: Tensor,
    target: Target,
    base: Tensor,
    steps: int,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """(shares (C, H, W) of each value of an image, scores (2,) of the baseline and of the image).

    Args:
        classifier: what is explained, settled.
        image: (C, H, W) on its device.
        target: of this image alone.
        base: (C, 1, 1) or (C, H, W), where the straight way begins.
        steps: points of the quadrature.
        batch_size: points per pass; None chooses.
        progress: called with (points done, points in all).
    """
    base = base.expand_as(image)
    total = torch.zeros_like(image, dtype=widest(classifier.device))
    scores: list[Tensor] = []
    places, weights = _path(steps)
    for first, last in batches(len(places), batch_size, classifier.device):
        points = torch.lerp(base, image, image.new_tensor(places[first:last])[:, None, None, None])
        score, gradient = input_gradient(classifier, points, target, batch_size=batch_size or last - first)
        # Without the ends, which weigh nothing and may have no gradient, as where a picture of one color is normed.
        inner = slice(int(first == 0), last - first - int(last == len(places)))
        # In float32 within a batch, a tenth of the time of products in float64; the batches add up in that.
        weight = gradient.new_tensor(weights[first:last][inner])[:, None, None, None]
        total += (weight * gradient[inner]).sum(dim=0)
        scores.append(score)
        if progress is not None:
            progress(last, len(places))
    return total * (image - base), torch.cat(scores)[[0, -1]]


def told_of(progress: Callable[[int, int], None], before: int, ways: int, done: int, points: int) -> None:
    """Tell how far one of several ways is as a part of all of them."""
    progress(before * points + done, ways * points)


def _path(steps: int) -> tuple[list[float], list[float]]:
    """(places in [0, 1], weights): both ends, which weigh nothing but give the scores, and the nodes between."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return [0.0, *(0.5 * (nodes + 1)).tolist(), 1.0], [0.0, *(0.5 * weights).tolist(), 0.0]
