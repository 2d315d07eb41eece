"""Heat maps: values to colors, alone and laid on the picture; the scale is always stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from phosphene.types import Display

Values = NDArray[np.float32]
Over = Literal["image", "shared", "contrast"]

_WHOSE: dict[Over, str] = {
    "image": "this map's own scale",
    "shared": "one scale for all images",
    "contrast": "one scale for the three maps",
}
_PALETTES: dict[Display, str] = {"positive": "inferno", "range": "inferno", "signed": "RdBu_r"}
# A scale ends here, so that single pixels do not darken the rest.
_QUANTILE = 0.995
# No color of a palette.
_UNSEEN = 128


@dataclass(frozen=True)
class Scale:
    """What the colors of a heat map mean: from `low` to `high`, and over which maps that was chosen.

    Args:
        low: value at the lower end; 0 for positive maps, -high for signed ones, of a range its own.
        high: value at the upper end; what is above has the same color.
        display: "positive", "signed" or "range".
        over: "image", "shared" by a set of images, or by the maps of a "contrast".
    """

    low: float
    high: float
    display: Display
    over: Over = "image"

    def describe(self) -> str:
        """The scale in words."""
        kind = _WHOSE[self.over].replace("scale", "range") if self.display == "range" else _WHOSE[self.over]
        return f"{self.low:.3g} to {self.high:.3g}, {kind}"


def scale_of(values: Tensor | Values, display: Display) -> Scale:
    """The scale of one map: up to the 99.5 % quantile of its magnitudes, so that single pixels do not darken the rest.

    A range goes from the 0.5 % to the 99.5 % quantile of the values: for methods such as RISE, whose map is far from
    zero everywhere, so that counted from zero all of it would have one color.

    Example:
        >>> scale_of(torch.tensor([[0.5, 0.6], [0.5, 0.6]]), "range").describe()
        "0.5 to 0.6, this map's own range"
        >>> scale_of(torch.tensor([[0.0, 2.0], [-4.0, 1.0]]), "positive").high
        1.985...
    """
    array = _array(values)
    if display == "range":
        ends = np.quantile(array, [1 - _QUANTILE, _QUANTILE]) if array.size else np.zeros(2)
        return Scale(float(ends[0]), float(ends[1]), display)
    magnitudes = np.abs(array) if display == "signed" else np.maximum(array, 0)
    high = float(np.quantile(magnitudes, _QUANTILE)) if magnitudes.size else 0.0
    high = high if high > 0 else float(magnitudes.max(initial=0.0))
    return Scale(-high if display == "signed" else 0.0, high, display)


def shared_scale(scales: Sequence[Scale], over: Over = "shared") -> Scale:
    """The one scale that holds all of several maps."""
    low, high = min(scale.low for scale in scales), max(scale.high for scale in scales)
    return Scale(low, high, scales[0].display, over)


def heat_layer(values: Tensor | Values, scale: Scale, seen: NDArray[np.bool_] | None = None) -> Image.Image:
    """An RGBA picture of values (H, W): the stronger the evidence, the less transparent.

    Args:
        values: map of the picture's size.
        scale: what the colors mean.
        seen: (H, W) where the network looked; elsewhere the layer is transparent.
    """
    share = _share(_array(values), scale)
    strength = np.abs(share * 2 - 1) if scale.display == "signed" else share
    rgba = _palette(scale.display)[(share * 255).round().astype(np.uint8)].copy()
    # Fine signed maps are specks of both signs: without the root they would fade out of sight.
    rgba[..., 3] = (np.clip(strength * 1.2, 0, 1) ** (0.6 if scale.display == "signed" else 1.0) * 255).astype(np.uint8)
    if seen is not None:
        rgba[~seen, 3] = 0
    return Image.fromarray(rgba, "RGBA") if rgba.ndim == 3 else Image.new("RGBA", (1, 1))


def opaque_map(values: Tensor | Values, scale: Scale, seen: NDArray[np.bool_] | None = None) -> Image.Image:
    """An RGB picture of values (H, W) by themselves, each in its color; gray where the network did not look.

    Args:
        values: map of the picture's size.
        scale: what the colors mean.
        seen: (H, W) where the network looked.

    Example:
        >>> opaque_map(torch.tensor([[0.0, 1.0]]), Scale(0.0, 1.0, "positive")).getpixel((0, 0))
        (0, 0, 3)
    """
    rgb = _palette(scale.display)[(_share(_array(values), scale) * 255).round().astype(np.uint8)][..., :3].copy()
    if seen is not None:
        rgb[~seen] = _UNSEEN
    return Image.fromarray(rgb, "RGB")


def overlay(picture: Image.Image, layer: Image.Image, strength: float = 0.75) -> Image.Image:
    """The heat layer laid on the picture, RGB, of the picture's size.

    Args:
        picture: RGB.
        layer: from heat_layer, of any size of the same proportions.
        strength: 0 shows the picture alone, 1 the layer as it is.
    """
    if layer.size != picture.size:
        layer = layer.resize(picture.size, Image.Resampling.BILINEAR)
    alpha = layer.getchannel("A").point([round(value * strength) for value in range(256)])
    # A slightly dimmed, greyer picture lets the colors speak.
    calm = Image.blend(picture.convert("RGB"), picture.convert("L").convert("RGB"), 0.35)
    return Image.composite(layer.convert("RGB"), calm, alpha)


def colorbar(scale: Scale, size: tuple[int, int] = (256, 12)) -> Image.Image:
    """The scale's colors from low to high as a strip of (width, height) pixels."""
    width, height = size
    strip = _palette(scale.display)[np.linspace(0, 255, width).round().astype(np.uint8)]
    return Image.fromarray(np.broadcast_to(strip[None, :, :3], (height, width, 3)).copy(), "RGB")


def _array(values: Tensor | Values) -> Values:
    array = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float32)
    finite: Values = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
    return finite


def _share(array: Values, scale: Scale) -> Values:
    """Values as places on the scale, 0 to 1; of an empty scale the middle or the lower end."""
    if scale.high <= scale.low:
        return np.full_like(array, 0.5 if scale.display == "signed" else 0.0)
    share: Values = np.clip((array - scale.low) / (scale.high - scale.low), 0, 1)
    return share


@cache
def _palette(display: Display) -> NDArray[np.uint8]:
    """(256, 4) colors."""
    colors = matplotlib.colormaps[_PALETTES[display]](np.arange(256), bytes=True)
    return np.asarray(colors, np.uint8)
