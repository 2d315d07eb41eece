"""XRAI: regions of the image in the order in which they add most evidence for their size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import scipy
import skimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from phosphene.attribution.integrated_gradients import path_shares, told_of
from phosphene.attribution.result import attribution
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.registry import register_attribution
from phosphene.runtime import prepare
from phosphene.targets import Target
from phosphene.types import Attribution

# What scales and numbers of pixels are meant for; larger images are segmented at this size, as in the authors' code.
_SIDE = 224
# Of the segmentation, in pixels of that size: the blur before it, and the smallest segment.
_BLUR, _SMALLEST = 0.8, 150


@register_attribution(
    title="XRAI",
    family="gradient",
    paper="kapishnikov2019",
    display="range",
    caveat="A region has one value: its outline is that of colors in the image, whatever the network looked at in it.",
)
def xrai(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    steps: int = 50,
    baseline: Literal["both", "black", "white"] = "both",
    reduce: Literal["max", "sum"] = "max",
    scales: tuple[float, ...] = (50, 100, 150, 250, 500, 1200),
    dilation: float = 5.0,
    least: int = 50,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Regions of the image, each with the evidence that it holds for each of its pixels; the best come first.

    Integrated gradients ``A``, the mean over a black and a white baseline, are summed up over segments of colors
    (Felzenszwalb and Huttenlocher's, at several scales, so that they overlap). From an empty mask M on, the segment s
    of the highest gain density ``sum of A over s without M / pixels of s without M`` joins M again and again; that
    density is the value of the pixels that it adds. What no segment adds has its own mean. The channels of A are
    reduced by their maximum, as in the authors' code, which counts evidence against the class for little; with
    ``reduce=sum`` values are signed, and those of all pixels add up to the difference of the scores.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        steps: points of the quadrature from each baseline, 1 or more.
        baseline: black (0), white (1), or the mean of the maps of both.
        reduce: maximum or sum over the channels of a pixel.
        scales: of the segmentation, above 0: the larger, the larger the segments; for 224 pixels, less below.
        dilation: pixels by which segments are widened over their edges, of 224; below in proportion.
        least: pixels that a segment has to add, of 224 x 224; below in proportion.
        batch_size: points per pass; None chooses.
        progress: called with (points done, points in all).

    Returns:
        Maps (N, H, W) in units of the score per pixel, the same within a region.

    Raises:
        OptionError: for fewer than one step, scales that are not above 0, or negative numbers of pixels.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 2))
        >>> found = xrai(Classifier(net), torch.rand(1, 3, 32, 32), Target.of(1), steps=2, scales=(500,))
        >>> found.maps.shape, len(found.maps.unique()) < 512
        (torch.Size([1, 32, 32]), True)

    References:
        kapishnikov2019, section 3 and algorithm 1; felzenszwalb2004.
    """
    if steps < 1 or not scales or not min(scales) > 0 or not 0 <= dilation < math.inf or least < 1:
        raise OptionError(
            f"xrai: steps={steps} and least={least} must be at least 1, scales={scales} above 0 and "
            f"dilation={dilation} at least 0 and finite"
        )
    classifier = prepare(classifier).settled()
    classifier.check_images(images)
    target = target.expand(len(images))
    black, white = torch.zeros_like(classifier.mean_image), torch.ones_like(classifier.mean_image)
    starts = {"both": (black, white), "black": (black,), "white": (white,)}[baseline]
    maps, scores = [], []
    for index, image in enumerate(images.detach().to(classifier.device, torch.float32)):
        own, found = target.rows(index, index + 1), []
        for place, start in enumerate(starts):
            before, ways = index * len(starts) + place, len(images) * len(starts)
            told = None if progress is None else partial(told_of, progress, before, ways)
            shares, (_, score) = path_shares(classifier, image, own, start.to(image), steps, batch_size, told)
            found.append(shares)
        mean = torch.stack(found).mean(dim=0)
        evidence = mean.amax(dim=0) if reduce == "max" else mean.sum(dim=0)
        picture = image.permute(1, 2, 0).cpu().numpy()
        ratio = _ratio(picture.shape[:2])
        values = gain_densities(
            evidence.cpu().double().numpy(),
            segments(picture, scales, dilation * ratio),
            max(1, round(least * ratio**2)),
        )
        maps.append(torch.from_numpy(values).float().to(image.device))
        scores.append(score)
    return attribution(torch.stack(maps), images, target, torch.stack(scores))


def segments(picture: NDArray[Any], scales: Sequence[float], dilation: float) -> NDArray[np.bool_]:
    """(S, H, W): the overlapping segments of a picture (H, W, C) at all scales, widened by so many pixels."""
    height, width = picture.shape[:2]
    size = (min(height, _SIDE), min(width, _SIDE))
    ratio = _ratio(size)
    low, high = picture.min(), picture.max()
    stretched = 2.0 * (picture.astype(np.float64) - low) / max(float(high - low), 1e-12) - 1.0
    if size != (height, width):
        stretched = _resized(stretched, size, order=3)
    found: list[NDArray[np.bool_]] = []
    for scale in scales:
        with warnings.catch_warnings():  # that more than three channels are one picture, as is meant here
            warnings.filterwarnings("ignore", "Got image with third dimension", RuntimeWarning)
            labels = skimage.segmentation.felzenszwalb(
                stretched, scale * ratio, sigma=_BLUR, min_size=max(1, round(_SMALLEST * ratio**2))
            )
        if size != (height, width):
            labels = _resized(labels, (height, width), order=0)
        found += [_widened(labels, label, place, dilation) for label, place in _places(labels.astype(int))]
    return np.stack(found)


def _resized(values: NDArray[Any], size: tuple[int, int], order: int) -> NDArray[Any]:
    """Values (H, W, ...) at another size by splines of an order; labels, of order 0, are not smoothed."""
    options = {"mode": "constant", "preserve_range": True, "anti_aliasing": order > 0}
    found: NDArray[Any] = skimage.transform.resize(values, size, order=order, **options)  # type: ignore[no-untyped-call]
    return found


def _ratio(size: tuple[int, ...]) -> float:
    """How many pixels of an image stand for one of 224 x 224: 1 for images of that size and above."""
    return float(min(1.0, (size[0] * size[1]) ** 0.5 / _SIDE))


def _places(labels: NDArray[Any]) -> list[tuple[int, tuple[slice, slice]]]:
    """Each label that is there, and the box around it."""
    boxes = scipy.ndimage.find_objects(labels + 1)
    return [(label, box) for label, box in enumerate(boxes) if box is not None]


def _widened(labels: NDArray[Any], label: int, box: tuple[slice, slice], pixels: float) -> NDArray[np.bool_]:
    """(H, W): a segment and what lies within so many pixels of it."""
    room = int(pixels)
    if room == 0:
        return np.asarray(labels == label, dtype=bool)
    near = tuple(slice(max(0, side.start - room), side.stop + room) for side in box)
    found = np.zeros(labels.shape, dtype=bool)
    found[near] = scipy.ndimage.distance_transform_edt(labels[near] != label) <= pixels
    return found


def gain_densities(evidence: NDArray[Any], masks: NDArray[np.bool_], least: int) -> NDArray[np.float64]:
    """(H, W): for each pixel the mean evidence of what the segment that brings it adds to those before it.

    Args:
        evidence: (H, W).
        masks: (S, H, W) segments, which may overlap.
        least: pixels that a segment has to add.
    """
    flat, rows = evidence.ravel().astype(np.float64), masks.reshape(len(masks), -1)
    # By columns: a pixel that is taken is taken from all segments that hold it, and never looked at again.
    inside = scipy.sparse.csc_array(rows, dtype=np.float64)
    count, total = inside @ np.ones(len(flat)), inside @ flat
    free, found = np.ones(len(flat), dtype=bool), np.empty(len(flat))
    while True:
        gain = np.where(count >= least, total / np.maximum(count, 1), -np.inf)
        best = int(gain.argmax())
        if gain[best] == -np.inf:
            break
        added = np.flatnonzero(rows[best] & free)
        found[added] = flat[added].mean()
        free[added] = False
        taken = inside[:, added]
        count -= taken @ np.ones(len(added))
        total -= taken @ flat[added]
    if free.any():
        found[free] = flat[free].mean()
    return found.reshape(evidence.shape)
