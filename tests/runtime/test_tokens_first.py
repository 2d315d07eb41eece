"""Transformers whose tokens come before the images, as torch's attention has them by default, against their twins."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import phosphene
from phosphene.attribution.relu_rules import relu_rule_map
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError
from phosphene.runtime import activations, prepare
from phosphene.targets import Target, Unit

SIDE = 32


class Transformer(nn.Module):
    """Sixteen patches and the class's token through blocks of norm, attention and ReLU."""

    def __init__(self, tokens_first: bool, norm_first: bool = True) -> None:
        super().__init__()
        self.tokens_first = tokens_first
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(0.3 * torch.randn(17, 1, 16))
        block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=not tokens_first, norm_first=norm_first)
        self.blocks = nn.TransformerEncoder(block, 3, enable_nested_tensor=False)
        self.before, self.head = nn.Identity(), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.token.expand(1, x.shape[1], -1), x]) + self.positions
        x = self.blocks(self.before(x if self.tokens_first else x.transpose(0, 1)))
        return self.head(x[0] if self.tokens_first else x[:, 0])


def twins(**facts: bool) -> tuple[Classifier, Classifier]:
    """The same weights with the tokens first, and with the images first."""
    torch.manual_seed(0)
    first, usual = Transformer(True, **facts).eval(), Transformer(False, **facts).eval()
    for parameter in first.blocks.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    usual.load_state_dict(first.state_dict())
    return tuple(Classifier(net, Preprocess(size=SIDE)) for net in (first, usual))  # type: ignore[return-value]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


shared_twins = functools.cache(twins)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(
    "method",
    [
        *("grad_cam", "layer_cam", "hires_cam", "eigen_cam", "grad_cam_pp", "finer_cam", "shapley_cam"),
        *("ablation_cam", "score_cam", "layer_saliency", "grad_cam:layer=blocks.layers.0.self_attn"),
    ],
)
def test_maps_of_layers_are_those_of_the_network_with_the_images_first(method, norm_first, images):
    first, usual = shared_twins(norm_first=norm_first)
    found, expected = (phosphene.attribute(one, images, 2, method, batch_size=2) for one in (first, usual))
    assert found.layer == expected.layer
    assert found.notes == expected.notes
    assert close(found.maps, expected.maps)


def test_the_default_layer_is_in_the_last_block_and_its_axes_are_said():
    first, usual = (prepare(one) for one in twins())
    assert first.default_layer == usual.default_layer == "blocks.layers.2.norm1"
    assert (first.layout(first.default_layer), usual.layout(usual.default_layer)) == ("TNC:1+0", "NTC:1+0")
    shapes = [
        {layer.name: (layer.shape, layer.rows) for layer in one.layers}["blocks.layers.1"] for one in (first, usual)
    ]
    assert shapes == [((17, 16), 1)] * 2


def test_what_is_read_of_a_layer_has_the_images_first(images):
    first, usual = twins()
    found, expected = (activations(one, images, ["blocks.layers.1"], batch_size=2)[1] for one in (first, usual))
    assert close(found["blocks.layers.1"], expected["blocks.layers.1"])


@pytest.mark.parametrize("method", ["saliency", "grad_cam", "integrated_gradients:steps=4", "occlusion"])
def test_a_unit_of_a_layer_is_its_channel(method, images):
    first, usual = twins()
    unit = Unit("blocks.layers.1", 3)
    found, expected = (phosphene.attribute(one, images, unit, method) for one in (first, usual))
    assert close(found.score, expected.score)
    assert close(found.maps, expected.maps)


def test_a_deconvnet_may_end_at_what_a_layer_is_given(images):
    first, usual = twins()
    found, expected = (
        relu_rule_map(
            lambda gradient, through: through(gradient).relu(), one, images, Target.of(2), to="blocks.layers.1"
        )
        for one in (first, usual)
    )
    assert found.maps.shape == (3, 4, 4)
    assert close(found.reconstruction, expected.reconstruction)  # (behind a norm its channels add up to nothing)


def test_a_unit_is_drawn_alike():
    first, usual = twins()
    target = Target(unit=Unit("blocks.layers.1", 3))
    found, expected = (phosphene.impress(one, target, "class_impression", steps=3)[0].image for one in (first, usual))
    assert torch.allclose(found, expected, atol=2e-2)


def test_it_can_be_told_where_no_operation_says_so(images):
    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.detach().numpy().copy())

    first, usual = twins()
    for one in (first, usual):
        one.module.before = Hidden()
    assert prepare(first).layout("before") is None
    told = Classifier(first.module, Preprocess(size=SIDE), layouts={"before": "TNC:1+0"})
    found, expected = (phosphene.attribute(one, images, 2, "grad_cam", layer="before") for one in (told, usual))
    assert close(found.maps, expected.maps)


def test_captum_takes_the_first_axis_for_the_images(images):
    pytest.importorskip("captum")
    with pytest.raises(ModelError, match=r"captum:layer_conductance.*tokens there \(batch_first=False\); use grad_cam"):
        phosphene.attribute(twins()[0], images, 2, "captum:layer_conductance")
