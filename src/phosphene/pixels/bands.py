"""Numbers of any type as values in [0, 1], and their bands as the channels that a network takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from phosphene.errors import InputError, OptionError, warn

Values = NDArray[Any]
Alpha = Literal["none", "last", "premultiplied"]

# What rounding may add to values in [0, 1].
_SLACK = 1e-3


@dataclass(frozen=True)
class Bands:
    """The numbers of a picture as they are stored.

    Args:
        values: (C, H, W), of any type.
        name: what messages call it: a path, or what kind of array it is.
        alpha: whether the last band is transparency, and whether the others are multiplied by it already.
        white: the value of white, where integers use fewer bits than their type has.
        hint: what to do if the bands do not fit a network.
    """

    values: Values
    name: str
    alpha: Alpha = "none"
    white: int | None = None
    hint: str = ""


@dataclass(frozen=True)
class Scale:
    """Which stored values are black and white; what lies beyond is clipped.

    Example:
        >>> Scale(-1000, 3000).applied(np.array([-2000, 0, 3000], np.int16))
        array([0.  , 0.25, 1.  ], dtype=float32)
    """

    black: float
    white: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.black) and math.isfinite(self.white)) or self.black == self.white:
            raise OptionError(f"black={self.black}, white={self.white}: give two different finite values")

    def applied(self, values: Values) -> NDArray[np.float32]:
        """The values as float32 in [0, 1]."""
        unit = (values.astype(np.float64) - self.black) / (self.white - self.black)
        return unit.clip(0, 1).astype(np.float32)


def stated_scale(black: float | None, white: float | None) -> Scale | None:
    """The scale of values that somebody says are black (0 unless given) and white; None if nobody does.

    Raises:
        OptionError: if they are not two different finite numbers, or black comes alone.
    """
    for name, value in (("black", black), ("white", white)):
        if isinstance(value, bool) or not (value is None or isinstance(value, Real)):
            raise OptionError(f"{name}={value!r} is no number")
    if white is None:
        if black is not None:
            raise OptionError(f"black={black} without white; give both")
        return None
    try:
        return Scale(0.0 if black is None else float(black), float(white))
    except OverflowError:
        raise OptionError("black and white have to be numbers that a float holds") from None


# What 12 bits, as scanners have them, hold at most.
_TWELVE_BITS = 4095


def in_unit(bands: Bands, scale: Scale | None = None) -> NDArray[np.float32]:
    """(C, H, W) float32 in [0, 1], a copy: booleans, uint8 and uint16 by their type, floats as they are.

    Args:
        bands: the picture; its transparency is not touched by the scale.
        scale: which values are black and white; None for those of the type, as for bytes.

    Raises:
        InputError: for signed and for large integers, floats beyond [0, 1], NaN and infinity.

    Example:
        >>> in_unit(Bands(np.array([[[0, 257, 65535]]], np.uint16), "ramp.png")) * 255
        array([[[  0.,   1., 255.]]], dtype=float32)
    """
    # Files of other machines come in their byte order, which makes another type of it.
    values = bands.values.astype(bands.values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{bands.name}: holds NaN or infinity; replace them by values of [0, 1]")
    if scale is None or values.dtype in (np.bool_, np.uint8):
        return _by_type(values, bands)
    if bands.alpha == "none":
        return scale.applied(values)
    return np.concatenate([scale.applied(values[:-1]), _by_type(values[-1:], bands)])


def _by_type(values: Values, bands: Bands) -> NDArray[np.float32]:
    kind = values.dtype
    if kind.kind == "b":
        return values.astype(np.float32)
    if kind in (np.uint8, np.uint16):
        if kind == np.uint16 and bands.white is None and 0 < values.max(initial=0) <= _TWELVE_BITS:
            warn(
                "a picture of 16 bits without a value above 4095 is read as nearly black, as 65535 is white: if its "
                "values have 12 bits, --white 4095 says so (in Python Preprocess(white=4095), or read_image)"
            )
        top = np.float32(bands.white or np.iinfo(kind).max)
        return np.divide(values, top, dtype=np.float32).clip(0, 1)
    if kind.kind == "f":
        _check_range(float(values.min()), float(values.max()), bands)
        return values.astype(np.float32).clip(0, 1)
    what = f"signed integers ({kind})" if kind.kind == "i" else str(kind)
    raise InputError(f"{bands.name}: holds {what}, which have no known white; {_way_out(bands)}")


def _check_range(low: float, high: float, bands: Bands) -> None:
    if low >= -_SLACK and high <= 1 + _SLACK:
        return
    if low < 0:
        mine = (
            "normalised tensors go to phosphene.attribute with the bare network, or Classifier.of(network)"
            if bands.name.startswith("a picture of")
            else _way_out(bands)
        )
        advice = f"pass values in [0, 1], not normalised (the classifier normalises by itself); {mine}"
    elif high <= 255:
        advice = f"divide by 255 if they are 8-bit values; {_way_out(bands)}"
    else:
        advice = _way_out(bands)
    raise InputError(f"{bands.name}: holds floats from {low:.3g} to {high:.3g}, beyond [0, 1]; {advice}")


def _way_out(bands: Bands) -> str:
    """How the scale of such values is said, for a file or an array."""
    if bands.name.startswith("a picture of"):
        return "pass uint8, uint16, or floats scaled to [0, 1]; integers of more bits with Preprocess(white=...)"
    return (
        "save it as uint8, uint16 or floats in [0, 1], or say which values are black and white: --black and --white "
        "(in Python Preprocess(black=..., white=...), or read_image)"
    )


def eight_bits(values: NDArray[np.float32], kind: np.dtype[Any]) -> NDArray[np.uint8] | None:
    """The same picture in 8 bits, if all its values are k / 255; else None.

    Args:
        values: float32 in [0, 1].
        kind: the type they came from, which says how far rounding may have moved them.

    Example:
        >>> eight_bits(np.float32([0, 7 / 255, 1]), np.dtype("float32"))
        array([  0,   7, 255], dtype=uint8)
        >>> eight_bits(np.float32([0, 7.1 / 255, 1]), np.dtype("float32")) is None
        True
    """
    slack = max(2.0**-22, float(np.finfo(kind).eps) if kind.kind == "f" else 0.0)

    def rounded(part: NDArray[np.float32]) -> NDArray[np.float32] | None:
        nearest = np.rint(part * np.float32(255))
        return nearest if (np.abs(nearest / np.float32(255) - part) <= slack * part).all() else None

    if rounded(values[..., :1]) is None:  # most deep pictures show it in the first column
        return None
    found = rounded(values)
    return None if found is None else found.astype(np.uint8)


def fitted(bands: Bands, channels: int | None) -> Bands:
    """Bands in [0, 1] as a network of so many channels takes them.

    Transparency is laid on white where the network takes colors (1 or 3 channels) and kept where it takes as many
    channels as there are bands. Grey fits a network of three, colors one of a single channel.

    Args:
        bands: float32 in [0, 1].
        channels: of the network; None for whatever there is, transparency laid on white.

    Raises:
        InputError: if they do not fit.
    """
    count = len(bands.values)
    if channels == count:
        return bands
    if bands.alpha != "none" and count in (2, 4) and channels in (None, 1, 3):
        return replace(bands, values=_on_white(bands), alpha="none")
    if bands.alpha != "none" and count == 2 and channels == 4:
        return replace(bands, values=bands.values[[0, 0, 0, 1]])
    if channels is None or (count, channels) in ((1, 3), (3, 1)):
        return bands
    kinds = f"{count} band{'s' if count > 1 else ''} for a network of {channels} channel{'s' if channels > 1 else ''}"
    if count == 4 and channels == 3:
        kinds += ", and the fourth is not marked as transparency"
    raise InputError(f"{bands.name}: {kinds}; {bands.hint or f'give a picture of {channels}'}")


def _on_white(bands: Bands) -> NDArray[np.float32]:
    colors, opaque = bands.values[:-1], bands.values[-1:]
    laid = (colors if bands.alpha == "premultiplied" else colors * opaque) + (1 - opaque)
    return np.asarray(laid.clip(0, 1), np.float32)
