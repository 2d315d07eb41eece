"""What pixels look like to the network: the principal components of a middle layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from phosphene.errors import OptionError

Array = NDArray[np.floating]

# Spread over a picture's places of all components together: about that of the colors of a picture in Lab / 100, so
# that one least variance and one start of the mixtures fit both.
_SPREAD = 0.1


def principal_components(activations: Array, count: int) -> Array:
    """The `count` directions in which the activations at a picture's places differ most, spread like colors.

    Args:
        activations: (k, h, w) of one picture at one layer.
        count: components; no more than the layer has channels.

    Returns:
        (h, w, count), mean zero, strongest last, standard deviation of all values 0.1; zero where all places are
        the same.

    Raises:
        OptionError: if count is below 1.

    Example:
        >>> activations = np.zeros((5, 2, 3)); activations[4, 1] = 7.0
        >>> principal_components(activations, 1)[..., 0].round(2)
        array([[-0.1, -0.1, -0.1],
               [ 0.1,  0.1,  0.1]])
    """
    if count < 1:
        raise OptionError(f"{count} components; give at least 1")
    flat = np.asarray(activations, dtype=np.float64).reshape(len(activations), -1).T  # (h w, k)
    flat = flat - flat.mean(axis=0)
    axes = np.linalg.eigh(flat.T @ flat)[1][:, -count:]
    # An eigenvector's sign is open; its largest entry is made positive.
    axes = axes * np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0))
    found = flat @ axes
    spread = found.std()
    found = found * (_SPREAD / spread) if spread > 0 else found
    return np.asarray(found.reshape(*activations.shape[1:], -1))
