from __future__ import annotations

import pytest
import torch
from torch import nn

from phosphene.attribution.integrated_gradients import integrated_gradients
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.targets import Target, Unit
from tests.comparing import exact_score, map_error
from tests.networks import classifier_of, linear, vgg_f
from tests.oracles import cams as oracle


@pytest.mark.parametrize("baseline", ["black", "mean", "white"])
def test_equals_the_integral(baseline):
    """A smooth network: the quadrature converges, and so does the literal midpoint rule."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 3))
    classifier, images = classifier_of(net), torch.rand(2, 3, 6, 6)
    got = integrated_gradients(classifier, images, Target.of([0, 2]), steps=20, baseline=baseline)
    start = {"black": torch.zeros(3, 1, 1), "white": torch.ones(3, 1, 1), "mean": classifier.mean_image}[baseline]
    for index, c in enumerate((0, 2)):
        score = exact_score(classifier, c)
        base = start.expand(3, 6, 6)
        expected = oracle.integrated_gradients(score, images[index], base, steps=400)
        assert map_error(got.maps[index : index + 1], expected[None]) < 1e-5
    assert max(got.checks["completeness_error"]) < 1e-5


def test_completeness_error_is_what_the_quadrature_misses():
    classifier, images = classifier_of(vgg_f()), torch.rand(2, 3, 16, 16)
    coarse = integrated_gradients(classifier, images, Target.of(1), steps=2)
    fine = integrated_gradients(classifier, images, Target.of(1), steps=200)
    score = exact_score(classifier, 1)
    for index, image in enumerate(images):
        difference = float((score(image.double()[None]) - score(torch.zeros(1, 3, 16, 16))).detach())
        for result in (coarse, fine):
            missed = abs(float(result.maps[index].double().sum()) - difference)
            assert result.checks["completeness_error"][index] == pytest.approx(missed, abs=1e-4)
    assert max(fine.checks["completeness_error"]) < 0.1 * max(coarse.checks["completeness_error"])


def test_what_does_not_add_up_says_so():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    classifier = Classifier(nn.Sequential(net, Square()).eval())
    assert "more steps" in integrated_gradients(classifier, torch.rand(1, 3, 16, 16), Target.of(1), steps=1).notes[0]
    assert not integrated_gradients(classifier, torch.rand(1, 3, 16, 16), Target.of(1), steps=200).notes


class Square(nn.Module):
    def forward(self, x):
        return 10 * x**4


def test_a_linear_network_needs_one_step():
    net, images = linear(), torch.rand(2, 3, 16, 16)
    got = integrated_gradients(classifier_of(net), images, Target.of(1), steps=1)
    weight = net[1].weight[1].detach().view(3, 16, 16) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    assert torch.allclose(got.maps, (images * weight).sum(1), atol=1e-5)


def test_units_progress_and_batches_of_any_size():
    classifier, images, seen = classifier_of(vgg_f()), torch.rand(2, 3, 16, 16), []
    target = Target(unit=Unit("3", 2, (1, 4)))
    one = integrated_gradients(classifier, images, target, steps=7, batch_size=1)
    two = integrated_gradients(
        classifier, images, target, steps=7, batch_size=4, progress=lambda done, total: seen.append((done, total))
    )
    assert map_error(two.maps, one.maps) < 1e-5
    assert seen[-1] == (18, 18)
    with pytest.raises(OptionError, match="steps=0"):
        integrated_gradients(classifier, images, target, steps=0)


@pytest.mark.parametrize("baseline", ["black", "white"])
def test_captum_agrees(baseline):
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 49, 5)).eval()
    images = torch.rand(2, 3, 16, 16)
    expected = captum.IntegratedGradients(net).attribute(
        images, baselines=float(baseline == "white"), target=3, n_steps=50, method="gausslegendre"
    )
    got = integrated_gradients(Classifier(net), images, Target.of(3), baseline=baseline)
    assert map_error(got.maps, expected.detach().sum(1)) < 1e-4
