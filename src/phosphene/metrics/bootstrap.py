"""How far a mean over images may be off: bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from phosphene.errors import InputError, OptionError


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean over images.

    Images are drawn with replacement, as many as there are; the interval holds the middle `confidence` of the
    means. It covers the choice of images, not that of settings.

    Args:
        values: one number per image, True and False count as 1 and 0.
        confidence: in (0, 1).
        resamples: draws; ours.
        seed: of the draws.

    Raises:
        InputError: if there are no values.
        OptionError: if confidence is not in (0, 1).

    Example:
        >>> low, high = bootstrap_interval([1.0] * 75 + [0.0] * 25)
        >>> round(low, 2), round(high, 2)
        (0.67, 0.83)

    References:
        efron1979.
    """
    if len(values) == 0:
        raise InputError("no image was measured, so there is no interval; give at least one")
    if not 0 < confidence < 1:
        raise OptionError(f"confidence {confidence}; give a number between 0 and 1, such as 0.95")
    numbers = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    # One draw at a time: a table of images x resamples would grow with the data set.
    means = [numbers[generator.integers(0, len(numbers), len(numbers))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
