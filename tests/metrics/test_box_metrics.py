"""Measures of boxes and points against slow versions and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from phosphene.errors import InputError, OptionError
from phosphene.metrics.bootstrap import bootstrap_interval
from phosphene.metrics.iou import best_iou, iou
from phosphene.metrics.localization_error import localization_error
from phosphene.metrics.pointing_game import pointing_hit
from phosphene.types import Box
from tests.oracles.localization import overlap


@pytest.mark.parametrize("seed", range(20))
def test_iou_is_that_of_counted_pixels(seed):
    random = np.random.default_rng(seed)
    corners = random.integers(0, 12, size=(2, 2))
    first, second = (Box(int(x), int(y), int(x) + 1 + seed % 9, int(y) + 4) for x, y in corners)
    assert iou(first, second) == pytest.approx(overlap(first, second))
    assert iou(first, second) == iou(second, first)


def test_any_instance_may_match():
    box = Box(0, 0, 10, 10)
    assert best_iou(box, [Box(50, 50, 60, 60), Box(0, 0, 10, 8)]) == 0.8
    assert best_iou(box, []) == 0.0


@pytest.mark.parametrize("corners", [(5, 0, 5, 9), (0, 9, 9, 3)])
def test_empty_boxes_are_refused(corners):
    with pytest.raises(OptionError, match="empty or turned round"):
        Box(*corners)


def test_localization_error_wants_class_and_box():
    truth, elsewhere = Box(0, 0, 10, 10), Box(20, 20, 30, 30)
    assert localization_error([(1, truth), (2, truth)], 2, [truth]) == 0.0
    assert localization_error([(1, truth), (2, elsewhere)], 2, [truth]) == 1.0
    assert localization_error([(1, truth)], 2, [truth]) == 1.0
    assert localization_error([(2, Box(0, 0, 10, 6))], 2, [truth], overlap=0.7) == 1.0


def test_pointing_tolerance_is_a_distance():
    box = Box(10, 10, 20, 20)
    assert pointing_hit((15, 15), [box])
    assert not pointing_hit((23, 24), [box], tolerance=4.9)
    assert pointing_hit((23, 24), [box], tolerance=5.0)
    with pytest.raises(OptionError, match="tolerance -1"):
        pointing_hit((0, 0), [box], tolerance=-1)


def test_bootstrap_interval_has_the_width_of_the_normal_approximation():
    values = [1.0] * 180 + [0.0] * 120
    low, high = bootstrap_interval(values)
    half = 1.96 * np.sqrt(0.6 * 0.4 / 300)
    assert low == pytest.approx(0.6 - half, abs=0.01)
    assert high == pytest.approx(0.6 + half, abs=0.01)
    assert bootstrap_interval(values) == (low, high)


def test_bootstrap_of_equal_values_has_no_width():
    assert bootstrap_interval([1.0] * 10) == (1.0, 1.0)
    with pytest.raises(InputError, match="no image"):
        bootstrap_interval([])
