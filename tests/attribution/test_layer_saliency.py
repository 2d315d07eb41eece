"""Layer saliency against autograd, and the layer that it looks at by itself."""

from __future__ import annotations

import torch
from torch import nn

from phosphene.attribution.layer_saliency import layer_saliency, middle_layer
from phosphene.classifier import Classifier
from phosphene.runtime import prepare
from phosphene.targets import Target
from phosphene.zoo import load_classifier
from tests.transformers import Block


def test_the_map_is_the_length_of_the_gradient_at_each_place():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Tanh())
    rest = nn.Sequential(nn.Conv2d(5, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    net, images = nn.Sequential(body, rest).double().float(), torch.rand(2, 3, 9, 8)
    result = layer_saliency(Classifier(net), images, Target.of([2, 0]), layer="0")
    features = body(images).detach().double().requires_grad_()
    scores = rest.double()(features)
    (gradient,) = torch.autograd.grad(scores[0, 2] + scores[1, 0], features)
    torch.testing.assert_close(result.maps.double(), gradient.norm(dim=1), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(result.score.double(), torch.stack([scores[0, 2], scores[1, 0]]), rtol=1e-4, atol=1e-6)


def test_the_default_is_a_block_in_the_middle_of_the_last_grid():
    prepared = prepare(load_classifier("embedded"))
    assert middle_layer(prepared.layers, prepared.default_layer, (224, 224)) == "blocks.14"


class Blocks(nn.Module):
    """A transformer's parts in the order of timm: embedding, dropout, a sequence of blocks, a norm; no class token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop, self.rest = nn.Conv2d(3, 8, 4, 4), nn.Dropout(0.1), nn.Identity()
        self.blocks = nn.Sequential(*(Block(8, 2, "fused") for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rest(self.drop(self.embedding(x).flatten(2).transpose(1, 2)))
        return self.head(self.norm(self.blocks(x)).mean(1))


def test_of_a_transformer_it_is_a_block_in_the_middle_and_no_dropout_before_the_first():
    torch.manual_seed(0)
    found = layer_saliency(Classifier(Blocks().eval()), torch.rand(1, 3, 32, 32), Target.of(1))
    assert found.layer == "blocks.1"


def test_a_short_network_is_looked_at_in_its_last_layer():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    prepared = prepare(Classifier(net))
    assert middle_layer(prepared.layers, prepared.default_layer, (224, 224)) == prepared.default_layer
