"""What ultralytics, vit-pytorch, segmentation_models_pytorch and fastai write, without these packages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phosphene import Classifier, attribute
from phosphene.errors import ModelError
from phosphene.runtime import prepare
from tests.comparing import map_error


class WithDefault(nn.Module):
    """ultralytics' Conv: its activation is an attribute of the class, which only `__init__` reads."""

    usual = nn.SiLU()

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(given, made, 3, 2, 1), self.usual

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class UsesDefault(WithDefault):
    def forward(self, x: Tensor) -> Tensor:
        return self.usual(self.conv(x))


def _network(block: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(block(3, 8), block(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()


def test_a_default_of_a_class_that_only_its_making_reads_is_in_nobody_s_way() -> None:
    network, images = _network(WithDefault), torch.rand(2, 3, 32, 32, requires_grad=True)
    (wanted,) = torch.autograd.grad(network(images)[:, 1].sum(), images)
    found = attribute(Classifier.of(network), images.detach(), 1, "saliency").maps
    assert map_error(found, wanted.abs().amax(dim=1)) <= 1e-5
    with pytest.raises(ModelError, match="'usual' of the class"):
        attribute(Classifier.of(_network(UsesDefault)), images.detach(), 1, "saliency")


class Positions(nn.Module):
    """A row of tokens with embeddings of their places, which fit one size of images alone."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(3, 16, 8, 8), nn.LayerNorm(16), nn.Linear(16, 4)
        self.places = nn.Parameter(torch.randn(1, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.patch(x).flatten(2).transpose(1, 2) + self.places).tanh().mean(1))


@pytest.mark.parametrize("method", ["grad_cam", "layer_saliency", "score_cam"])
def test_the_first_call_looks_for_a_layer_with_its_own_images(method: str) -> None:
    torch.manual_seed(0)
    assert attribute(Classifier.of(Positions().eval()), torch.rand(1, 3, 32, 32), 1, method).layer


def test_the_usual_layer_does_not_hang_on_what_was_asked_before() -> None:
    layers = [nn.Sequential(nn.Conv2d(size, 2 * size, 3, 2, 1), nn.ReLU()) for size in (3, 6, 12, 24, 48)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 3)).eval()
    images, asked = torch.rand(1, 3, 32, 32), Classifier.of(network)
    attribute(asked, images, 1, "saliency")
    found = {attribute(one, images, 1, "grad_cam").layer for one in (asked, Classifier.of(network))}
    assert found == {"3"}  # the one after it has a single place


class Encoder(nn.Module):
    """All features, the picture itself first."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        found = [x]
        for stage in (self.a, self.b):
            found.append(stage(found[-1]))
        return found


class Encoded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[-1].mean((2, 3)))


def test_what_gives_features_of_many_sizes_is_no_layer_to_look_at() -> None:
    torch.manual_seed(0)
    found = attribute(Classifier.of(Encoded().eval()), torch.rand(1, 3, 32, 32), 1, "grad_cam")
    assert (found.layer, found.maps.shape) == ("encoder.b", (1, 8, 8))


class Keeps:
    """fastai's Hook: what a layer gave is kept for another."""

    def __init__(self, layer: nn.Module) -> None:
        self.stored: Any = None
        self.handle = layer.register_forward_hook(self.keep)

    def keep(self, _layer: nn.Module, _given: Any, output: Tensor) -> None:
        self.stored = output


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last, self.kept = nn.Conv2d(16, 3, 3, padding=1), Keeps(self.first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x)).relu()
        return self.last(torch.cat([x, self.kept.stored], dim=1)).mean((2, 3))


def test_an_object_that_keeps_features_is_copied_with_them() -> None:
    torch.manual_seed(0)
    network, images = Skips().eval(), torch.rand(2, 3, 16, 16, requires_grad=True)
    (wanted,) = torch.autograd.grad(network(images)[:, 1].sum(), images)
    before = network.kept.stored  # with a gradient, which copy.deepcopy refuses
    classifier = Classifier.of(network)
    assert map_error(attribute(classifier, images.detach(), 1, "saliency").maps, wanted.abs().amax(dim=1)) <= 1e-5
    assert network.kept.stored is before
    assert prepare(classifier).network.module.kept is not network.kept
