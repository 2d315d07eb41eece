"""The simple alternative to a segmentation: a mask of all that is above a share of the map's range."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phosphene.errors import OptionError
from phosphene.localization.samples import check_map


def above_share(values: NDArray[np.floating], share: float) -> NDArray[np.bool_]:
    """The places whose value is at least ``min + share * (max - min)``.

    Args:
        values: (h, w).
        share: of the map's range, from 0 (everything) to 1 (the maximum alone).

    Returns:
        (h, w) boolean, never empty.

    Raises:
        OptionError: if share is not in [0, 1].
        NumericalError: if the map holds NaN or is the same everywhere.

    Example:
        >>> above_share(np.array([[0.0, 1.0, 4.0]]), 0.25).astype(int)
        array([[0, 1, 1]])

    References:
        zhou2016, section 3.2.
    """
    if not 0 <= share <= 1:
        raise OptionError(f"threshold {share}; give a share of the map's range, from 0 to 1")
    check_map(values)
    low, high = float(values.min()), float(values.max())
    return np.asarray(values >= low + share * (high - low))
