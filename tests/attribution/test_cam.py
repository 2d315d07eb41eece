from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from phosphene.attribution.cam import cam
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError, OptionError
from phosphene.targets import Target, Unit
from tests.comparing import map_error
from tests.networks import DictOutput, class_convolution, classifier_of, functional_relu, linear, pooled, vgg_f
from tests.oracles import attribution as oracle


def test_equals_the_literal_formula():
    classifier, images = classifier_of(pooled()), torch.rand(2, 3, 16, 16)
    got = cam(classifier, images, Target.of([4, 0]))
    features = classifier.module[:6](classifier.preprocess.normalize(images)).detach()
    weight = classifier.module[9].weight.detach()
    expected = torch.stack([oracle.cam(features[0], weight[4]), oracle.cam(features[1], weight[0])])
    assert map_error(got.maps, expected) < 1e-5
    assert got.layer == "5"


@pytest.mark.parametrize("make", [pooled, functional_relu, class_convolution, lambda: DictOutput(pooled())])
def test_mean_and_bias_give_the_logit(make):
    classifier, images = classifier_of(make()), torch.rand(3, 3, 16, 16)
    got = cam(classifier, images, Target.of([4, 0, 2]))
    logits = classifier.logits(images)
    assert torch.allclose(got.score, logits[range(3), [4, 0, 2]], atol=1e-5)
    assert max(got.checks["logit_error"]) < 1e-5


def test_a_class_convolution_gives_its_own_channel():
    classifier, images = classifier_of(class_convolution()), torch.rand(1, 3, 16, 16)
    got = cam(classifier, images, Target.of(3))
    net = classifier.module
    expected = F.relu(net.to_classes(F.relu(net.features(classifier.preprocess.normalize(images)))))[:, 3]
    assert torch.allclose(got.maps, expected, atol=1e-6)
    assert "to_classes" in got.layer


def test_a_linear_layer_as_convolution_after_pooling():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1), nn.Flatten())
    got = cam(classifier_of(module), torch.rand(1, 3, 16, 16), Target.of(3))
    assert got.maps.shape == (1, 14, 14)
    assert max(got.checks["logit_error"]) < 1e-5


def test_versus_is_the_difference_of_two_maps():
    classifier, images = classifier_of(pooled()), torch.rand(1, 3, 16, 16)
    one, two = (cam(classifier, images, Target.of(c)) for c in (1, 3))
    both = cam(classifier, images, Target.of(1, versus=3))
    assert torch.allclose(both.maps, one.maps - two.maps, atol=1e-6)
    assert torch.allclose(both.score, one.score - two.score, atol=1e-6)


def test_binary_head_of_one_output_has_maps_of_both_classes():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    classifier = Classifier(module, Preprocess((8, 8)), ["no", "yes"], "sigmoid")
    images = torch.rand(1, 3, 8, 8)
    no, yes = (cam(classifier, images, Target.of(c)) for c in (0, 1))
    assert torch.allclose(no.maps, -yes.maps)
    assert float(yes.score) == pytest.approx(float(module(images).detach()), abs=1e-6)


@pytest.mark.parametrize("make", [vgg_f, linear])
def test_other_networks_are_refused_with_a_way_out(make):
    with pytest.raises(ModelError, match="use grad_cam"):
        cam(classifier_of(make()), torch.rand(1, 3, 16, 16), Target.of(1))


def test_a_hidden_nonlinearity_is_noticed():
    """Softmax or a scale after the linear layer: the map would not add up, so there is none."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.fc = nn.AvgPool2d(8), nn.Linear(3, 4)

        def forward(self, x):
            return self.fc(self.pool(x)[:, :, 0, 0])

    with pytest.raises(ModelError):
        cam(classifier_of(Scaled()), torch.rand(1, 3, 16, 16), Target.of(1))


def test_units_and_other_scores_are_refused():
    classifier, images = classifier_of(pooled()), torch.rand(1, 3, 16, 16)
    with pytest.raises(OptionError, match="explains classes"):
        cam(classifier, images, Target(unit=Unit("0", 1)))
    with pytest.raises(OptionError, match="probability"):
        cam(classifier, images, Target.of(1, score="probability"))
