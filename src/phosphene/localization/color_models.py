"""The colors or deep features of object and surroundings: two Gaussian mixtures, estimated once from samples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import skimage
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from phosphene.devices import own_random_state
from phosphene.errors import OptionError
from phosphene.localization.samples import Samples

# scikit-learn takes most of a second to load, which no command but those that segment should pay for.
if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

ColorSpace = Literal["lab", "rgb"]
Array = NDArray[np.floating]

# Variance added to every color channel (RGB in [0, 1], Lab divided by 100): a patch of one flat color is a
# mixture of points otherwise, and beats every pixel that differs from it by one grey level.
_LEAST_VARIANCE = 1e-4
# More examples than this do not change a mixture of a few components, but its time.
_MOST_SAMPLES = 2000


@dataclass(frozen=True)
class ColorModels:
    """Two fixed mixtures over the colors of one picture, or over its deep features (see principal_components)."""

    foreground: GaussianMixture
    background: GaussianMixture

    def log_odds(self, colors: Array) -> Array:
        """(h, w) of log p(color | object) - log p(color | surroundings), for colors (h, w, k)."""
        flat = colors.reshape(-1, colors.shape[-1])
        odds = self.foreground.score_samples(flat) - self.background.score_samples(flat)
        return np.asarray(odds).reshape(colors.shape[:2])


def color_features(image: Array, space: ColorSpace = "lab") -> Array:
    """(h, w, 3) colors in which distances are compared: RGB as it is, or CIE Lab divided by 100.

    Args:
        image: (h, w, 3) RGB in [0, 1].
        space: "lab", in which equal distances look about equally large, or "rgb".

    Example:
        >>> color_features(np.ones((1, 1, 3)))[..., 0].round(2).item()
        1.0
    """
    if space == "rgb":
        return image
    if space == "lab":
        return np.asarray(skimage.color.rgb2lab(image)) / 100.0
    raise OptionError(f"color space '{space}' is unknown; choose lab or rgb")


def fit_color_models(colors: Array, samples: Samples, *, components: int = 5, seed: int = 0) -> ColorModels:
    """Two Gaussian mixtures with full covariances, one from the foreground's samples and one from the background's.

    Args:
        colors: (h, w, k), see color_features.
        samples: which pixels are examples of which.
        components: Gaussians in each mixture; the paper gives no number, 5 is ours (as GrabCut has it). Fewer
            where there are fewer samples.
        seed: of the start of the estimation.

    Raises:
        OptionError: if components is below 1.

    Example:
        >>> colors = np.zeros((4, 4, 3)); colors[:2] = 1.0
        >>> top = np.zeros((4, 4), bool); top[:2] = True
        >>> odds = fit_color_models(colors, Samples(top, ~top), components=1).log_odds(colors)
        >>> bool((odds[:2] > 0).all()), bool((odds[2:] < 0).all())
        (True, True)

    References:
        simonyan2014, section 3.2; rother2004 for the number of components.
    """
    if components < 1:
        raise OptionError(f"{components} components; a mixture has at least 1")
    return ColorModels(
        _mixture(colors[samples.foreground], components, seed), _mixture(colors[samples.background], components, seed)
    )


def _mixture(pixels: Array, components: int, seed: int) -> GaussianMixture:
    with own_random_state():  # (what is loaded with it draws numbers)
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

    if len(pixels) > _MOST_SAMPLES:
        pixels = pixels[np.random.default_rng(seed).choice(len(pixels), _MOST_SAMPLES, replace=False)]
    if len(pixels) == 1:  # scikit-learn wants two samples
        pixels = np.repeat(pixels, 2, axis=0)
    settings: dict[str, Any] = {"reg_covar": _LEAST_VARIANCE, "max_iter": 30, "tol": 1e-2, "random_state": seed}
    # Threads only wait for each other on so few numbers: many times slower on a busy machine.
    with warnings.catch_warnings(), threadpool_limits(1):
        # Fewer distinct colors than components, or an estimate cut off at 50 rounds: still good colors.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(min(components, len(pixels)), **settings).fit(pixels)
