"""Charts and rows of pictures: nothing that was given is hidden or cut off."""

from __future__ import annotations

import numpy as np
from PIL import Image

from phosphene.render.chart import _COLORS, line_chart
from phosphene.render.grid import GRAY, _fitting, channel_grid, filter_grid, font_of, side_by_side


def pixels_of(picture: Image.Image, color: str) -> int:
    """How many pixels have a color of the palette, the legend left out."""
    wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    plot = np.asarray(picture)[:, : picture.width * 3 // 5].astype(int)
    return int((np.abs(plot - wanted).max(axis=2) < 12).sum())


def test_a_line_that_runs_on_another_one_leaves_it_visible():
    values = [1.0, 0.4, float("nan"), 0.2, 0.1]
    drawn = line_chart({"cam": values, "grad_cam": [value + 1e-4 for value in values], "other": [0.0] * 5})
    below, above = (pixels_of(drawn, color) for color in _COLORS[:2])
    assert below > 200
    assert above > 200


def test_letters_grow_with_a_row_and_fit_under_the_pictures():
    wide = [Image.new("RGB", (300, 200))] * 5
    labels = ["picture", "a label of some length", "map", "mask", "box"]
    widths = [picture.width for picture in wide]
    size = _fitting(labels, widths, 40)
    assert size > 13
    assert all(font_of(size).getlength(label) <= 300 for label in labels)
    assert _fitting(["far too long for ten pixels"], [10], 40) == 9
    assert side_by_side(wide, labels, height=200).height > side_by_side(wide, height=200).height + 13


def test_sheets_of_a_layer_lie_on_nothing_and_are_read_on_white_and_on_black():
    for sheet in (
        channel_grid(np.zeros((24, 7, 7), np.float32), [f"{index}  max 0.53" for index in range(24)]),
        filter_grid(np.ones((32, 3, 3, 3), np.float32), [f"{index} about 0" for index in range(32)]),
    ):
        assert sheet.getpixel((0, 0)) == (255, 255, 255, 0)
        assert sheet.width >= 1000  # about as wide as a card: letters are not scaled up
        assert (*GRAY, 255) in {color for _, color in sheet.getcolors(1 << 20) or []}
    for paper in (255, 28):
        assert contrast(GRAY[0], paper) > 3.9


def contrast(one: int, other: int) -> float:
    """Of two grays, as WCAG has it."""
    dark, light = sorted(((value / 255 + 0.055) / 1.055) ** 2.4 for value in (one, other))
    return (light + 0.05) / (dark + 0.05)
