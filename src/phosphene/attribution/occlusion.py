"""Occlusion sensitivity: what happens to the class probability when a window is covered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from phosphene.attribution.result import attribution
from phosphene.classifier import Classifier
from phosphene.devices import wide
from phosphene.errors import OptionError
from phosphene.grids import in_proportion
from phosphene.registry import register_attribution
from phosphene.runtime import masked_scores
from phosphene.targets import Target
from phosphene.types import Attribution

Fill = Literal["mean", "black", "white"]


@register_attribution(
    title="Occlusion sensitivity",
    family="perturbation",
    paper="zeiler2014",
    caveat="A window smaller than the evidence finds nothing: the rest of the object is enough.",
)
def occlusion(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    fill: Fill = "mean",
    positions: Literal["all", "covering"] = "all",
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """The class probability as a function of where a window of the image is covered.

    A window has its corner at every `stride` pixels, starting at 0 and up to the edge, clipped there; the raw map
    holds one probability per position. What is laid on the picture (`evidence`) is, per pixel, the mean drop of
    the probability over the windows that cover it.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is watched; its probability unless the target says otherwise.
        window: height and width of the window in pixels; None for 32, of sides below 224 pixels a seventh.
        stride: vertical and horizontal step in pixels; None for 16, of sides below 224 pixels a fourteenth.
        fill: mean (the classifier's mean image), black (as the report) or white.
        positions: all corners up to the edge, or no more than are needed for covering the image (captum's grid).
        batch_size: windows per pass; None chooses.
        progress: called with (windows done, windows in all).

    Returns:
        Maps (N, rows, columns) of the watched score per position; evidence (N, H, W), positive where covering
        lowers the score.

    Raises:
        OptionError: for a window or stride below 1 or a window larger than the image.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16, 2))
        >>> occlusion(Classifier(net), torch.rand(1, 3, 4, 4), Target.of(1), window=(2, 2), stride=(1, 2)).maps.shape
        torch.Size([1, 4, 2])

    References:
        zeiler2014, section 4.2; midha, section II-B.
    """
    height, width = int(images.shape[-2]), int(images.shape[-1])
    window = window or in_proportion(32, (height, width))
    stride = stride or in_proportion(16, (height, width))
    _check(window, stride, (height, width))
    tops = _corners(height, window[0], stride[0], positions)
    lefts = _corners(width, window[1], stride[1], positions)
    boxes = [(y, x, min(y + window[0], height), min(x + window[1], width)) for y in tops for x in lefts]
    found = masked_scores(
        classifier, images, target, boxes, _fill_color(classifier, fill), batch_size=batch_size, progress=progress
    )
    maps = found.covered.view(len(images), len(tops), len(lefts))
    evidence = _spread(found.clean[:, None] - found.covered, boxes, (height, width))
    offset = (min(window[0], height) / 2, min(window[1], width) / 2)
    grid = (offset, (float(stride[0]), float(stride[1])))
    notes = () if found.note is None else (found.note,)
    return attribution(maps, images, target, found.clean, grid=grid, evidence=evidence, notes=notes)


def _check(window: tuple[int, int], stride: tuple[int, int], size: tuple[int, int]) -> None:
    if min(*window, *stride) < 1:
        raise OptionError(f"occlusion: window {window} and stride {stride} must be at least 1 pixel")
    if window[0] > size[0] or window[1] > size[1]:
        raise OptionError(
            f"occlusion: a window of {window[0]} x {window[1]} does not fit an image of {size[0]} x {size[1]}"
        )


def _corners(length: int, window: int, stride: int, positions: str) -> list[int]:
    if positions == "covering":
        return [index * stride for index in range(-(-(length - window) // stride) + 1)]
    return list(range(0, length, stride))


def _fill_color(classifier: Classifier, fill: Fill) -> Tensor:
    mean = classifier.mean_image
    return {"mean": mean, "black": torch.zeros_like(mean), "white": torch.ones_like(mean)}[fill]


def _spread(values: Tensor, boxes: list[tuple[int, int, int, int]], size: tuple[int, int]) -> Tensor:
    """(N, H, W): per pixel the mean of the values (N, windows) of the windows that cover it; 0 where none does."""
    # Summed from the corners of each box: a running sum in both directions fills them in.
    device, values = values.device, wide(values)
    total = values.new_zeros(len(values), size[0] + 1, size[1] + 1)
    count = total.new_zeros(1, size[0] + 1, size[1] + 1)
    y0, x0, y1, x1 = torch.tensor(boxes, device=values.device).unbind(dim=1)
    for rows, columns, sign in ((y0, x0, 1), (y1, x1, 1), (y0, x1, -1), (y1, x0, -1)):
        place = rows * (size[1] + 1) + columns
        total.flatten(1).index_add_(1, place, sign * values)
        count.flatten(1).index_add_(1, place, torch.full_like(place, sign, dtype=torch.float64)[None])
    total, count = (corners.cumsum(1).cumsum(2)[:, :-1, :-1] for corners in (total, count))
    return (total / count.round().clamp(min=1)).float().to(device)
