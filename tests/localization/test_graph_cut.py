"""The minimum cut against brute force, its edges against the formula."""

from __future__ import annotations

import numpy as np
import pytest

from phosphene.errors import OptionError
from phosphene.localization.graph_cut import contrast_edges, minimum_cut
from tests.oracles.localization import edge_weights, energy, least_energy


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("smoothness", [0.0, 0.3, 3.0])
def test_the_cut_has_the_least_energy_of_all_labelings(seed, smoothness):
    random = np.random.default_rng(seed)
    odds, colors = random.normal(size=(3, 4)).round(3), random.random((3, 4, 3))
    edges = contrast_edges(colors, smoothness=smoothness)
    mask = minimum_cut(odds, edges)
    assert energy(mask.ravel(), odds, edges) == pytest.approx(least_energy(odds, edges), abs=0.5e-3 * len(edges.weight))


def test_edges_are_those_of_the_formula():
    colors = np.random.default_rng(0).random((4, 5, 3))
    edges = contrast_edges(colors, smoothness=1.7)
    found = {
        (int(first), int(second)): weight
        for first, second, weight in zip(edges.first, edges.second, edges.weight, strict=True)
    }
    assert found == pytest.approx(edge_weights(colors, 1.7))


def test_without_smoothness_every_pixel_decides_alone():
    odds = np.random.default_rng(0).normal(size=(9, 7))
    mask = minimum_cut(odds, contrast_edges(np.zeros((9, 7, 3)), smoothness=0.0))
    np.testing.assert_array_equal(mask, odds > 0)


@pytest.mark.parametrize(("value", "all_object"), [(np.inf, True), (-np.inf, False)])
def test_infinite_odds_are_cut_to_the_limit(value, all_object):
    mask = minimum_cut(np.full((6, 6), value), contrast_edges(np.zeros((6, 6, 3)), smoothness=5.0))
    assert mask.all() == all_object
    assert mask.any() == all_object


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_a_picture_of_one_line_or_one_pixel(shape):
    assert minimum_cut(np.ones(shape), contrast_edges(np.zeros((*shape, 3)), smoothness=1.0)).all()


def test_an_object_of_its_own_color_is_cut_out_along_its_edge_although_the_odds_are_vague():
    colors = np.zeros((24, 24, 3))
    colors[6:18, 4:20] = 1.0
    distance = np.hypot(*(np.mgrid[:24, :24] - 11.5))
    mask = minimum_cut(1.0 - distance / 6.0, contrast_edges(colors, smoothness=30.0))
    np.testing.assert_array_equal(mask, colors[..., 0] == 1.0)


def test_negative_smoothness_is_refused():
    with pytest.raises(OptionError, match=r"smoothness -1\.0"):
        contrast_edges(np.zeros((2, 2, 3)), smoothness=-1.0)
