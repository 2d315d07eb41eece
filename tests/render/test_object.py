"""Pictures of found objects: sizes and colors that mean something."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from phosphene.render.object import (
    BACKGROUND,
    FOREGROUND,
    NEITHER,
    draw_boxes,
    object_alone,
    sample_picture,
    steps_picture,
)
from phosphene.types import Box


def mask() -> np.ndarray:
    shown = np.zeros((60, 80), bool)
    shown[20:40, 30:60] = True
    return shown


def test_samples_have_the_colors_of_the_papers_figure():
    foreground, background = np.zeros((2, 3), bool), np.zeros((2, 3), bool)
    foreground[0, 0] = background[1, 2] = True
    pixels = np.asarray(sample_picture(foreground, background, (3, 2)))
    assert tuple(pixels[0, 0]) == FOREGROUND
    assert tuple(pixels[1, 2]) == BACKGROUND
    assert tuple(pixels[0, 1]) == NEITHER


def test_the_object_keeps_its_pixels_and_the_rest_goes_dark():
    picture = Image.new("RGB", (80, 60), (200, 180, 160))
    pixels = np.asarray(object_alone(picture, mask()))
    assert (pixels[mask()] == (200, 180, 160)).all()
    assert (pixels[~mask()] < 100).all()


def test_boxes_are_drawn_on_their_edges_and_labels_do_not_cover_each_other():
    picture = Image.new("RGB", (320, 240))
    box = Box(100, 60, 220, 180)
    plain = np.asarray(draw_boxes(picture, [box], ["one"], [np.zeros((240, 320), bool)]))
    assert plain[60, 150].any()
    assert plain[179, 150].any()
    assert not plain[58, 150].any()
    assert not plain[181, 150].any()
    both = np.asarray(draw_boxes(picture, [box, box], ["one", "two"], [np.zeros((240, 320), bool)] * 2))
    assert {tuple(color) for color in both.reshape(-1, 3).tolist()} >= {(255, 176, 0), (100, 143, 255)}


def test_an_object_that_may_not_be_there_has_a_dashed_outline_of_the_same_box():
    picture, nothing = Image.new("RGB", (320, 240)), [np.zeros((240, 320), bool)]
    for box in (Box(100, 60, 220, 180), Box(100, 60, 101, 61)):
        solid, dashed = (
            np.asarray(draw_boxes(picture, [box], [""], nothing, [doubtful])).any(axis=2) for doubtful in (False, True)
        )
        assert dashed.any()
        assert not (dashed & ~solid).any()
    solid, dashed = (
        np.asarray(draw_boxes(picture, [Box(100, 60, 220, 180)], [""], nothing, [doubtful]))[179, 100:220].any(axis=1)
        for doubtful in (False, True)
    )
    assert solid.all()
    assert 0.4 < dashed.mean() < 0.7


def test_steps_have_a_column_for_the_samples_only_where_there_are_any():
    picture, values = Image.new("RGB", (80, 60)), np.random.default_rng(0).random((12, 16))
    samples = (values > 0.9, values < 0.3)
    with_samples = steps_picture(picture, values, samples, mask(), Box(30, 20, 60, 40), height=60)
    without = steps_picture(picture, values, None, mask(), Box(30, 20, 60, 40), height=60)
    assert with_samples.width - without.width == 80 + 8


@pytest.mark.parametrize(("size", "height"), [((600, 400), 224), ((200, 900), 480), ((1200, 250), 224)])
def test_the_steps_of_a_tall_picture_are_as_large_as_those_of_others(size, height):
    steps = steps_picture(
        Image.new("RGB", size), np.zeros((8, 8)), None, np.ones(size[::-1], bool), Box(0, 0, size[0], size[1])
    )
    assert height < steps.height < height + 90
