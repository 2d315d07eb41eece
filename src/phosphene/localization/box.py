"""The box around a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phosphene.errors import NumericalError
from phosphene.types import Box


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box that holds every pixel of a mask, half-open, in the mask's own pixels.

    Raises:
        NumericalError: if the mask is empty.

    Example:
        >>> mask = np.zeros((4, 6), bool); mask[1:3, 2:5] = True
        >>> tuple(bounding_box(mask))
        (2, 1, 5, 3)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        raise NumericalError("the mask is empty: no pixel speaks for the object, so there is no box around it")
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
