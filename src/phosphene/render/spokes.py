"""A facet of a layer: its center on the map, its exemplars about it, and how far each is and how much it counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from phosphene.render.grid import INK, PAPER, font_of
from phosphene.render.scatter import square_thumbnail

_ROUNDS = 80


def facet_spokes(
    offsets: NDArray[np.floating],
    pictures: Sequence[Image.Image],
    distances: Sequence[float],
    weights: Sequence[float],
    *,
    color: str = "#0072b2",
    side: int = 560,
    thumbnail: int = 64,
) -> Image.Image:
    """The exemplars of a facet around its center, joined to it, each with its distance d and its weight w.

    A dot marks the place of each on the map; its picture is moved aside where it would hide another. The thicker the
    line, the larger the weight.

    Args:
        offsets: (n, 2) of the exemplars from the center, on the map.
        pictures: one per exemplar.
        distances: of the exemplars to the center.
        weights: of the exemplars, summing to 1.
        color: of the facet.
        side: of the sheet in pixels.
        thumbnail: side of a picture in pixels.

    Example:
        >>> pictures = [Image.new("RGB", (8, 8))] * 2
        >>> facet_spokes(np.array([[1.0, 0.0], [0.0, 2.0]]), pictures, [1.0, 2.0], [0.6, 0.4], side=300).size
        (300, 300)

    References:
        stergiou2021, figure 2.
    """
    room = side / 2 - thumbnail
    scale = room / max(float(np.abs(offsets).max(initial=0.0)), 1e-9)
    dots = side / 2 + scale * np.asarray(offsets, dtype=np.float64) * [1, -1]  # upwards, as in a plot
    places = _apart(dots, thumbnail + 40, side)
    sheet = Image.new("RGB", (side, side), PAPER)
    draw, font = ImageDraw.Draw(sheet), font_of(12)
    center = (side / 2, side / 2)
    most = max(weights, default=1.0)
    for dot, place, weight in zip(dots, places, weights, strict=True):
        draw.line([center, tuple(dot)], fill=color, width=1 + round(5 * weight / most))
        draw.line([tuple(dot), tuple(place)], fill="#b0b0b0", width=1)
    for dot, place, picture, distance, weight in zip(dots, places, pictures, distances, weights, strict=True):
        x, y = (round(value - thumbnail / 2) for value in place)
        sheet.paste(square_thumbnail(picture, thumbnail), (x, y))
        draw.rectangle((x - 2, y - 2, x + thumbnail + 1, y + thumbnail + 1), outline=color, width=2)
        draw.text((x, y + thumbnail + 3), f"d {distance:.2f}  w {weight:.2f}", fill=INK, font=font)
        draw.ellipse((dot[0] - 3, dot[1] - 3, dot[0] + 3, dot[1] + 3), fill=INK)
    draw.ellipse((center[0] - 8, center[1] - 8, center[0] + 8, center[1] + 8), fill=color, outline=INK)
    return sheet


def _apart(dots: NDArray[np.float64], least: float, side: int) -> NDArray[np.float64]:
    """Places near the dots, no two closer than `least` and none on the center, as far as the sheet has room."""
    places = dots.copy()
    fixed = np.array([[side / 2, side / 2]])
    for _ in range(_ROUNDS):
        others = np.concatenate([places, fixed])
        difference = places[:, None] - others[None]
        distance = np.linalg.norm(difference, axis=2)
        distance[np.arange(len(places)), np.arange(len(places))] = np.inf
        # Pictures at one place part along directions of their own.
        same = distance < 1e-6
        angles = np.arange(len(places))[:, None] * 2.4 + np.zeros(len(others))
        difference[same] = np.stack([np.cos(angles), np.sin(angles)], axis=2)[same]
        distance[same] = 1.0
        push = np.clip(least - distance, 0, None)[..., None] * difference / distance[..., None]
        places = np.clip(places + 0.25 * push.sum(axis=1), 0.55 * least, side - 0.55 * least)
    return places
