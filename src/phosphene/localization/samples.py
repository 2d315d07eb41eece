"""Which pixels teach the mixtures: the most and the least salient ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from phosphene.errors import NumericalError, OptionError


@dataclass(frozen=True)
class Samples:
    """Pixels taken as examples of the object and of its surroundings; the rest is taken as neither.

    Args:
        foreground: (h, w) boolean.
        background: (h, w) boolean, disjoint from `foreground`.
    """

    foreground: NDArray[np.bool_]
    background: NDArray[np.bool_]


def quantile_samples(saliency: NDArray[np.floating], *, foreground: float = 0.95, background: float = 0.30) -> Samples:
    """The pixels above one quantile of a saliency map, and those below another.

    Foreground: saliency above its 95 % quantile; background: below its 30 % quantile (the paper's). Where ties
    leave one side empty (a map that is flat at its top or bottom) the ties count in.

    Args:
        saliency: (h, w), larger where the class is.
        foreground: quantile above which a pixel is an example of the object, in (0, 1).
        background: quantile below which it is one of the surroundings, not above `foreground`.

    Raises:
        OptionError: if the quantiles are out of order.
        NumericalError: if the map holds NaN or infinity, or is the same everywhere.

    Example:
        >>> samples = quantile_samples(np.arange(100.0).reshape(10, 10))
        >>> int(samples.foreground.sum()), int(samples.background.sum())
        (5, 30)

    References:
        simonyan2014, section 3.2.
    """
    if not 0 < background <= foreground < 1:
        raise OptionError(
            f"quantiles: background {background} and foreground {foreground}; give 0 < background <= foreground < 1"
        )
    check_map(saliency)
    low, high = np.quantile(saliency, [background, foreground])
    above, below = saliency > high, saliency < low
    above = above if above.any() else saliency >= high
    below = below if below.any() else saliency <= low
    return Samples(above & ~below, below)


def check_map(saliency: NDArray[np.floating]) -> None:
    """Refuse a map in which no place differs from another.

    Raises:
        NumericalError: naming what is wrong with it.
    """
    if saliency.ndim != 2 or saliency.size == 0:
        raise OptionError(f"a map of shape {saliency.shape}; expected (h, w)")
    if not np.isfinite(saliency).all():
        raise NumericalError("the map holds NaN or infinity: it says nothing about where the object is")
    if saliency.min() == saliency.max():
        raise NumericalError(f"the map is {saliency.flat[0]:.4g} everywhere: it says nothing about where the object is")
