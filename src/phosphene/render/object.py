"""An object found in a picture: its mask, its box, and the steps from the map to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from phosphene.render.grid import font_of, side_by_side
from phosphene.render.heat import heat_layer, scale_of
from phosphene.types import Box

Mask = NDArray[np.bool_]
Color = tuple[int, int, int]
Frame = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# As in the paper's Figure 3: blue for the object's samples, cyan for those of its surroundings, red for neither.
FOREGROUND, BACKGROUND, NEITHER = (0, 0, 230), (0, 220, 220), (200, 0, 0)
_PALETTE = ((255, 176, 0), (100, 143, 255), (220, 38, 127), (0, 170, 120), (254, 97, 0))


def draw_boxes(
    picture: Image.Image,
    boxes: Sequence[Box],
    labels: Sequence[str],
    masks: Sequence[Mask],
    doubtful: Sequence[bool] | None = None,
) -> Image.Image:
    """The picture with each object's outline and box in a color of its own and its label.

    Args:
        picture: RGB.
        boxes: in pixels of the picture.
        labels: one text per box.
        masks: (H, W) boolean of the picture's size, one per box.
        doubtful: whether the object may well not be there, one per box: its outline is dashed. None for no such object.
    """
    shown = np.asarray(picture.convert("RGB"), dtype=np.float32).copy()
    colors = [_PALETTE[index % len(_PALETTE)] for index in range(len(boxes))]
    for mask, color in zip(masks, colors, strict=True):
        shown[mask] = 0.65 * shown[mask] + 0.35 * np.asarray(color, np.float32)
    drawn = Image.fromarray(shown.round().astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    width = max(2, round(max(picture.size) / 200))
    font = font_of(max(11, round(max(picture.size) / 32)))
    for box, color, dashed in zip(boxes, colors, doubtful or [False] * len(boxes), strict=True):
        outline = (box.x0, box.y0, box.x1 - 1, box.y1 - 1)
        if dashed:
            _dashed(pen, outline, color, width)
        else:
            pen.rectangle(outline, outline=color, width=width)
    taken: list[Frame] = []
    for box, label, color in zip(boxes, labels, colors, strict=True):
        taken.append(_label(pen, (box.x0 + width, box.y0 + width), label, color, font, taken))
    return drawn


def _dashed(pen: ImageDraw.ImageDraw, outline: Frame, color: Color, width: int) -> None:
    """A rectangle of dashes three widths long."""
    left, top, right, bottom = outline
    dash = 3 * width
    for start in np.arange(left, right, 2 * dash):
        end = min(start + dash, right)
        pen.rectangle((start, top, end, min(top + width - 1, bottom)), fill=color)
        pen.rectangle((start, max(bottom - width + 1, top), end, bottom), fill=color)
    for start in np.arange(top, bottom, 2 * dash):
        end = min(start + dash, bottom)
        pen.rectangle((left, start, min(left + width - 1, right), end), fill=color)
        pen.rectangle((max(right - width + 1, left), start, right, end), fill=color)


def _label(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, color: Color, font: Font, taken: Sequence[Frame]
) -> Frame:
    """Write a label, moved down where another one stands; the place it takes."""
    left, top, right, bottom = pen.textbbox(place, text, font=font)
    frame = (left - 2, top - 2, right + 2, bottom + 2)
    for other in sorted(taken, key=lambda other: other[1]):
        if frame[0] < other[2] and other[0] < frame[2] and frame[1] < other[3] and other[1] < frame[3]:
            place = (place[0], place[1] + other[3] - frame[1])
            left, top, right, bottom = pen.textbbox(place, text, font=font)
            frame = (left - 2, top - 2, right + 2, bottom + 2)
    pen.rectangle(frame, fill=color)
    pen.text(place, text, fill=(0, 0, 0), font=font)
    return frame


def sample_picture(foreground: Mask, background: Mask, size: tuple[int, int]) -> Image.Image:
    """Which pixels taught the mixtures: blue the object's, cyan the surroundings', red neither; (width, height)."""
    colors = np.empty((*foreground.shape, 3), np.uint8)
    colors[...] = NEITHER
    colors[foreground] = FOREGROUND
    colors[background] = BACKGROUND
    return Image.fromarray(colors).resize(size, Image.Resampling.NEAREST)


def object_alone(picture: Image.Image, mask: Mask) -> Image.Image:
    """The object as it is, all around it dark grey."""
    shown = np.asarray(picture.convert("RGB")).copy()
    shown[~mask] = (shown[~mask] * 0.15 + 30).astype(np.uint8)
    return Image.fromarray(shown)


def steps_picture(
    picture: Image.Image,
    values: NDArray[np.floating],
    samples: tuple[Mask, Mask] | None,
    mask: Mask,
    box: Box,
    *,
    height: int | None = None,
) -> Image.Image:
    """The paper's Figure 3 for one object: picture, map, samples in colors, what was cut out and boxed.

    Args:
        picture: RGB.
        values: (h, w) map over the whole picture.
        samples: (foreground, background) on the map's grid; None leaves the column out (a threshold has none).
        mask: (H, W) of the picture's size.
        box: in pixels of the picture.
        height: of the row, in pixels; None for 224, of tall pictures up to 480, for a row as wide as others.

    References:
        simonyan2014, figure 3.
    """
    scale = scale_of(values.astype(np.float32), "positive")
    heat = Image.new("RGB", (values.shape[1], values.shape[0]))
    heat.paste(heat_layer(values.astype(np.float32), scale).convert("RGB"))
    heat = heat.resize(picture.size, Image.Resampling.BILINEAR)
    found = object_alone(picture, mask)
    width = max(2, round(max(picture.size) / 200))
    corners = (box.x0, box.y0, box.x1 - 1, box.y1 - 1)
    ImageDraw.Draw(found).rectangle(corners, outline=_PALETTE[0], width=width)
    columns = [("picture", picture), ("map", heat), ("object and box", found)]
    if samples is not None:
        columns.insert(2, ("samples", sample_picture(*samples, picture.size)))
    if height is None:
        height = max(224, min(480, round(1200 / len(columns) * picture.height / picture.width)))
    return side_by_side([shown for _, shown in columns], [label for label, _ in columns], height=height)
