"""Attributions laid on the pictures they came from."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from phosphene.errors import OptionError
from phosphene.geometry import lay_on_original, whole_view
from phosphene.images import Picture, to_pil
from phosphene.render.contrast import contrast_labels, contrast_sheet
from phosphene.render.grid import side_by_side, stacked
from phosphene.render.heat import (
    Scale,
    doubt,
    heat_layer,
    opaque_map,
    overlay,
    scale_of,
    shared_scale,
    tells_no_place,
    with_doubt,
)
from phosphene.render.shown import Sheet, Tile, sheet_of, sheet_picture, shown_as
from phosphene.types import Attribution, Attributions, Contrast, Prediction, Render, View, whole_number

# Of the overlays of results that show themselves.
_SIDE, _STRENGTH = 480, 0.75
# Smaller pictures are enlarged: captions would cover them. From three times on their pixels are squares.
_SMALLEST, _SQUARES = 256, 3


def draw(
    result: Any,
    *,
    side: int = 480,
    strength: float = 0.75,
    scale: Literal["image", "shared"] = "image",
    render: Render = "overlay",
) -> Image.Image:
    """A result as one picture: heat maps laid on their pictures, impressions, boxes, facets; several side by side.

    Beside the map of deconvnet and guided back-propagation stands what they bring back, in color. Of several methods
    each picture is a row, with the methods side by side. A contrast becomes a row for each picture: the one class, the
    other, the difference, with one color scale.

    Args:
        result: from explain, attribute, contrast, impress, fuse, locate or features, or a list of them; an attribution
            made from tensors alone shows the maps on gray.
        side: long side of each heat map in pixels, at most; small pictures are enlarged by a whole number.
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
    if render not in get_args(Render):
        raise OptionError(f"render={render!r} is unknown; choose overlay, map or both")
    if scale not in ("image", "shared"):
        raise OptionError(f"scale={scale!r} is unknown; choose image or shared")
    if not isinstance(strength, Real) or not 0 <= strength <= 1:
        raise OptionError(f"strength={strength!r} must lie between 0 and 1")
    side = whole_number(side, "side")
    if isinstance(result, Contrast):
        places = [(index, how) for index in range(len(result)) for how in _each(render)]
        return stacked([_contrast_row(result, index, side, strength, how) for index, how in places])
    if isinstance(result, Attributions):
        columns = [_tiles(one, side, strength, scale, render) for one in result]
        labels = [text for text, column in zip(result.given, columns, strict=True) for text in [text] * len(column[0])]
        rows = [[tile.picture for tiles in row for tile in tiles] for row in zip(*columns, strict=True)]
        return stacked([side_by_side(row, labels, height=min(sheet.height for sheet in row)) for row in rows])
    if isinstance(result, Attribution):
        sheets = [tile.picture for tiles in _tiles(result, side, strength, scale, render) for tile in tiles]
        return sheets[0] if len(sheets) == 1 else side_by_side(sheets, height=min(sheet.height for sheet in sheets))
    return sheet_picture(sheet_of(result))


def _tiles(
    result: Attribution,
    side: int,
    strength: float,
    scale: Literal["image", "shared"],
    render: Render = "overlay",
    about: str = "",
) -> list[tuple[Tile, ...]]:
    """For each image its map as it is shown, and what the method brings back in color, where it does."""
    scales = [scale_of(heat, result.display) for heat in result.heat]
    if scale == "shared":
        scales = [shared_scale(scales)] * len(result)
    return [_image_tiles(result[index], scales[index], side, strength, render, about) for index in range(len(result))]


def _image_tiles(
    one: Attribution, scale: Scale, side: int, strength: float, render: Render, about: str
) -> tuple[Tile, ...]:
    lines = (
        about + _what(one) if about.endswith(": ") or not about else about,
        f"{one.spec}{f' at {one.layer}' if one.layer else ''}",
        scale.describe(),
        *(problem for problem in one.problems if problem),
        *(text for text in [_doubt(one), _tells_no_place(one)] if text),
        *one.notes,
    )
    brought_back = reconstruction_picture(one, _view(one), side)
    tiles = tuple(Tile(_laid(one, scale, side, strength, how), lines, scale) for how in _each(render))
    if brought_back is None:
        return tiles
    return *tiles, Tile(brought_back, ("what comes back, in color", "gray is zero"))


def _what(one: Attribution) -> str:
    """What is explained in an image, by name and with its probability where that is known."""
    if one.explained:
        return str(one.explained[0])
    return f"class {one.target.classes[0]}" if one.target.classes else str(one.target)


def _doubt(one: Attribution) -> str | None:
    return doubt(one.explained[0].label, one.explained[0].probability) if one.explained else None


def _tells_no_place(one: Attribution) -> str | None:
    return None if any(one.problems) else tells_no_place(one.heat[0], one.display)


@shown_as(Attribution)
def _attribution_sheet(result: Attribution) -> Sheet:
    tiles = _tiles(result, _SIDE, _STRENGTH, "image")
    alone = all(len(row) == 1 for row in tiles)
    return Sheet((tuple(tile for row in tiles for tile in row),) if alone else tuple(tiles))


@shown_as(Attributions)
def _attributions_sheet(result: Attributions) -> Sheet:
    columns = [
        _tiles(one, _SIDE, _STRENGTH, "image", about=f"{given}: " if len(result) > 1 else "")
        for given, one in result.items()
    ]
    return Sheet(tuple(tuple(tile for tiles in row for tile in tiles) for row in zip(*columns, strict=True)))


@shown_as(Contrast)
def _contrast_sheet(result: Contrast) -> Sheet:
    rows = []
    for index in range(len(result)):
        parts = [part[index] for part in result.parts]
        scale = shared_scale([scale_of(part.heat[0], part.display) for part in parts], "contrast")
        names = contrast_labels(*result.labels[index])
        abouts = [str(part.explained[0]) if part.explained else name for part, name in zip(parts, names, strict=True)]
        named = zip(parts, [*abouts[:2], names[2]], strict=True)
        rows.append(tuple(_image_tiles(part, scale, _SIDE, _STRENGTH, "overlay", about)[0] for part, about in named))
    return Sheet(tuple(rows))


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
    sure = one.explained[0] if one.explained else Prediction(0, "", math.nan)
    if how == "map":
        return with_doubt(laid_map(one, view, scale, side), sure.label, sure.probability)
    height, width = fitted(view.original, side)
    picture = thumbnail(one.pictures[0], side) if one.pictures else Image.new("RGB", (width, height), "gray")
    shown = overlay(picture, laid_layer(one, view, scale, side), strength, fine=scale.display == "percentile")
    return with_doubt(shown, sure.label, sure.probability)


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
    heat = widened(result.heat[0]) if scale.display == "percentile" else result.heat[0]
    laid = lay_on_original(heat, offset, stride, view, size=size)
    seen = lay_on_original(torch.ones_like(result.heat[0]), offset, stride, view, size=size) > 0
    return laid, scale, seen.cpu().numpy()


def widened(values: Tensor) -> Tensor:
    """Values (H, W) where each is the strongest of its neighborhood of 3 x 3, so that single pixels can be seen.

    Example:
        >>> widened(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -2.0]]))
        tensor([[ 0., -2., -2.],
                [ 0., -2., -2.]])
    """
    high = functional.max_pool2d(values[None], 3, stride=1, padding=1)[0]
    low = -functional.max_pool2d(-values[None], 3, stride=1, padding=1)[0]
    return torch.where(high >= -low, high, low)


def thumbnail(picture: Picture, side: int) -> Image.Image:
    """The picture for people to look at, of the size that `fitted` says; of one of few pixels each is a square."""
    shown = to_pil(picture)
    height, width = fitted((shown.height, shown.width), side)
    squares = max(height, width) >= _SQUARES * max(shown.size)
    how = Image.Resampling.NEAREST if squares else Image.Resampling.LANCZOS
    return shown if (width, height) == shown.size else shown.resize((width, height), how)


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) in the same proportions with the long side at most `side`; small ones by a whole number larger.

    Example:
        >>> fitted((3000, 4000), 2048), fitted((32, 32), 640), fitted((300, 200), 640)
        ((1536, 2048), (256, 256), (300, 200))
    """
    longest = max(size)
    factor = side / longest if longest > side else min(math.ceil(_SMALLEST / longest), side // longest)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
