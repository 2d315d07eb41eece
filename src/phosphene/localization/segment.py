"""From a map and its picture to a mask: GraphCut on colors or deep features, or a threshold; then the largest piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from phosphene.errors import OptionError
from phosphene.localization.color_models import ColorSpace, color_features, fit_color_models
from phosphene.localization.component import largest_component
from phosphene.localization.graph_cut import Edges, contrast_edges, minimum_cut
from phosphene.localization.samples import Samples, check_map, quantile_samples
from phosphene.localization.threshold import above_share

Array = NDArray[np.floating]
SegmentName = Literal["graphcut", "threshold"]


def segment_name(text: str) -> SegmentName:
    """The segmentation of a name.

    Raises:
        OptionError: for a name that is none.
    """
    for name in get_args(SegmentName):
        if text == name:
            return name  # type: ignore[no-any-return]
    raise OptionError(f"segmentation '{text}' is unknown; give graphcut or threshold")


@dataclass(frozen=True)
class GraphCut:
    """Settings of the segmentation by likelihood: colors, or what a middle layer of the network makes of them.

    The log odds of a pixel are ``likelihood * clip(log p_object - log p_surroundings, -limit, limit)
    + saliency * (v - level)`` with the map v stretched to [0, 1].

    Args:
        foreground: quantile of the map above which pixels teach what the object looks like.
        background: quantile below which they teach those of the surroundings.
        components: Gaussians in each mixture.
        space: in which colors are compared, "lab" or "rgb".
        deep_features: principal components of a middle layer that the mixtures are made of; 0 leaves it to the colors.
            The price of parting neighbors always comes from the colors.
        likelihood: weight of what the mixtures say.
        limit: most that one pixel may say, in units of log odds.
        saliency: weight of what the map itself says; 0 leaves it to the colors.
        level: share of the map's range where it says neither object nor surroundings.
        smoothness: price of parting two equal neighbors on a grid with a long side of 96 cells.
        largest: which connected piece is the object: that with the most of the map's weight under it (ours: a large
            dim patch is not the object), or with the most pixels (the paper's).
    """

    foreground: float = 0.95
    background: float = 0.30
    components: int = 5
    space: ColorSpace = "rgb"
    deep_features: int = 0
    likelihood: float = 1.0
    limit: float = 50.0
    saliency: float = 0.0
    level: float = 0.0
    smoothness: float = 50.0
    largest: Literal["weight", "pixels"] = "weight"


@dataclass(frozen=True)
class Threshold:
    """Settings of the simple alternative.

    Args:
        level: share of the map's range from which on a place belongs to the object.
    """

    level: float = 0.25


@dataclass(frozen=True)
class Segmentation:
    """What a segmentation found.

    Args:
        mask: (h, w) the object, never empty.
        samples: the pixels that taught the mixtures; None for a threshold.
        cut: (h, w) all that was cut out, before the largest piece was taken.
    """

    mask: NDArray[np.bool_]
    cut: NDArray[np.bool_]
    samples: Samples | None = None


def segment(
    values: Array, image: Array, settings: GraphCut | Threshold, deep_features: Array | None = None
) -> Segmentation:
    """The mask of the object that a map points at.

    Where the colors leave nothing as object, the samples of the foreground are taken.

    Args:
        values: (h, w) map, larger where the class is.
        image: (h, w, 3) RGB in [0, 1], the picture on the same grid.
        settings: GraphCut or Threshold.
        deep_features: (h, w, k) what each place looks like to the network, on the same grid; None for its color.

    Raises:
        NumericalError: if the map holds NaN or is the same everywhere.

    Example:
        >>> image = np.zeros((16, 16, 3)); image[4:12, 2:10] = [1.0, 0.5, 0.0]
        >>> values = np.zeros((16, 16)); values[6:9, 5:8] = 1.0; values += 0.01 * image[..., 0]
        >>> segment(values, image, GraphCut(components=1)).mask.sum(), segment(values, image, Threshold()).mask.sum()
        (np.int64(64), np.int64(9))

    References:
        simonyan2014, section 3.2.
    """
    check_map(values)
    if isinstance(settings, Threshold):
        cut = above_share(values, settings.level)
        return Segmentation(_object(cut, values), cut)
    samples = quantile_samples(values, foreground=settings.foreground, background=settings.background)
    cut = minimum_cut(*_energy(values, image, samples, settings, deep_features))
    if not cut.any():
        cut = samples.foreground
    mask = _object(cut, values) if settings.largest == "weight" else largest_component(cut)
    return Segmentation(mask, cut, samples)


def _energy(
    values: Array, image: Array, samples: Samples, settings: GraphCut, deep_features: Array | None
) -> tuple[Array, Edges]:
    """The log odds of every pixel, and the price of parting neighbors."""
    colors = color_features(image, settings.space)
    seen = colors if deep_features is None else deep_features
    odds = fit_color_models(seen, samples, components=settings.components).log_odds(seen)
    unary = settings.likelihood * odds.clip(-settings.limit, settings.limit)
    unary = unary + settings.saliency * (_stretched(values) - settings.level)
    # A finer grid has more cells in an area than along its edge; the price of an edge keeps pace.
    smoothness = settings.smoothness * max(values.shape) / 96
    return unary, contrast_edges(colors, smoothness=smoothness)


def _object(cut: NDArray[np.bool_], values: Array) -> NDArray[np.bool_]:
    # A cut may be all in places where the map is at its lowest: they still count a little.
    return largest_component(cut, _stretched(values) + 1e-3)


def _stretched(values: Array) -> Array:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low)
