"""What people call, on a device that is not the CPU, tested without one (tests/pretend_device.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from phosphene.classifier import Classifier, Preprocess
from phosphene.devices import clock, has_float64
from phosphene.evaluation.faithfulness import faithfulness
from phosphene.evaluation.sanity import sanity
from phosphene.geometry import lay_on_original
from phosphene.render.heat import heat_layer, scale_of
from phosphene.runtime import prepare
from phosphene.tasks.attributions import explain
from phosphene.tasks.facets import features
from phosphene.tasks.head import fit_head
from phosphene.tasks.impressions import fuse, impress
from phosphene.tasks.objects import locate
from tests.contract.test_devices import counted, moved
from tests.networks import classifier_of, pooled, smooth
from tests.tasks.test_features import folder_of
from tests.tasks.test_head import paint
from tests.tasks.test_locate import picture, red_detector


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder_of(tmp_path)
    return sorted(tmp_path.iterdir())


def test_explain_lays_maps_of_the_device_on_the_picture(device):
    there = explain(moved(classifier_of(pooled()), device), picture(), target=1, method="grad_cam")
    here = explain(classifier_of(pooled()), picture(), target=1, method="grad_cam")
    assert there.maps.device == device.place
    laid, other = (lay_on_original(found.heat[0], *found.heat_grid, found.views[0]) for found in (there, here))
    assert laid.device == device.place
    torch.testing.assert_close(laid.cpu(), other, rtol=device.tolerance, atol=1e-4)
    assert heat_layer(laid, scale_of(laid, "signed")).size == picture().size


@pytest.mark.strictest
@pytest.mark.parametrize("segment", ["graphcut", "threshold"])
@pytest.mark.parametrize("method", ["saliency", "cam", "occlusion:window=6,stride=3"])
def test_locate_finds_the_box_of_the_cpu(method, segment, device):
    (expected,) = locate(red_detector(), picture(), target="red", method=method, segment=segment)
    (found,) = locate(moved(red_detector(), device), picture(), target="red", method=method, segment=segment)
    np.testing.assert_allclose(tuple(found.box), tuple(expected.box), atol=1)
    assert found.probability == pytest.approx(expected.probability, abs=1e-5)


def test_the_paper_preset_of_locate(device):
    (found,) = locate(moved(red_detector(), device), picture(left=2, right=40), target=1, preset="paper")
    np.testing.assert_allclose(tuple(found.box), (2, 30, 40, 80), atol=8)


def test_faithfulness_measures_what_it_measures_on_the_cpu(pictures, device):
    methods = ["grad_cam", "rise:masks=8"]
    expected = faithfulness(prepare(classifier_of(pooled())), pictures[:3], methods)
    found = faithfulness(prepare(moved(classifier_of(pooled()), device)), pictures[:3], methods)
    for one, other in zip((*found.methods, *found.baselines), (*expected.methods, *expected.baselines), strict=True):
        assert one.error is other.error is None
        for name in ("deletion", "insertion", "clean", "explained"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-3), (one.method, name)


@pytest.mark.strictest
def test_weights_are_made_random_alike_on_the_device(pictures, device):
    expected = sanity(prepare(classifier_of(pooled())), pictures[:2], ["saliency"])
    found = sanity(prepare(moved(classifier_of(pooled()), device)), pictures[:2], ["saliency"])
    for one, other in zip(found.methods, expected.methods, strict=True):
        for mode, stages in one.stages.items():
            for name, likeness in stages.items():
                assert likeness.spearman == pytest.approx(other.stages[mode][name].spearman, abs=1e-3)
                assert likeness.ssim == pytest.approx(other.stages[mode][name].ssim, abs=1e-3)


def test_impressions_are_those_of_the_cpu(device):
    for make in (
        lambda classifier: impress(classifier, [2, 0], "class_model:prior=none", steps=5, frames=2),
        lambda classifier: fuse(classifier, [(0, 2)], steps=5),
    ):
        for one, other in zip(make(moved(classifier_of(smooth()), device)), make(classifier_of(smooth())), strict=True):
            torch.testing.assert_close(one.image, other.image, rtol=0, atol=device.tolerance)
            assert one.image.device.type == "cpu"
            assert one.scores == pytest.approx(other.scores, abs=1e-3)
            for step, same_step in zip(one.probabilities, other.probabilities, strict=True):
                assert step == pytest.approx(same_step, abs=1e-3)


@pytest.mark.strictest
def test_steps_of_impress_do_not_wait_for_the_device(pretended):
    classifier = moved(classifier_of(smooth()), pretended)

    def waits(steps: int) -> int:
        return counted(pretended, lambda: impress(classifier, 1, "class_model", steps=steps))

    waits(3)
    assert waits(36) <= waits(6) + 30 // 15


def test_facets_are_drawn_on_the_device(tmp_path, device):
    quick = {"facets": 2, "exemplars": 4, "recipe": "minds_eye:steps=6,top_k=3"}
    found = features(moved(classifier_of(smooth()), device), folder_of(tmp_path), "4", **quick)[0]
    for facet in found.facets:  # (which pictures a facet has hangs on the last bits, so it may be another on the CPU)
        assert facet.image.device.type == "cpu"
        assert {name: len(values) for name, values in facet.losses.items()}.keys() >= {"distance", "dot"}
        assert all(len(values) == 6 for values in facet.losses.values())
        assert bool(torch.isfinite(facet.image).all())


def test_a_head_is_fitted_to_features_of_the_device(tmp_path, device):
    folder = paint(tmp_path, {"red": (150, 0, 0), "blue": (0, 0, 150)})
    torch.manual_seed(0)
    network = Classifier(smooth(), Preprocess((8, 8)))
    head = fit_head(moved(network, device), folder)
    assert head.classifier.device == device.place


def test_seconds_are_taken_when_the_device_is_done(pretended):
    pretended.counts.clear()
    explain(moved(classifier_of(pooled()), pretended), picture(), target=1, method="saliency")
    assert pretended.counts["synchronize"] >= 2
    before = pretended.counts["synchronize"]
    assert clock(pretended.place) <= clock(torch.device("cpu"))
    assert pretended.counts["synchronize"] == before + 1


def test_the_device_is_asked_what_it_has(device):
    assert has_float64(device.place) == device.float64
