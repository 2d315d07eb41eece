"""The distance to the statistics in a network's batch norms."""

from __future__ import annotations

import math

import torch
from tests.oracles.synthesis import norm_distance
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.hooks import capture
from phosphene.runtime import prepare
from phosphene.synthesis.norms import norm_statistics
from phosphene.synthesis.objectives import StepOutputs


class Norms(nn.Module):
    """A norm that runs, one that does not, one without statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.once = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        self.idle, self.bare = nn.BatchNorm2d(5), nn.BatchNorm2d(5, track_running_stats=False)

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
    return network


def _distances(network: nn.Module, images: Tensor, within: float) -> Tensor:
    classifier = Classifier(network)
    objective = norm_statistics(classifier, within)
    with torch.no_grad(), capture(prepare(classifier).module, objective.layers) as found:
        logits = prepare(classifier).logits(images)
    return objective(StepOutputs(logits, found, images))


def test_it_is_the_formula_place_by_place() -> None:
    network, images = _network(), torch.rand(3, 3, 9, 11)
    network.once.weight.data[0] = 5.0  # one channel's mean within, the others' partly beyond five deviations
    outputs = network.once(network.first(images)).detach()
    for within in (0.6, 1.0):
        got = _distances(network, images, within)
        for image in range(3):
            wanted = norm_distance(
                outputs[image].tolist(), network.once.bias.tolist(), network.once.weight.tolist(), within
            )
            assert math.isclose(float(got[image]), wanted, rel_tol=1e-4)


def test_only_norms_that_remember_count() -> None:
    assert norm_statistics(Classifier(_network())).layers == ("once", "idle")


def test_without_norms_it_is_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    assert _distances(network, torch.rand(2, 3, 8, 8), 1.0).tolist() == [0.0, 0.0]


def test_an_image_does_not_see_its_neighbors() -> None:
    network, images = _network(), torch.rand(4, 3, 9, 9)
    assert torch.allclose(_distances(network, images, 0.9)[2:3], _distances(network, images[2:3], 0.9), rtol=1e-5)


def test_what_a_norm_was_made_of_is_nearer_than_what_it_was_not() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.Flatten(), nn.Linear(8 * 900, 2))
    seen = torch.nn.functional.interpolate(torch.rand(64, 3, 4, 4), size=32, mode="bilinear")
    network.train()(seen)
    near, far = _distances(network.eval(), torch.stack([seen[0], torch.rand(3, 32, 32)]), 1.0).tolist()
    assert near < far
