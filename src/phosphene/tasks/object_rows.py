"""Rows of objects that were found: masks, maps and pictures of how they were cut out, as a sink stores them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from phosphene.images import Picture, picture_size
from phosphene.render import draw_boxes, steps_picture, thumbnail
from phosphene.store import Asset, ObjectRow, file_stem
from phosphene.tasks.map_rows import REPORT_SIDE
from phosphene.tasks.objects import Located
from phosphene.types import Box


def object_row(folder: str, picture: Picture, found: Located, *, is_drawn: bool = True) -> ObjectRow:
    """The row of one object, with its mask, its map and the steps from the map to the box.

    Args:
        folder: of the picture within the run.
        picture: as it was given.
        found: the object.
        is_drawn: whether the steps are drawn.
    """
    stem = f"{folder}/{found.index}-{file_stem(found.label, 40)}"
    return ObjectRow(
        found.index,
        found.label,
        found.probability,
        box=(found.box.x0, found.box.y0, found.box.x1, found.box.y1),
        mask=Asset(f"{stem}-mask.png", Image.fromarray(found.mask)),
        map=Asset(f"{stem}-map.npy", found.evidence),
        steps=Asset(f"{stem}-steps.jpg", _steps(picture, found), {"quality": 90}) if is_drawn else None,
        point=found.point,
        area=int(found.mask.sum()),
    )


def _steps(picture: Picture, found: Located) -> Image.Image:
    """From the map to the box."""
    samples = found.segmentation.samples
    small, (height, width) = thumbnail(picture, REPORT_SIDE), picture_size(picture)
    return steps_picture(
        small,
        found.evidence,
        None if samples is None else (samples.foreground, samples.background),
        _resized(found.mask, small.size),
        _scaled(found.box, small.width / width, small.height / height),
    )


def overview(picture: Picture, found: Sequence[Located]) -> Image.Image:
    """The picture with the boxes and masks of all objects."""
    small = thumbnail(picture, REPORT_SIDE)
    height, width = picture_size(picture)
    across, down = small.width / width, small.height / height
    return draw_boxes(
        small,
        [_scaled(thing.box, across, down) for thing in found],
        [f"{thing.label} {_rounded(thing.probability)}" for thing in found],
        [_resized(thing.mask, small.size) for thing in found],
    )


def _rounded(probability: float) -> str:
    return f"{probability:.0%}" if probability >= 0.005 else "<1%"


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _scaled(box: Box, across: float, down: float) -> Box:
    return Box(box.x0 * across, box.y0 * down, box.x1 * across, box.y1 * down)
