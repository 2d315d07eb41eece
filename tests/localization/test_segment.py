"""Segmentation of made-up pictures whose object is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from phosphene.errors import NotFoundError, NumericalError, OptionError
from phosphene.localization.presets import PRESETS, preset
from phosphene.localization.segment import GraphCut, Threshold, segment, segment_name


def scene(seed: int = 0):
    """A blue-grey texture with a red disc; the map marks a part of the disc, blurred and noisy."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:60, :80]
    disc = np.hypot(rows - 28, columns - 44) < 17
    image = np.where(disc[..., None], [0.75, 0.25, 0.2], [0.35, 0.4, 0.5]) + 0.06 * random.normal(size=(60, 80, 3))
    values = np.exp(-0.5 * ((rows - 24) ** 2 + (columns - 40) ** 2) / 9.0**2) + 0.05 * random.random((60, 80))
    return image.clip(0, 1), values, disc


def overlap(first, second) -> float:
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("name", PRESETS)
def test_graphcut_finds_the_whole_object_where_the_map_marks_a_part(name):
    image, values, disc = scene()
    found = segment(values, image, preset(name).graph_cut)
    part = segment(values, image, Threshold(0.5)).mask
    assert overlap(found.mask, disc) > overlap(part, disc) + 0.2


def test_the_largest_piece_is_the_one_the_map_points_at():
    image, values, disc = scene()
    image[45:58, 2:30] = [0.75, 0.25, 0.2]  # as red, but only lukewarm
    values[45:58, 2:30] += 0.2
    found = segment(values, image, GraphCut(components=2, smoothness=5.0))
    assert found.cut[50, 10]
    assert not found.mask[50, 10]
    assert overlap(found.mask, disc) > 0.9


def test_the_paper_takes_the_piece_with_the_most_pixels():
    image, values, disc = scene()
    image[4:58, 2:25] = [0.75, 0.25, 0.2]  # red as well, larger than the disc, and hardly salient
    values[4:58, 2:25] += 0.2
    settings = GraphCut(components=2, smoothness=5.0)
    assert overlap(segment(values, image, settings).mask, disc) > 0.9
    largest = segment(values, image, replace(settings, largest="pixels")).mask
    assert largest[30, 10]
    assert not largest[28, 44]


def test_samples_are_kept_for_the_picture_of_the_steps():
    image, values, _ = scene()
    found = segment(values, image, GraphCut())
    assert found.samples is not None
    assert found.samples.foreground.sum() == 240  # 5 % of 4800
    assert segment(values, image, Threshold()).samples is None


def test_a_picture_of_one_color_is_cut_by_the_map_alone():
    _, values, _ = scene()
    settings = replace(PRESETS["best"].graph_cut, smoothness=0.0)
    low, high = values.min(), values.max()
    found = segment(values, np.full((60, 80, 3), 0.5), settings)
    np.testing.assert_array_equal(found.cut, (values - low) / (high - low) > settings.level)


def test_nothing_cut_out_falls_back_to_the_samples():
    image, values, _ = scene()
    found = segment(values, image, GraphCut(likelihood=0.0, saliency=1.0, level=2.0))
    np.testing.assert_array_equal(found.cut, found.samples.foreground)


def test_maps_that_say_nothing_are_refused():
    image, values, _ = scene()
    for settings in (GraphCut(), Threshold()):
        with pytest.raises(NumericalError, match="says nothing"):
            segment(np.zeros_like(values), image, settings)


def test_names():
    assert segment_name("graphcut") == "graphcut"
    with pytest.raises(OptionError, match="'graph_cut' is unknown; give graphcut or threshold"):
        segment_name("graph_cut")
    with pytest.raises(NotFoundError, match="did you mean 'paper'"):
        preset("papr")
