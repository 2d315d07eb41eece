"""Attributions laid on the pictures they came from."""

from __future__ import annotations

import io

import torch
from PIL import Image

from phosphene import types
from phosphene.geometry import lay_on_original, whole_view
from phosphene.images import to_pil
from phosphene.render.grid import side_by_side
from phosphene.render.heat import Scale, heat_layer, overlay, scale_of
from phosphene.types import Attribution, View


def draw(result: Attribution, *, side: int = 480, strength: float = 0.75) -> Image.Image:
    """The heat maps of a result laid on their pictures, side by side.

    Args:
        result: from explain; made from tensors alone it shows the maps on grey.
        side: long side of each picture in pixels.
        strength: of the overlay, 0 to 1.

    Example:
        >>> from phosphene.types import Target
        >>> maps = torch.rand(2, 7, 7)
        >>> result = Attribution(maps, Target.of([0, 1]), torch.zeros(2), "cam", (16.0,) * 2, (32.0,) * 2, (224, 224))
        >>> draw(result, side=100).size
        (224, 116)
    """
    sheets = []
    for index in range(len(result)):
        one = result[index]
        view = one.views[0] if one.views else whole_view(one.size, one.size)
        height, width = fitted(view.original, side)
        picture = to_pil(one.pictures[0]) if one.pictures else Image.new("RGB", (width, height), "gray")
        layer = laid_layer(one, view, scale_of(one.heat[0], one.display), side)
        sheets.append(overlay(picture.resize((width, height), Image.Resampling.LANCZOS), layer, strength))
    return sheets[0] if len(sheets) == 1 else side_by_side(sheets, height=min(sheet.height for sheet in sheets))


def laid_layer(result: Attribution, view: View, scale: Scale, side: int) -> Image.Image:
    """The heat layer of the first map of a result, in the original's proportions, at most `side` pixels."""
    size = fitted(view.original, side)
    offset, stride = result.heat_grid
    laid = lay_on_original(result.heat[0], offset, stride, view, size=size)
    seen = lay_on_original(torch.ones_like(result.heat[0]), offset, stride, view, size=size) > 0
    return heat_layer(laid, scale, seen.cpu().numpy())


def thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """The picture with its long side at most `side` pixels."""
    height, width = fitted((picture.height, picture.width), side)
    return picture if (width, height) == picture.size else picture.resize((width, height), Image.Resampling.LANCZOS)


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) in the same proportions with the long side at most `side`.

    Example:
        >>> fitted((3000, 4000), 2048)
        (1536, 2048)
    """
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _png(result: Attribution) -> bytes:
    buffer = io.BytesIO()
    draw(result).save(buffer, "PNG")
    return buffer.getvalue()


# Notebooks ask a result for its picture; types itself knows no pictures.
types.SHOWN_AS[Attribution] = _png
