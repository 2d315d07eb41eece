from __future__ import annotations

import pytest
import torch

from phosphene.attribution.input_x_gradient import input_x_gradient
from phosphene.targets import Target
from tests.comparing import exact_score, map_error
from tests.networks import MEAN, classifier_of, functional_relu, linear, pooled, vgg_f
from tests.oracles import attribution as oracle


@pytest.mark.parametrize("make", [vgg_f, pooled, functional_relu])
@pytest.mark.parametrize("baseline", ["black", "mean"])
def test_equals_the_literal_formula(make, baseline):
    classifier, images = classifier_of(make()), torch.rand(2, 3, 16, 16)
    got = input_x_gradient(classifier, images, Target.of([3, 1]), baseline=baseline)
    start = torch.tensor(MEAN if baseline == "mean" else (0.0, 0.0, 0.0))
    expected = [
        oracle.input_x_gradient(exact_score(classifier, c), x, start) for x, c in zip(images, (3, 1), strict=True)
    ]
    assert map_error(got.maps, torch.stack(expected)) < 1e-5


def test_of_a_linear_model_adds_up_to_the_score_above_the_baseline():
    """A linear model is its own linear approximation: the map's sum is S(x) - S(baseline)."""
    classifier, images = classifier_of(linear()), torch.rand(3, 3, 16, 16)
    got = input_x_gradient(classifier, images, Target.of(1), baseline="mean")
    bias = classifier.module[1].bias[1]
    assert torch.allclose(got.maps.sum((1, 2)), got.score - bias, atol=1e-4)


def test_nothing_at_the_baseline():
    classifier = classifier_of(vgg_f())
    got = input_x_gradient(classifier, torch.zeros(1, 3, 16, 16), Target.of(1))
    assert not got.maps.any()
    assert "zero everywhere" in got.problems[0]
