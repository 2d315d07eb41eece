"""Gradients that add up to nothing by construction: no map is made of what rounding leaves of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import phosphene
from phosphene.errors import PhospheneWarning


class _Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.attention, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = self.features(x).relu()
        weights = self.attention(found).flatten(2).softmax(-1)
        return self.head((found.flatten(2) * weights).sum(-1))


class _Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("method", ["grad_cam", "finer_cam", "shapley_cam"])
@pytest.mark.parametrize(("kind", "layer"), [(_Attended, "attention"), (_Normed, "features")])
def test_what_rounding_leaves_is_no_map(kind, layer, method):
    torch.manual_seed(0)
    network, images = kind().eval(), torch.rand(2, 3, 16, 16)
    found = phosphene.attribute(network, images, 1, method, layer=layer)
    assert not found.maps.any()
    assert all("its gradients cancel over the places" in problem for problem in found.problems)
    assert phosphene.attribute(network, images, 1, "hires_cam", layer=layer).maps.abs().amax() > 1e-5


def test_the_default_method_is_then_another():
    torch.manual_seed(0)
    classifier = phosphene.Classifier(_Attended().eval(), phosphene.Preprocess((16, 16)))
    with pytest.warns(PhospheneWarning, match="saliency in the place of grad_cam"):
        found = phosphene.explain(classifier, torch.rand(3, 16, 16))
    assert found.spec == "saliency"
    assert found.maps.any()


def test_what_overflows_is_no_gradient_that_cancels():
    class Rooted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            found = self.features(x)
            return self.head((found - found.amin((2, 3), keepdim=True).detach()).sqrt().mean((2, 3)))

    found = phosphene.attribute(Rooted().eval(), torch.rand(1, 3, 16, 16), 1, "grad_cam", layer="features")
    assert "NaN or infinity" in found.problems[0]
