"""Rows of objects that were found: masks, maps and pictures of how they were cut out, as a sink stores them."""

from __future__ import annotations

from PIL import Image

from phosphene.images import Picture, picture_size
from phosphene.render import steps_picture, thumbnail
from phosphene.store import Asset, ObjectRow, file_stem
from phosphene.tasks.map_rows import REPORT_SIDE
from phosphene.tasks.objects import Located, resized_mask, scaled_box


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
        resized_mask(found.mask, small.size),
        scaled_box(found.box, small.width / width, small.height / height),
    )
