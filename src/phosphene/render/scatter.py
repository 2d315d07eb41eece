"""Pictures on a map: each at its place, framed in the color of its group."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from phosphene.render.grid import PAPER

# Told apart by people with any kind of color vision, and by others at a glance.
GROUP_COLORS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#7a5195", "#8c8c00")


def group_color(group: int) -> str:
    """The color of a group, as hexadecimal RGB; after eight groups they come again.

    Example:
        >>> group_color(0) == group_color(8)
        True
    """
    return GROUP_COLORS[group % len(GROUP_COLORS)]


def thumbnail_map(
    points: NDArray[np.float32],
    pictures: Sequence[Image.Image | None],
    groups: Sequence[int],
    *,
    centers: NDArray[np.float32] | None = None,
    front: Collection[int] = (),
    side: int = 960,
    thumbnail: int = 52,
) -> Image.Image:
    """Pictures at their points (N, 2), framed in the color of their group; a dot where there is no picture.

    Args:
        points: places in any units; the map is stretched to the sheet, its proportions kept.
        pictures: one per point, or None for a dot.
        groups: one per point.
        centers: (C, 2) of the groups, drawn as crosses; None for none.
        front: points that are drawn last, larger and with a thicker frame.
        side: longer side of the sheet in pixels.
        thumbnail: side of a picture in pixels.
    """
    large = thumbnail * 3 // 2
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (side - large - 16) / max(float((high - low).max()), 1e-9)
    width, height = (round(float(extent) * scale) + large + 16 for extent in high - low)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index in sorted(range(len(points)), key=lambda index: index in front):
        x, y = (round(float(value)) + large // 2 + 8 for value in (points[index] - low) * scale)
        y = height - 1 - y  # upwards, as in a plot
        color, picture = group_color(groups[index]), pictures[index]
        if picture is None:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color)
            continue
        tile, frame = (large, 5) if index in front else (thumbnail, 3)
        corner = (x - tile // 2, y - tile // 2)
        draw.rectangle((*corner, corner[0] + tile - 1, corner[1] + tile - 1), fill=color)
        inside = tile - 2 * frame
        sheet.paste(square_thumbnail(picture, inside), (corner[0] + frame, corner[1] + frame))
    for group, center in enumerate(() if centers is None else centers):
        x, y = (round(float(value)) + large // 2 + 8 for value in (center - low) * scale)
        y = height - 1 - y
        for ink, width in (("white", 9), (group_color(group), 5)):
            draw.line((x - 13, y, x + 13, y), fill=ink, width=width)
            draw.line((x, y - 13, x, y + 13), fill=ink, width=width)
    return sheet


def square_thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """The middle of the picture as a square."""
    shorter = min(picture.size)
    left, top = (picture.width - shorter) // 2, (picture.height - shorter) // 2
    middle = picture.convert("RGB").crop((left, top, left + shorter, top + shorter))
    return middle.resize((side, side), Image.Resampling.LANCZOS)
