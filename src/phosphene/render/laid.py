"""Attributions laid on the pictures they came from."""

from __future__ import annotations

import io
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from phosphene import types
from phosphene.errors import OptionError
from phosphene.geometry import lay_on_original, whole_view
from phosphene.images import Picture, to_pil
from phosphene.render.contrast import contrast_labels, contrast_sheet
from phosphene.render.grid import side_by_side, stacked
from phosphene.render.heat import Scale, heat_layer, opaque_map, overlay, scale_of, shared_scale
from phosphene.types import Attribution, Attributions, Contrast, Render, View


def draw(
    result: Attribution | Attributions | Contrast,
    *,
    side: int = 480,
    strength: float = 0.75,
    scale: Literal["image", "shared"] = "image",
    render: Render = "overlay",
) -> Image.Image:
    """The heat maps of a result laid on their pictures, side by side.

    Beside the map of deconvnet and guided back-propagation stands what they bring back, in color. Of several methods
    each picture is a row, with the methods side by side. A contrast becomes a row for each picture: the one class, the
    other, the difference, with one color scale.

    Args:
        result: from explain, attribute or contrast; made from tensors alone it shows the maps on gray.
        side: long side of each picture in pixels.
        strength: of the overlay, 0 to 1.
        scale: "image" for a color scale for each map, "shared" for one for all maps of a method; a contrast always
            shares its own.
        render: "overlay" on the pictures, "map" for the maps by themselves, opaque, "both" for one beside the other.

    Raises:
        OptionError: for anything else.

    Example:
        >>> from phosphene.targets import Target
        >>> maps = torch.rand(2, 7, 7)
        >>> result = Attribution(maps, Target.of([0, 1]), torch.zeros(2), "cam", (16.0,) * 2, (32.0,) * 2, (224, 224))
        >>> draw(result, side=100).size
        (224, 116)
    """
    if not isinstance(result, Attribution | Attributions | Contrast):
        raise OptionError(f"{type(result).__name__} cannot be drawn; give what explain or contrast returned")
    if render not in get_args(Render):
        raise OptionError(f"render={render!r} is unknown; choose overlay, map or both")
    if isinstance(result, Contrast):
        places = [(index, how) for index in range(len(result)) for how in _each(render)]
        return stacked([_contrast_row(result, index, side, strength, how) for index, how in places])
    if isinstance(result, Attributions):
        columns = [_sheets(one, side, strength, scale, render) for one in result]
        labels = [text for text, column in zip(result.given, columns, strict=True) for text in [text] * len(column[0])]
        rows = [[sheet for sheets in row for sheet in sheets] for row in zip(*columns, strict=True)]
        return stacked([side_by_side(row, labels, height=min(sheet.height for sheet in row)) for row in rows])
    sheets = [sheet for sheets in _sheets(result, side, strength, scale, render) for sheet in sheets]
    return sheets[0] if len(sheets) == 1 else side_by_side(sheets, height=min(sheet.height for sheet in sheets))


def _sheets(
    result: Attribution, side: int, strength: float, scale: Literal["image", "shared"], render: Render
) -> list[list[Image.Image]]:
    """For each image its map as it is shown, and what the method brings back in color, where it does."""
    scales = [scale_of(heat, result.display) for heat in result.heat]
    if scale == "shared":
        scales = [shared_scale(scales)] * len(result)
    sheets = []
    for index in range(len(result)):
        picture = reconstruction_picture(result[index], _view(result[index]), side)
        shown = [_laid(result[index], scales[index], side, strength, how) for how in _each(render)]
        sheets.append([*shown, *([] if picture is None else [picture])])
    return sheets


def _each(render: Render) -> tuple[Literal["overlay", "map"], ...]:
    return ("overlay", "map") if render == "both" else (render,)


def _contrast_row(
    result: Contrast, index: int, side: int, strength: float, how: Literal["overlay", "map"]
) -> Image.Image:
    parts = [part[index] for part in result.parts]
    scale = shared_scale([scale_of(part.heat[0], part.display) for part in parts], "contrast")
    sheets = [_laid(part, scale, side, strength, how) for part in parts]
    return contrast_sheet(sheets, contrast_labels(*result.labels[index]), scale, height=sheets[0].height)


def _laid(one: Attribution, scale: Scale, side: int, strength: float, how: Literal["overlay", "map"]) -> Image.Image:
    """A result of one image as an overlay, or as its map by itself."""
    view = _view(one)
    if how == "map":
        return laid_map(one, view, scale, side)
    height, width = fitted(view.original, side)
    picture = to_pil(one.pictures[0]) if one.pictures else Image.new("RGB", (width, height), "gray")
    layer = laid_layer(one, view, scale, side)
    return overlay(picture.resize((width, height), Image.Resampling.LANCZOS), layer, strength)


def _view(one: Attribution) -> View:
    return one.views[0] if one.views else whole_view(one.size, one.size)


def reconstruction_picture(result: Attribution, view: View, side: int) -> Image.Image | None:
    """What deconvnet and guided back-propagation bring back to the first image, in its own colors and place.

    Gray is zero; a channel is lighter or darker by its sign, up to the 99.8 % quantile of the magnitudes. None where
    there is nothing of the kind: other methods, or channels that are no colors.
    """
    values = result.reconstruction
    if values is None or values.shape[1] not in (1, 3) or tuple(values.shape[-2:]) != tuple(result.size):
        return None
    magnitudes = values[0].abs().flatten()
    high = float(magnitudes.kthvalue(max(1, int(0.998 * magnitudes.numel()))).values) or float(magnitudes.max()) or 1.0
    size = fitted(view.original, side)
    laid = [lay_on_original(channel, result.offset, result.stride, view, size=size) for channel in values[0]]
    return to_pil(0.5 + 0.5 * torch.stack(laid) / high)


def laid_layer(result: Attribution, view: View, scale: Scale, side: int) -> Image.Image:
    """The heat layer of the first map of a result, in the original's proportions, at most `side` pixels."""
    return heat_layer(*_on_original(result, view, scale, side))


def laid_map(result: Attribution, view: View, scale: Scale, side: int) -> Image.Image:
    """The first map of a result by itself, opaque, in the original's proportions, at most `side` pixels."""
    return opaque_map(*_on_original(result, view, scale, side))


def _on_original(result: Attribution, view: View, scale: Scale, side: int) -> tuple[Tensor, Scale, NDArray[np.bool_]]:
    """(values, their scale, where the network looked) at the places of the original picture."""
    size = fitted(view.original, side)
    offset, stride = result.heat_grid
    laid = lay_on_original(result.heat[0], offset, stride, view, size=size)
    seen = lay_on_original(torch.ones_like(result.heat[0]), offset, stride, view, size=size) > 0
    return laid, scale, seen.cpu().numpy()


def thumbnail(picture: Picture, side: int) -> Image.Image:
    """The picture for people to look at, its long side at most `side` pixels."""
    shown = to_pil(picture)
    height, width = fitted((shown.height, shown.width), side)
    return shown if (width, height) == shown.size else shown.resize((width, height), Image.Resampling.LANCZOS)


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) in the same proportions with the long side at most `side`.

    Example:
        >>> fitted((3000, 4000), 2048)
        (1536, 2048)
    """
    factor = min(1.0, side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _png(result: Attribution | Attributions | Contrast) -> bytes:
    buffer = io.BytesIO()
    draw(result).save(buffer, "PNG")
    return buffer.getvalue()


# Notebooks ask a result for its picture; types itself knows no pictures.
types.SHOWN_AS |= {Attribution: _png, Attributions: _png, Contrast: _png}
