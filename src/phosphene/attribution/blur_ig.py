"""Blur integrated gradients: the gradient summed along the way from a blurred image to the sharp one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from phosphene.attribution.result import adding_up, attribution
from phosphene.classifier import Classifier
from phosphene.devices import widest
from phosphene.errors import OptionError
from phosphene.grids import in_proportion
from phosphene.registry import register_attribution
from phosphene.runtime import input_gradient, plain_mode, prepare
from phosphene.runtime.micro_batches import batches
from phosphene.targets import Target
from phosphene.types import Attribution

Border = Literal["black", "mirror"]


@register_attribution(
    title="Blur integrated gradients",
    family="gradient",
    paper="xu2020",
    display="percentile",
    caveat="Says which edges and textures make the score as they appear: smooth areas get little, whatever they mean.",
)
def blur_ig(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    steps: int = 50,
    sigma: float | None = None,
    border: Border = "black",
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Each pixel's share of what the score gains while the image comes out of a blur; the shares add up to it.

    ``A = sum over k of (L_k - L_k+1) * dS/dI at L_k+1/2``, L_k being the image blurred by a Gaussian of ``sigma * k /
    steps`` pixels, summed over channels: no baseline color has to be chosen. Beyond the border lies black, as in the
    authors' code, whose trace is seen at the edges, or the mirrored image; their sum takes the gradient at the
    sharper end of each step and the change by a small difference there, ours in the middle and over the whole step,
    so that fewer steps are needed. The check `completeness_error` is ``|sum of A - (S(image) - S(blurred))|``.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        steps: steps of the way, 1 or more.
        sigma: of the widest blur, in pixels of the network, above 0; None for 50, of sides below 224 pixels less.
        border: what lies beyond it, black or the mirrored image.
        batch_size: steps per pass; None chooses.
        progress: called with (steps done, steps in all).

    Returns:
        Signed maps (N, H, W) in units of the score.

    Raises:
        OptionError: for fewer than one step, or no blur.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2, bias=False))
        >>> images = torch.rand(1, 3, 8, 8)
        >>> found = blur_ig(Classifier(net), images, Target.of(1), steps=2, sigma=2.0)
        >>> found.checks["completeness_error"][0] < 1e-4
        True

    References:
        xu2020, equation 3 and section 3.2.
    """
    sigma = (
        sigma if sigma is not None else float(min(in_proportion(50, (int(images.shape[-2]), int(images.shape[-1])))))
    )
    if steps < 1 or not 0 < sigma < math.inf:
        raise OptionError(f"blur_ig: steps={steps} must be at least 1, sigma={sigma} above 0 and finite")
    classifier = prepare(classifier).settled()
    classifier.check_images(images)
    target = target.expand(len(images))
    maps, scores, dulls = [], [], []
    for index, image in enumerate(images.detach().to(classifier.device, torch.float32)):
        own = target.rows(index, index + 1)
        total = torch.zeros_like(image, dtype=widest(image.device))
        for first, last in batches(steps, batch_size, classifier.device):
            places = [step * sigma / steps for step in range(first, last + 1)]
            with plain_mode(image.device, gradients=False):
                ends = torch.stack([blurred(image, place, border) for place in places])
                middles = torch.stack([blurred(image, place + 0.5 * sigma / steps, border) for place in places[:-1]])
            _, slope = input_gradient(classifier, middles, own, batch_size=batch_size or last - first)
            total += ((ends[:-1] - ends[1:]) * slope).sum(dim=0)
            if progress is not None:
                progress(index * steps + last, len(images) * steps)
        with plain_mode(image.device, gradients=False):
            both = torch.stack([image, blurred(image, sigma, border)])
        sharp, dull = input_gradient(classifier, both, own, batch_size=batch_size)[0]
        maps.append(total.sum(dim=0))
        scores.append(sharp)
        dulls.append(dull)
    values, high = torch.stack(maps), torch.stack(scores)
    told = adding_up(values.sum(dim=(1, 2)), high - torch.stack(dulls), "steps")
    return attribution(values.float(), images, target, high, **told)


def blurred(image: Tensor, sigma: float, border: Border = "black") -> Tensor:
    """(C, H, W): the image blurred by a Gaussian of `sigma` pixels, cut off at 4 sigma."""
    rows, columns = (_blur(int(side), sigma, border, image) for side in image.shape[-2:])
    return rows @ image @ columns.T


def _blur(side: int, sigma: float, border: Border, like: Tensor) -> Tensor:
    """(side, side): the matrix that blurs a line of so many pixels."""
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return torch.eye(side, device=like.device, dtype=like.dtype)
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    weights = torch.exp(-0.5 * (offset / sigma) ** 2)
    weights = weights / weights.sum()
    place = torch.arange(side, device="cpu")[:, None].expand(-1, len(weights))
    seen = place + torch.arange(-radius, radius + 1, device="cpu")  # (side, 2 * radius + 1)
    if border == "mirror":
        seen = seen % (2 * side)
        seen = torch.where(seen < side, seen, 2 * side - 1 - seen)
    inside = (seen >= 0) & (seen < side)
    matrix = torch.zeros(side, side, dtype=torch.float64, device="cpu")
    matrix.index_put_((place[inside], seen[inside]), weights.expand_as(seen)[inside], accumulate=True)
    return matrix.to(like)
