"""What the colors of a heat map mean: about zero, from zero on, or over the map's own range."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene import contrast, explain
from phosphene.registry import methods
from phosphene.render import colorbar, doubt, heat_layer, scale_of, shared_scale, with_doubt
from tests.networks import classifier_of, pooled

FAR_FROM_ZERO = torch.linspace(0.80, 0.84, 400).reshape(20, 20)


def opacity(values: torch.Tensor, display: str) -> np.ndarray:
    return np.asarray(heat_layer(values, scale_of(values, display)).getchannel("A")).astype(float) / 255


def test_a_map_far_from_zero_has_all_colors_over_its_own_range_and_one_from_zero_on():
    assert np.ptp(opacity(FAR_FROM_ZERO, "positive")) < 0.02
    assert opacity(FAR_FROM_ZERO, "range").min() < 0.02
    assert opacity(FAR_FROM_ZERO, "range").max() > 0.98


def test_the_scale_says_that_it_is_a_range():
    scale = scale_of(FAR_FROM_ZERO, "range")
    assert (scale.low, scale.high) == pytest.approx((0.8002, 0.8398), abs=1e-3)
    assert scale.describe() == "0.8 to 0.84, this map's own range"
    assert scale_of(FAR_FROM_ZERO, "positive").describe() == "0 to 0.84, this map's own scale"
    assert np.asarray(colorbar(scale)).shape == (12, 256, 3)


def test_a_shared_range_holds_all_of_them():
    scales = [scale_of(values, "range") for values in (FAR_FROM_ZERO, FAR_FROM_ZERO - 0.5, 2 * FAR_FROM_ZERO)]
    shared = shared_scale(scales)
    assert (shared.low, shared.high) == (scales[1].low, scales[2].high)
    assert shared.describe().endswith("one range for all images")
    signed = shared_scale([scale_of(values, "signed") for values in (FAR_FROM_ZERO, -2 * FAR_FROM_ZERO)])
    assert signed.low == -signed.high


def test_an_empty_or_constant_map_is_transparent():
    for values in (torch.full((4, 4), 0.7), torch.full((4, 4), torch.nan)):
        assert opacity(values, "range").max() == 0


def test_methods_whose_zero_is_no_baseline_are_shown_over_their_range():
    assert {name for name, found in methods().items() if found.display == "range"} == {
        "attention_rollout",
        "rise",
        "score_cam",
        "xrai",
    }
    classifier, images = classifier_of(pooled()), torch.rand(1, 3, 16, 16)
    assert explain(classifier, images, "rise:masks=8").display == "range"
    assert explain(classifier, images, "smoothgrad(rise:masks=8):samples=2").display == "range"
    told_apart = contrast(classifier, images, 1, 2, "rise:masks=8")
    assert {part.display for part in told_apart.parts} == {"range"}


def test_a_map_of_specks_is_drawn_by_percentiles():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(100, 100, generator=generator) ** 3
    scale = scale_of(values, "percentile")
    assert (values.abs() > scale.floor).float().mean() == pytest.approx(0.05, abs=2e-3)
    assert (values.abs() > scale.high).float().mean() == pytest.approx(0.005, abs=2e-3)
    assert scale.low == -scale.high
    assert "the strongest 5 % alone" in scale.describe()
    layer = np.asarray(heat_layer(values, scale)).astype(int)
    drawn = (values.abs() > scale.floor).numpy()
    assert layer[~drawn, 3].max() == 0
    assert layer[drawn, 3].min() >= 127  # what is drawn can be seen
    red, blue = drawn & (values > 0).numpy(), drawn & (values < 0).numpy()
    assert (layer[red, 0] > layer[red, 2]).all()
    assert (layer[blue, 2] > layer[blue, 0]).all()
    assert {name for name, found in methods().items() if found.display == "percentile"} >= {
        *("integrated_gradients", "input_x_gradient", "guided_backprop", "deconvnet", "guided_grad_cam")
    }


def test_a_class_that_is_all_but_ruled_out_is_said_on_the_picture():
    picture = Image.new("RGB", (200, 120), "gray")
    sure = with_doubt(picture, "tabby", 0.4)
    unsure = with_doubt(picture, "tench", 0.0004)
    assert np.asarray(sure).std() == 0
    changed = np.abs(np.asarray(unsure).astype(int) - np.asarray(sure).astype(int)).sum(axis=(1, 2)) > 0
    assert changed[-5:].all()
    assert not changed[:80].any()
    assert (
        doubt("tench", 0.0004) == "tench has a probability of 0.04 %: colors show what speaks for it most, not how much"
    )
    assert doubt("tabby", 0.4) is None
    assert doubt("tabby", None) is None


def test_by_percentiles_a_flat_top_is_drawn_and_zeros_are_not():
    half = torch.zeros(20, 20)
    half[:, :10] = 2.0
    layer = np.asarray(heat_layer(half, scale_of(half, "percentile")))
    assert (layer[:, :10, 3] > 127).all()
    assert (layer[:, 10:, 3] == 0).all()
    few = torch.zeros(20, 20)
    few[3, 3] = -1.0
    drawn = np.asarray(heat_layer(few, scale_of(few, "percentile")))[..., 3]
    assert drawn[3, 3] > 127
    assert (drawn > 0).sum() == 1


def test_a_map_that_colors_nothing_says_so(tmp_path):
    """Everything speaks against the class: the overlay is the picture itself."""
    module = pooled()
    with torch.no_grad():
        module[9].weight.fill_(-1)
    classifier = classifier_of(module)
    found = explain(classifier, Image.new("RGB", (16, 16), (90, 120, 40)), ["grad_cam"], target=1)
    assert float(found["grad_cam"].heat.max()) <= 0
    assert "nowhere above zero: nothing in the picture speaks for it" in found["grad_cam"]._repr_html_()
