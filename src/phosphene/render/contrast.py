"""Why one class and not another: the maps of both and of the difference side by side, under one color scale."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from phosphene.render.grid import INK, PAPER, font_of, side_by_side
from phosphene.render.heat import Scale, colorbar


def contrast_labels(one: str, other: str) -> tuple[str, str, str]:
    """What stands below the three maps.

    Example:
        >>> contrast_labels("tabby", "lynx")
        ('tabby', 'lynx', 'tabby, not lynx')
    """
    return one, other, f"{one}, not {other}"


def contrast_sheet(
    overlays: Sequence[Image.Image], labels: Sequence[str], scale: Scale, *, height: int = 360
) -> Image.Image:
    """Overlays in a row with their labels, and below them the scale that they share.

    Args:
        overlays: pictures of the same size.
        labels: one per picture; cut short where it is wider than its picture.
        scale: of all of them.
        height: of the pictures, in pixels.
    """
    wide = round(overlays[0].width * height / overlays[0].height)
    row = side_by_side(overlays, [_shortened(label, wide) for label in labels], height=height)
    sheet = Image.new("RGB", (row.width, row.height + 26), PAPER)
    sheet.paste(row, (0, 0))
    pen, font = ImageDraw.Draw(sheet), font_of(13)
    ends = (f"{scale.low:.3g}", f"{scale.high:.3g}")
    left, strip = 8, colorbar(scale, (max(32, row.width // 3), 12))
    pen.text((left, row.height + 1), ends[0], fill=INK, font=font)
    left += round(font.getlength(ends[0])) + 6
    sheet.paste(strip, (left, row.height + 4))
    pen.text(
        (left + strip.width + 6, row.height + 1), scale.describe().removeprefix(f"{ends[0]} to "), fill=INK, font=font
    )
    return sheet


def _shortened(text: str, width: int) -> str:
    font = font_of(13)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
