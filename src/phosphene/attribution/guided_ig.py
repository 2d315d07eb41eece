"""Guided integrated gradients: a way from the baseline to the image that goes where the gradient is small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from phosphene.attribution.result import adding_up, attribution
from phosphene.classifier import Classifier
from phosphene.devices import wide
from phosphene.errors import OptionError
from phosphene.registry import register_attribution
from phosphene.runtime import input_gradient, plain_mode, prepare
from phosphene.targets import Target
from phosphene.types import Attribution

# Distances nearer than this part of the whole count as reached, as in the authors' code.
_NEAR = 1e-9


@register_attribution(
    title="Guided integrated gradients",
    family="gradient",
    paper="kapishnikov2021",
    display="percentile",
    caveat="Each class has a path of its own, and rounding can change it: maps of two machines may differ.",
)
def guided_ig(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    steps: int = 200,
    fraction: float = 0.25,
    distance: float = 0.02,
    baseline: Literal["black", "mean", "white"] = "black",
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Each pixel's share of the difference to the baseline's score, along a way that leaves out noise.

    ``A = sum over steps of dS/dI at x * (change of x)``: at each step those values (a pixel's channel each) change
    whose gradient is the smallest, the `fraction` of them that lies lowest, until the image is nearer by one step,
    and none strays from the straight way by more than `distance`. The check `completeness_error` is ``|sum of A -
    (S(I) - S(B))|``: the sum takes the gradient at the start of each step.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        steps: steps of the way, 1 or more.
        fraction: share of the values that change at a time, in (0, 1].
        distance: how far a value may be ahead or behind, as a share of its whole way; 0 is integrated gradients.
        baseline: black (0), mean (the classifier's mean image) or white (1).
        batch_size: not used: each step needs the one before it.
        progress: called with (steps done, steps in all).

    Returns:
        Signed maps (N, H, W) in units of the score.

    Raises:
        OptionError: for fewer than one step, a fraction outside (0, 1] or a distance outside [0, 1].

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False))
        >>> images = torch.rand(1, 3, 2, 2)
        >>> found = guided_ig(Classifier(net), images, Target.of(1), steps=5)
        >>> torch.allclose(found.maps.sum(), net(images)[0, 1], atol=1e-5)
        True

    References:
        kapishnikov2021, section 3 and algorithm 1.
    """
    if steps < 1 or not 0 < fraction <= 1 or not 0 <= distance <= 1:
        raise OptionError(
            f"guided_ig: steps={steps} must be at least 1, fraction={fraction} in (0, 1], distance={distance} in [0, 1]"
        )
    classifier = prepare(classifier).settled()
    classifier.check_images(images)
    target = target.expand(len(images))
    mean = classifier.mean_image
    start = {"black": torch.zeros_like(mean), "mean": mean, "white": torch.ones_like(mean)}[baseline]
    maps, ends = [], []
    with plain_mode(classifier.device, gradients=False):
        for index, image in enumerate(images.detach().to(classifier.device, torch.float32)):
            own = target.rows(index, index + 1)
            image, base = wide(image), wide(start.to(image).expand_as(image))

            def slope(point: Tensor, own: Target = own) -> Tensor:
                return wide(input_gradient(classifier, point[None].float(), own)[1][0])

            total, place = torch.zeros_like(image), base.clone()
            for step in range(steps):
                added, place = _step(place, base, image, slope(place), (step + 1) / steps, fraction, distance)
                total += added
                if progress is not None:
                    progress(index * steps + step + 1, len(images) * steps)
            ends.append(input_gradient(classifier, torch.stack([base, image]).float(), own)[0])
            maps.append(total.sum(dim=0))
    values, (low, high) = torch.stack(maps), torch.stack(ends, dim=1)
    with plain_mode(classifier.device, gradients=False):
        shown = values.float().to(classifier.device)
    return attribution(shown, images, target, high, **adding_up(values.sum(dim=(1, 2)), high - low, "steps"))


def _step(
    place: Tensor, base: Tensor, image: Tensor, slope: Tensor, share: float, fraction: float, distance: float
) -> tuple[Tensor, Tensor]:
    """(what a step adds to the shares, where it ends): from `place` to where `share` of the distance is gone."""
    way = image - base
    low, high = base + way * max(share - distance, 0.0), base + way * min(share + distance, 1.0)
    whole = way.abs().sum()
    goal = whole * (1 - share)
    rank = slope.abs()
    total = torch.zeros_like(place)
    while True:
        before = place
        gone = (place - base) / torch.where(way == 0, torch.ones_like(way), way)
        behind = (way != 0) & (gone < max(share - distance, 0.0))
        place = torch.where(behind, low, place)
        missing = (image - place).abs().sum() - goal
        if bool(missing <= _NEAR * whole.clamp(min=1e-12)):
            return total + (place - before) * slope, place
        rank = torch.where(place == high, float("inf"), rank)
        bound = rank.flatten().kthvalue(int(fraction * (rank.numel() - 1)) + 1).values
        chosen = (rank <= bound) & rank.isfinite()
        if not bool(chosen.any()):  # all are as far as they may be
            return total + (place - before) * slope, place
        reach = ((place - high).abs() * chosen).sum()
        part = torch.where(reach > 0, missing / reach, float("inf"))
        if bool(part > 1):
            place = torch.where(chosen, high, place)
            total = total + (place - before) * slope
            continue
        place = torch.where(chosen, place + (high - place) * part, place)
        return total + (place - before) * slope, place
