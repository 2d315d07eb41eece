"""Branches that a forward joins itself: what the CAM family's own choice of a layer does not see is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from phosphene.classifier import Classifier, Preprocess
from phosphene.runtime import prepare
from phosphene.tasks.attributions import explain
from tests.transformers import VisionTransformer


class Branches(nn.Module):
    """Two branches over a stem; joined by the forward, or in a module of their own."""

    def __init__(self, join, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.one, self.other = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 5, padding=2)
        self.join = join
        self.head = nn.Linear(width, 4)

    def forward(self, images):
        stem = self.stem(images).relu()
        return self.head(self.join(self.one(stem).relu(), self.other(stem).relu()).mean(dim=(2, 3)))


class Joined(nn.Module):
    def forward(self, one, other):
        return torch.cat([one, other], dim=1)


def classifier(network: nn.Module) -> Classifier:
    torch.manual_seed(0)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return Classifier(network.eval(), Preprocess((32, 32)))


def noted(classifier: Classifier, method: str) -> list[str]:
    found = explain(classifier, torch.rand(1, 3, 32, 32), method)
    return [note for note in found.notes if "goes past" in note]


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam", "eigen_cam"])
@pytest.mark.parametrize(
    ("join", "width"), [(lambda one, other: torch.cat([one, other], 1), 12), (lambda one, other: one + other, 6)]
)
def test_what_goes_past_the_last_branch_is_said(join, width, method):
    network = classifier(Branches(join, width))
    assert prepare(network).default_layer == "other"
    (note,) = noted(network, method)
    share = prepare(network).looks.passed_by("other")
    assert note.startswith(f"{share:.0%} of the gradient goes past layer other")
    assert noted(network, f"{method}:layer=one+other") == []


def test_the_share_is_that_of_the_gradient():
    """By the chain rule written out: what comes through the one branch, over the sum of both."""
    network = classifier(Branches(lambda one, other: one + other, 6))
    prepared = prepare(network)
    images = prepared.network.noise(prepared.network._image)[:1].requires_grad_()
    inner = network.module
    stem = inner.stem(images).relu()
    parts = [part(stem).relu().mean(dim=(2, 3)) @ inner.head.weight.T for part in (inner.one, inner.other)]
    best = int((parts[0] + parts[1] + inner.head.bias).argmax())
    past, through = (
        float(torch.autograd.grad(part[0, best], images, retain_graph=True)[0].abs().sum()) for part in parts
    )
    assert prepared.looks.passed_by("other") == pytest.approx(past / (past + through), rel=1e-4)


@pytest.mark.parametrize("network", [Branches(Joined(), 12), VisionTransformer(size=32)])
def test_a_network_whose_layers_see_all_gets_no_note(network):
    assert noted(classifier(network), "grad_cam") == []
