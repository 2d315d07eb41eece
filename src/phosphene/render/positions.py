"""A raw map by itself: one colored square per cell, with its scale beside it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from phosphene.render.grid import INK, PAPER, font_of
from phosphene.render.palette import palette


def position_map(values: NDArray[np.floating], *, side: int = 224, low: float = 0.0, high: float = 1.0) -> Image.Image:
    """One value per position as colors, blue low and red high, and a bar that says which is which.

    For occlusion the probability of the class as a function of where the occluder stands: blue is where covering hides
    what the class needs.

    Args:
        values: (rows, columns).
        side: longer side of the map in pixels.
        low: value of the lowest color.
        high: value of the highest color.

    Example:
        >>> position_map(np.array([[0.0, 1.0]]), side=100).size
        (156, 50)

    References:
        zeiler2014, figure 7d; midha, section II-B.
    """
    share = np.clip((np.asarray(values, dtype=np.float64) - low) / max(high - low, 1e-12), 0, 1)
    factor = side / max(share.shape)
    size = (max(1, round(share.shape[1] * factor)), max(1, round(share.shape[0] * factor)))
    colors = palette("turbo")
    shown = Image.fromarray(colors(share, bytes=True)[..., :3].copy(), "RGB").resize(size, Image.Resampling.NEAREST)
    bar = Image.fromarray(colors(np.linspace(1, 0, size[1])[:, None], bytes=True)[..., :3].copy(), "RGB")
    sheet = Image.new("RGB", (size[0] + 56, size[1]), PAPER)
    sheet.paste(shown, (0, 0))
    sheet.paste(bar.resize((12, size[1])), (size[0] + 8, 0))
    pen, font = ImageDraw.Draw(sheet), font_of(11)
    pen.text((size[0] + 23, 0), f"{high:.3g}", fill=INK, font=font)
    pen.text((size[0] + 23, size[1] - 13), f"{low:.3g}", fill=INK, font=font)
    return sheet
