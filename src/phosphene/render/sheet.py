"""Contact sheets: many small pictures at a glance, a line or two below each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from phosphene.render.grid import INK, PAPER, font_of


def contact_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str] = (), *, columns: int = 8, cell: int = 160
) -> Image.Image:
    """Pictures in rows of squares, each with its caption below.

    Args:
        pictures: any sizes; scaled to fit the squares.
        captions: one per picture, lines separated by a line break; none for no captions.
        columns: squares per row.
        cell: side of a square in pixels.

    Example:
        >>> contact_sheet([Image.new("RGB", (20, 20))] * 3, columns=2, cell=50).size
        (118, 118)
    """
    gap, line = 6, 15
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    height = cell + lines * line + gap
    columns = max(1, min(columns, len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * height + gap), PAPER)
    draw, font = ImageDraw.Draw(sheet), font_of(11)
    for index, picture in enumerate(pictures):
        x, y = gap + index % columns * (cell + gap), gap + index // columns * height
        factor = cell / max(picture.size)
        small = picture.convert("RGB").resize(
            (max(1, round(picture.width * factor)), max(1, round(picture.height * factor))), Image.Resampling.LANCZOS
        )
        sheet.paste(small, (x + (cell - small.width) // 2, y + (cell - small.height) // 2))
        if captions:
            draw.multiline_text((x, y + cell + 1), captions[index], fill=INK, font=font, spacing=2)
    return sheet
