"""Pictures put together: channels of a layer as a labelled grid, pictures side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from phosphene.render.palette import palette

INK, PAPER = (32, 33, 36), (255, 255, 255)
# Of sheets that a page shows on white or on black: nothing between the pictures (white where alpha is dropped), and
# letters that are read on either.
CLEAR, GRAY = (*PAPER, 0), (122, 122, 128)
# How much longer than wide, or wider than long, a cell of a grid is at most.
_MOST_OBLONG = 4.0


def channel_grid(
    maps: NDArray[np.float32],
    labels: Sequence[str],
    *,
    shared: bool = True,
    cell: int = 224,
    columns: int | None = None,
) -> Image.Image:
    """Maps (K, h, w) as a grid of cells with their proportions, each with its label below.

    Args:
        maps: one map per channel.
        labels: one text per map.
        shared: one color scale for all maps, or each its own.
        cell: width of a cell in pixels.
        columns: cells per row; None makes the grid about square.
    """
    ends = [(float(values.min()), float(values.max())) for values in ([maps] if shared else maps)]
    tiles = [_colored(values, *ends[0 if shared else index]) for index, values in enumerate(maps)]
    return _tiled(tiles, labels, cell, columns)


def filter_grid(
    filters: NDArray[np.float32],
    labels: Sequence[str],
    *,
    shared: bool = False,
    cell: int = 128,
    columns: int | None = None,
) -> Image.Image:
    """Filters (K, C, h, w) as a grid of squares in their own colors, zero in the middle gray, a label below each.

    Of other channels than one or three the sum over the channels is drawn, in gray.

    Args:
        filters: weights, signed.
        labels: one text per filter.
        shared: one scale for all filters, or each its own.
        cell: side of a square in pixels.
        columns: squares per row; None makes the grid about square.

    Example:
        >>> filter_grid(np.ones((2, 3, 5, 5), np.float32), ["0", "1"], columns=2).size
        (304, 184)
    """
    colors = filters if filters.shape[1] == 3 else filters.sum(axis=1, keepdims=True).repeat(3, axis=1)
    largest = np.abs(colors).max(axis=(1, 2, 3), keepdims=True)
    largest = np.full_like(largest, largest.max()) if shared else largest
    shown = 0.5 + 0.5 * colors / np.where(largest > 0, largest, 1)
    pixels = (255 * shown).round().astype(np.uint8).transpose(0, 2, 3, 1)
    return _tiled([Image.fromarray(np.ascontiguousarray(values)) for values in pixels], labels, cell, columns)


def _tiled(tiles: Sequence[Image.Image], labels: Sequence[str], cell: int, columns: int | None) -> Image.Image:
    """Small pictures enlarged without smoothing to cells of their proportions, in rows, each with its label below.

    As large as a page shows them, so that the letters are not scaled up with them.
    """
    tall = max(tile.height / tile.width for tile in tiles)
    height = round(cell * min(max(tall, 1 / _MOST_OBLONG), _MOST_OBLONG))
    columns = columns or max(1, math.ceil(math.sqrt(len(tiles) * 1.4)))
    rows = math.ceil(len(tiles) / columns)
    letters = _fitting(labels, [cell] * len(labels), cell // 8)
    gap, caption = 16, letters * 3 // 2
    sheet = Image.new("RGBA", (columns * (cell + gap) + gap, rows * (height + caption + gap) + gap), CLEAR)
    draw, font = ImageDraw.Draw(sheet), font_of(letters)
    for index, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        x = gap + index % columns * (cell + gap)
        y = gap + index // columns * (height + caption + gap)
        sheet.paste(tile.resize((cell, height), Image.Resampling.NEAREST), (x, y))
        draw.text((x, y + height + 2), label, fill=GRAY, font=font)
    return sheet


def side_by_side(
    pictures: Sequence[Image.Image], labels: Sequence[str] = (), *, height: int = 224, gap: int = 8
) -> Image.Image:
    """Pictures in a row at one height, with a label below each.

    A long row is shown small: its letters grow with its width, as far as every label fits under its picture.
    """
    scaled = [
        picture.convert("RGB").resize((max(1, round(picture.width * height / picture.height)), height))
        for picture in pictures
    ]
    width = sum(picture.width for picture in scaled) + gap * (len(scaled) + 1)
    letters = _fitting(labels, [picture.width for picture in scaled], max(13, width // 64))
    caption = letters + 7 if labels else 0
    sheet = Image.new("RGB", (width, height + 2 * gap + caption), PAPER)
    draw, font, x = ImageDraw.Draw(sheet), font_of(letters), gap
    for index, picture in enumerate(scaled):
        sheet.paste(picture, (x, gap))
        if labels:
            draw.text((x, gap + height + 3), labels[index], fill=INK, font=font)
        x += picture.width + gap
    return sheet


def stacked(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures under each other on white."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _fitting(labels: Sequence[str], widths: Sequence[int], largest: int) -> int:
    """The size of letters, from `largest` down to 9, at which no label is wider than its place."""
    for size in range(largest, 9, -1):
        font = font_of(size)
        if all(font.getlength(label) <= width for label, width in zip(labels, widths, strict=False)):
            return size
    return 9


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size)


def _colored(values: NDArray[np.float32], low: float, high: float) -> Image.Image:
    share = np.zeros_like(values) if high <= low else (values - low) / (high - low)
    return Image.fromarray(palette("viridis")(share, bytes=True)[..., :3].copy(), "RGB")
