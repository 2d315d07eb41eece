"""Samples, color models, components, boxes and thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from phosphene.errors import NumericalError, OptionError
from phosphene.localization.box import bounding_box
from phosphene.localization.color_models import color_features, fit_color_models
from phosphene.localization.component import largest_component
from phosphene.localization.samples import Samples, quantile_samples
from phosphene.localization.threshold import above_share
from tests.oracles.localization import pieces


def test_samples_are_the_pixels_beyond_the_quantiles():
    saliency = np.random.default_rng(0).random((20, 30))
    samples = quantile_samples(saliency)
    ordered = np.sort(saliency.ravel())
    assert samples.foreground.sum() == 30  # 5 % of 600
    assert samples.background.sum() == 180  # 30 % of 600
    assert saliency[samples.foreground].min() == ordered[-30]
    assert saliency[samples.background].max() == ordered[179]


@pytest.mark.parametrize("level", [0.0, 7.0])
def test_samples_of_a_map_with_one_place_or_all_but_one_place_alike(level):
    saliency = np.full((10, 10), level)
    saliency[3, 4] = 3.0
    samples = quantile_samples(saliency)
    assert samples.foreground.any()
    assert samples.background.any()
    assert not (samples.foreground & samples.background).any()


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.full((4, 4), np.nan)])
def test_a_map_that_says_nothing_is_refused(bad):
    with pytest.raises(NumericalError, match="says nothing"):
        quantile_samples(bad)
    with pytest.raises(NumericalError, match="says nothing"):
        above_share(bad, 0.5)


def test_quantiles_out_of_order_are_refused():
    with pytest.raises(OptionError, match=r"background 0\.9"):
        quantile_samples(np.arange(9.0).reshape(3, 3), foreground=0.5, background=0.9)


def test_color_models_tell_two_textures_apart():
    random = np.random.default_rng(0)
    image = 0.2 + 0.05 * random.random((40, 40, 3))
    image[10:30, 10:30] = [0.8, 0.3, 0.2] + 0.05 * random.random((20, 20, 3))
    inside = np.zeros((40, 40), bool)
    inside[10:30, 10:30] = True
    seeds = Samples(inside & (random.random((40, 40)) < 0.2), ~inside & (random.random((40, 40)) < 0.2))
    for space in ("lab", "rgb"):
        odds = fit_color_models(color_features(image, space), seeds).log_odds(color_features(image, space))
        np.testing.assert_array_equal(odds > 0, inside)


def test_color_models_of_fewer_samples_than_components():
    colors = np.zeros((3, 3, 3))
    colors[0, 0] = 1.0
    corner = np.zeros((3, 3), bool)
    corner[0, 0] = True
    odds = fit_color_models(colors, Samples(corner, ~corner), components=5).log_odds(colors)
    np.testing.assert_array_equal(odds > 0, corner)


def test_color_models_are_the_same_at_each_run():
    colors = np.random.default_rng(0).random((30, 30, 3))
    top = np.zeros((30, 30), bool)
    top[:15] = True
    first, second = (fit_color_models(colors, Samples(top, ~top), seed=3).log_odds(colors) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("seed", range(5))
def test_largest_component_is_that_of_a_flood_fill(seed):
    mask = np.random.default_rng(seed).random((15, 17)) < 0.55
    largest = largest_component(mask)
    sizes = [len(piece) for piece in pieces(mask)]
    assert {tuple(place) for place in np.argwhere(largest).tolist()} in pieces(mask)
    assert largest.sum() == max(sizes)


def test_largest_component_by_weight():
    mask = np.array([[True, True, False, True]])
    assert largest_component(mask, np.array([[1.0, 1.0, 1.0, 9.0]])).tolist() == [[False, False, False, True]]


def test_largest_component_of_nothing_is_nothing():
    assert not largest_component(np.zeros((3, 3), bool)).any()


def test_bounding_box_is_tight_and_half_open():
    mask = np.zeros((10, 12), bool)
    mask[2, 3] = mask[7, 9] = True
    box = bounding_box(mask)
    assert tuple(box) == (3, 2, 10, 8)
    assert mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)].sum() == mask.sum()
    with pytest.raises(NumericalError, match="mask is empty"):
        bounding_box(np.zeros((3, 3), bool))
