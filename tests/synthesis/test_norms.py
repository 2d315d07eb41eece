"""The distance to the statistics in a network's batch norms."""

from __future__ import annotations

import math

import pytest
import torch
from tests.oracles.synthesis import norm_distance
from torch import Tensor, nn

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError
from phosphene.synthesis.norms import Memory, distance, measured_memories, memories


class Norms(nn.Module):
    """A norm that runs, one that does not, one without statistics, one that never saw an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.once = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        self.idle, self.bare = nn.BatchNorm2d(5), nn.BatchNorm2d(5, track_running_stats=False)
        self.new = nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.once(self.first(x)))
        return self.bare(x).mean((2, 3))


def _network() -> Norms:
    torch.manual_seed(5)
    network = Norms().eval()
    with torch.no_grad():
        network.once.weight.normal_()
        network.once.bias.normal_()
        network.once.running_mean.normal_()
        network.once.running_var.uniform_(0.5, 2)
        network.idle.running_mean.normal_()
    return network


def test_the_distance_of_moments_is_the_formula_place_by_place() -> None:
    network, images = _network(), torch.rand(3, 3, 9, 11)
    network.once.weight.data[0] = 5.0  # one channel's mean within, the others' partly beyond five deviations
    outputs = network.once(network.first(images)).detach()
    got = distance(Memory.of(network.once).moments(outputs))
    for image in range(3):
        wanted = norm_distance(outputs[image].tolist(), network.once.bias.tolist(), network.once.weight.tolist())
        assert math.isclose(float(got[image]), wanted, rel_tol=1e-4)


def test_only_norms_that_remember_count() -> None:
    assert list(memories(Classifier(_network()))) == ["once", "idle"]
    assert memories(Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)))) == {}


def test_first_last_and_narrow_norms_count() -> None:
    widths = [4, 8, 4, 8, 8]
    layers = [nn.Sequential(nn.Conv2d(a, b, 1), nn.BatchNorm2d(b)) for a, b in zip([3, *widths], widths, strict=False)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 2))
    network.train()(torch.rand(4, 3, 1, 1))
    assert list(memories(Classifier(network))) == ["0.1", "2.1", "4.1"]


def test_what_a_norm_was_made_of_is_nearer_than_what_it_was_not() -> None:
    norm = nn.BatchNorm2d(8)
    memory = Memory.of(norm)
    photographs, others = torch.randn(2, 8, 30, 30), 3 + torch.randn(2, 8, 30, 30)
    near, far = (distance(memory.moments(output)) for output in (photographs, others))
    assert bool((near < far).all())


def test_an_image_does_not_see_its_neighbors() -> None:
    memory, output = Memory.of(nn.BatchNorm2d(8)), torch.randn(4, 8, 9, 9)
    assert torch.allclose(distance(memory.moments(output))[2:3], distance(memory.moments(output[2:3])), rtol=1e-5)


def small(*layers: nn.Module) -> Classifier:
    torch.manual_seed(7)
    return Classifier(nn.Sequential(*layers).eval(), Preprocess((8, 8), mean=(0.5,) * 3, std=(0.5,) * 3))


def test_without_norms_convolutions_are_measured_but_for_the_one_that_gives_the_classes() -> None:
    first, second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)
    classifier = small(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.rand(7, 3, 8, 8)
    found = measured_memories(classifier, images.split(3))
    assert list(found) == ["0", "2"]
    with torch.no_grad():
        one = first((images - 0.5) / 0.5)
        outputs = {"0": one, "2": second(one.relu())}
    for layer, output in outputs.items():
        flat = output.transpose(0, 1).flatten(1)
        torch.testing.assert_close(found[layer].mean, flat.mean(dim=1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[layer].deviation, flat.std(dim=1, correction=0), rtol=1e-4, atol=1e-5)


def test_of_a_segmenter_too_the_convolution_that_gives_the_classes_is_left_out() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1))
    classifier = Classifier(layers, Preprocess((8, 8), mean=(0.5,) * 3, std=(0.5,) * 3), head="maps")
    assert list(measured_memories(classifier, [torch.rand(2, 3, 8, 8)])) == ["0"]


def test_of_a_network_with_norms_these_are_measured() -> None:
    classifier = small(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    assert list(measured_memories(classifier, [torch.rand(2, 3, 8, 8)])) == ["1"]


def test_a_network_with_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ModelError, match="no batch norm and no convolution"):
        measured_memories(small(nn.Flatten(), nn.Linear(192, 3)), [torch.rand(1, 3, 8, 8)])
