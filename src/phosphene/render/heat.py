"""Heat maps: values to colors, alone and laid on the picture; the scale is always stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from phosphene.render.grid import font_of
from phosphene.render.palette import palette
from phosphene.types import Display

Values = NDArray[np.float32]
Over = Literal["image", "shared", "contrast"]

_WHOSE: dict[Over, str] = {
    "image": "this map's own scale",
    "shared": "one scale for all images",
    "contrast": "one scale for the three maps",
}
_PALETTES: dict[Display, str] = {
    "positive": "inferno",
    "range": "inferno",
    "signed": "RdBu_r",
    "percentile": "RdBu_r",
}
# A scale ends here, so that single pixels do not darken the rest.
_QUANTILE = 0.995
# No color of a palette.
_UNSEEN = 128
# A scale by percentiles begins and ends here: what is weaker is left to the photograph, what is drawn can be seen.
_FROM, _TO = 0.95, 0.995
# A class of less is as good as ruled out.
_UNLIKELY = 0.01


@dataclass(frozen=True)
class Scale:
    """What the colors of a heat map mean: from `low` to `high`, and over which maps that was chosen.

    Args:
        low: value at the lower end; 0 for positive maps, -high for signed ones, of a range its own.
        high: value at the upper end; what is above has the same color.
        display: "positive", "signed", "range" or "percentile".
        over: "image", "shared" by a set of images, or by the maps of a "contrast".
        floor: of "percentile" the magnitude up to which nothing is drawn.
    """

    low: float
    high: float
    display: Display
    over: Over = "image"
    floor: float = 0.0

    def describe(self) -> str:
        """The scale in words."""
        if self.display == "percentile":
            share = f"magnitudes from {self.floor:.3g}, the strongest {100 - 100 * _FROM:.0f} % alone"
            return f"{self.low:.3g} to {self.high:.3g}, {share}, {_WHOSE[self.over]}"
        kind = _WHOSE[self.over].replace("scale", "range") if self.display == "range" else _WHOSE[self.over]
        return f"{self.low:.3g} to {self.high:.3g}, {kind}"


def scale_of(values: Tensor | Values, display: Display) -> Scale:
    """The scale of one map: up to the 99.5 % quantile of its magnitudes, so that single pixels do not darken the rest.

    A range goes from the 0.5 % to the 99.5 % quantile of the values: for methods such as RISE, whose map is far from
    zero everywhere, so that counted from zero all of it would have one color. Percentiles: what is drawn begins at the
    95 % quantile of the magnitudes and is at its fullest from the 99.5 % quantile on, so that the specks of a map of
    single pixels can be seen over a photograph.

    Example:
        >>> scale_of(torch.tensor([[0.5, 0.6], [0.5, 0.6]]), "range").describe()
        "0.5 to 0.6, this map's own range"
        >>> scale_of(torch.tensor([[0.0, 2.0], [-4.0, 1.0]]), "positive").high
        1.98...
    """
    array = _array(values)
    if display == "range":
        ends = np.quantile(array, [1 - _QUANTILE, _QUANTILE]) if array.size else np.zeros(2)
        return Scale(float(ends[0]), float(ends[1]), display)
    magnitudes = np.maximum(array, 0) if display == "positive" else np.abs(array)
    wanted = (_FROM, _TO) if display == "percentile" else (0.0, _QUANTILE)
    floor, high = map(float, np.quantile(magnitudes, wanted)) if magnitudes.size else (0.0, 0.0)
    high = high if high > 0 else float(magnitudes.max(initial=0.0))
    low = 0.0 if display == "positive" else -high
    return Scale(low, high, display, floor=floor if display == "percentile" else 0.0)


def shared_scale(scales: Sequence[Scale], over: Over = "shared") -> Scale:
    """The one scale that holds all of several maps."""
    low, high = min(scale.low for scale in scales), max(scale.high for scale in scales)
    return Scale(low, high, scales[0].display, over, min(scale.floor for scale in scales))


def heat_layer(values: Tensor | Values, scale: Scale, seen: NDArray[np.bool_] | None = None) -> Image.Image:
    """An RGBA picture of values (H, W): the stronger the evidence, the less transparent.

    Args:
        values: map of the picture's size.
        scale: what the colors mean.
        seen: (H, W) where the network looked; elsewhere the layer is transparent.
    """
    array = _array(values)
    share = _share(array, scale)
    strength = np.abs(share * 2 - 1) if scale.display in ("signed", "percentile") else share
    rgba = _palette(scale.display)[(share * 255).round().astype(np.uint8)].copy()
    # Signed maps would fade out of sight without the root; what percentiles leave over is never paler than this.
    opacity = np.clip(strength * 1.2, 0, 1) ** (0.6 if scale.display == "signed" else 1.0)
    if scale.display == "percentile":
        opacity = np.maximum(opacity, 0.5) * _is_drawn(array, scale)
    rgba[..., 3] = (opacity * 255).astype(np.uint8)
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


def overlay(picture: Image.Image, layer: Image.Image, strength: float = 0.75, *, fine: bool = False) -> Image.Image:
    """The heat layer laid on the picture, RGB, of the picture's size.

    Args:
        picture: RGB.
        layer: from heat_layer, of any size of the same proportions.
        strength: 0 shows the picture alone, 1 the layer as it is.
        fine: for a layer of specks, which are seen on a picture without colors and dim alone.
    """
    if layer.size != picture.size:
        layer = layer.resize(picture.size, Image.Resampling.BILINEAR)
    full = min(1.0, strength / 0.75) if fine else strength
    alpha = layer.getchannel("A").point([round(value * full) for value in range(256)])
    # A slightly dimmed, greyer picture lets the colors speak.
    calm = Image.blend(picture.convert("RGB"), picture.convert("L").convert("RGB"), 1.0 if fine else 0.35)
    if fine:
        calm = Image.blend(calm, Image.new("RGB", calm.size, "black"), 0.55 * full)
    return Image.composite(layer.convert("RGB"), calm, alpha)


def doubt(label: str, probability: float | None, shown: str = "colors show") -> str | None:
    """What has to be said of a map of a class that the network all but rules out; None where it does not.

    Colors go up to the map's own largest value, so that a class with next to no probability looks like any other.

    Example:
        >>> doubt("tench", 0.00004), doubt("tabby", 0.4)
        ('tench has a probability of 0.004 %: colors show what speaks for it most, not how much', None)
    """
    if probability is None or not 0 <= probability < _UNLIKELY:
        return None
    return f"{label} has a probability of {100 * probability:.1g} %: {shown} what speaks for it most, not how much"


def tells_no_place(values: Tensor, display: Display) -> str | None:
    """What has to be said of a map that colors nothing, or all of the picture alike; None of any other.

    Example:
        >>> tells_no_place(-torch.rand(2, 2), "positive")
        'the map is nowhere above zero: nothing in the picture speaks for it, so nothing is colored'
        >>> tells_no_place(torch.ones(2, 2), "positive")
        'the map is the same everywhere: it tells no place from another'
    """
    low, high = map(float, values.aminmax())
    if display == "positive" and high <= 0:
        return "the map is nowhere above zero: nothing in the picture speaks for it, so nothing is colored"
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return "the map is the same everywhere: it tells no place from another"
    return None


def with_doubt(picture: Image.Image, label: str, probability: float | None) -> Image.Image:
    """A drawn map; of a class with next to no probability with a line over its lower edge that says so."""
    if doubt(label, probability) is None:
        return picture
    return lined(picture, f"{label}: probability {100 * (probability or 0):.1g} %")


def lined(picture: Image.Image, text: str) -> Image.Image:
    """The picture with a line of text over its lower edge, cut short where it is wider than the picture."""
    shown = picture.convert("RGB")
    letters = max(10, min(round(max(shown.size) / 28), shown.width // 12, shown.height // 6))
    font = font_of(letters)
    while len(text) > 4 and font.getlength(text) > shown.width - letters:
        text = text[:-4] + "..."
    top = shown.height - round(letters * 1.7)
    pen = ImageDraw.Draw(shown)
    pen.rectangle((0, top, shown.width, shown.height), fill=(20, 20, 24))
    pen.text((letters // 2, top + round(letters * 0.25)), text, fill=(255, 255, 255), font=font)
    return shown


def colorbar(scale: Scale, size: tuple[int, int] = (256, 12)) -> Image.Image:
    """The scale's colors from low to high as a strip of (width, height) pixels."""
    width, height = size
    values = np.linspace(scale.low, scale.high, width, dtype=np.float32) if scale.high > scale.low else None
    shares = np.linspace(0, 1, width) if values is None else _share(values, scale)
    strip = _palette(scale.display)[(shares * 255).round().astype(np.uint8)]
    return Image.fromarray(np.broadcast_to(strip[None, :, :3], (height, width, 3)).copy(), "RGB")


def _array(values: Tensor | Values) -> Values:
    array = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values, np.float32)
    finite: Values = np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)
    return finite


def _share(array: Values, scale: Scale) -> Values:
    """Values as places on the scale, 0 to 1; of an empty scale the middle or the lower end."""
    if scale.high <= scale.low:
        return np.full_like(array, 0.5 if scale.display in ("signed", "percentile") else 0.0)
    if scale.display == "percentile":
        # From the floor on: pale colors would not be told from the photograph. Of many equal values all are the floor.
        above = np.clip((np.abs(array) - scale.floor) / max(scale.high - scale.floor, 1e-30), 0, 1)
        placed = 0.5 + 0.5 * np.sign(array) * np.where(_is_drawn(array, scale), 0.5 + 0.5 * above, 0)
        return placed.astype(np.float32)
    share: Values = np.clip((array - scale.low) / (scale.high - scale.low), 0, 1)
    return share


def _is_drawn(array: Values, scale: Scale) -> NDArray[np.bool_]:
    """Where a scale by percentiles draws anything."""
    magnitudes = np.abs(array)
    return np.asarray((magnitudes >= np.float32(scale.floor)) & (magnitudes > 0))


@cache
def _palette(display: Display) -> NDArray[np.uint8]:
    """(256, 4) colors."""
    colors = palette(_PALETTES[display])(np.arange(256), bytes=True)
    return np.asarray(colors, np.uint8)
