"""What users of other libraries complain about, from the file to the picture; the list is docs/complaints.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phosphene.geometry import lay_on_original
from phosphene.grids import to_network_size
from phosphene.render import draw
from phosphene.targets import Target
from phosphene.tasks.attributions import explain
from tests.contract import checks
from tests.networks import RedDetector, classifier_of, pooled

ROOT = Path(__file__).parents[1]
# Adapters have tests of their own, and so have methods that need attention.
OWN = [name for name in checks.method_names() if not name.startswith("captum:") and checks.home(name) is pooled]


@pytest.fixture
def half_red(tmp_path):
    """A wide picture file: red on the left, blue on the right."""
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[:, :24, 0] = pixels[:, 24:, 2] = 255
    Image.fromarray(pixels).save(tmp_path / "half_red.png")
    return tmp_path / "half_red.png"


@pytest.mark.parametrize("method", ["saliency", "grad_cam", "input_x_gradient", "occlusion:window=8,stride=8"])
def test_colors_are_neither_inverted_nor_swapped(half_red, method):
    """What looks for red finds the red half of the file, and that half is what is colored."""
    classifier = classifier_of(RedDetector(cell=8), (24, 48))
    result = explain(classifier, half_red, method, target=1)
    (offset, stride), view = result.heat_grid, result.views[0]
    laid = lay_on_original(result.heat[0], offset, stride, view)
    assert float(laid[:, :16].mean()) > 10 * abs(float(laid[:, 32:].mean()))
    drawn = np.asarray(draw(result, side=48).convert("RGB").resize((48, 24)), dtype=float)
    plain = drawn[:, 40:].reshape(-1, 3).mean(axis=0)  # nothing found: one color for all methods
    assert np.abs(drawn[:, :12].reshape(-1, 3).mean(axis=0) - plain).max() > 40


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("size", [(16, 24), (24, 16)])
def test_non_square_images_keep_their_axes(method, size):
    """The square of evidence in a corner is found in that corner, whichever side is the longer one."""
    images = torch.zeros(1, 3, *size)
    images[:, 0, :8, -8:] = 1.0  # red above on the right
    images[:, 2, -8:, :8] = 1.0
    classifier = classifier_of(RedDetector(), size)
    spec = checks.quick_spec(method, **({"masks": 200, "cells": 4} if method == "rise" else {}))
    if not checks.applies(spec, classifier, images, Target.of(1)):
        pytest.fail(f"{method} must work on a plain convolutional network")
    result = checks.explain(spec, classifier, images, Target.of(1))
    laid = to_network_size(result.heat, *result.heat_grid, size)[0]
    assert tuple(laid.shape) == size
    if method in ("deconvnet", "layer_saliency"):  # the network's gradient above its one ReLU is the same everywhere
        assert torch.allclose(laid, laid[0, 0].expand_as(laid), rtol=1e-4)
    else:
        assert float(laid[:8, -8:].mean()) > float(laid[-8:, :8].mean())


def test_every_image_of_a_batch_has_a_map_of_its_own():
    images = torch.rand(3, 3, 16, 16)
    result = explain(classifier_of(pooled()), images, "grad_cam", target=[1, 2, 3])
    singles = [
        explain(classifier_of(pooled()), images[index], "grad_cam", target=index + 1).maps[0] for index in range(3)
    ]
    assert torch.allclose(result.maps, torch.stack(singles), atol=1e-5)
    assert not torch.allclose(result.maps[0], result.maps[1])


@pytest.mark.parametrize(("page", "least"), [("complaints.md", 20), ("peers.md", 15)])
def test_the_list_names_tests_that_exist(page, least):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert len(named) > least
    for path, function in named:
        assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{function}"
