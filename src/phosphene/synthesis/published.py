"""Plain pixels under the random moves of the published generator of class impressions, for the presets `paper`."""

from __future__ import annotations

from dataclasses import dataclass

from phosphene.synthesis.augment import Affine, Augmentation, ColorOffset, Crop, Noise, Pad
from phosphene.synthesis.staged import Prior
from phosphene.types import Size

# In [0, 1] units: noise, pixels of reflection, color offsets before and after the warp, scales, whole degrees.
_NOISE, _PAD, _COLOR, _LATE_COLOR = 10 / 255, 16, 16 / 255, 8 / 255
_SCALES, _DEGREES = (0.95, 0.975, 1.0, 1.025, 1.05), 5.0


def transformations(size: Size, random_crop: bool = False) -> list[Augmentation]:
    """The published chain of random transformations before each look at images of a size.

    Noise U(-10, 10) per value, 16 pixels of reflection, a color offset U(-16, 16) per channel, a scale out of .95 .975
    1 1.025 1.05, a rotation by -5..5 whole degrees, a color offset U(-8, 8), the crop: at (16, 16), or at a random
    place. Scale and rotation are one warp here, with reflection beyond the border (ours).

    References:
        mopuri2018; addepalli2020, section 2.3, for the crop at a random place.
    """
    pad = min(_PAD, min(size) - 1)
    return [
        Noise(_NOISE),
        Pad(pad),
        ColorOffset(_COLOR),
        Affine(_DEGREES, scales=_SCALES, whole_degrees=True, padding="reflection"),
        ColorOffset(_LATE_COLOR),
        Crop(size, None if random_crop else (pad, pad)),
    ]


@dataclass(frozen=True)
class Published(Prior):
    """No prior, and the published transformations with their crop at a random place as the moves before each look.

    Example:
        >>> [type(move).__name__ for move in Published.none().augmentations((32, 32))]
        ['Noise', 'Pad', 'ColorOffset', 'Affine', 'ColorOffset', 'Crop']
    """

    def augmentations(self, size: Size) -> list[Augmentation]:
        """The moves before each look at images of a size."""
        return transformations(size, random_crop=True)
