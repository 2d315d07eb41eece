"""The largest connected piece of a mask."""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray


def largest_component(mask: NDArray[np.bool_], weight: NDArray[np.floating] | None = None) -> NDArray[np.bool_]:
    """The connected piece (by edges) of a mask with the most pixels, or the most weight; empty if the mask is.

    Args:
        mask: (h, w) boolean.
        weight: (h, w) what a pixel counts, never negative; None counts each as 1.

    Example:
        >>> largest_component(np.array([[True, False, True], [False, False, True]])).astype(int)
        array([[0, 0, 1],
               [0, 0, 1]])
    """
    labels, count = scipy.ndimage.label(mask)
    if count <= 1:
        return mask.copy()
    sizes = scipy.ndimage.sum_labels(np.ones(mask.shape) if weight is None else weight, labels, np.arange(1, count + 1))
    return np.asarray(labels == 1 + int(np.argmax(sizes)))
