"""The CAM family against the papers' formulas, on layers of convolutions, of tokens and with channels last."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.attribution.ablation_cam import ablation_cam
from phosphene.attribution.eigen_cam import eigen_cam
from phosphene.attribution.grad_cam import grad_cam
from phosphene.attribution.grad_cam_pp import grad_cam_pp
from phosphene.attribution.hires_cam import hires_cam
from phosphene.attribution.layer_cam import layer_cam
from phosphene.attribution.score_cam import channel_masks, score_cam
from phosphene.classifier import Classifier
from phosphene.errors import ModelError, NotFoundError, OptionError
from phosphene.registry import format_spec, make_spec, parse_spec
from phosphene.targets import Target, Unit
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of, pooled, vgg_f
from tests.oracles import cams as oracle

GRADIENT = {"grad_cam": grad_cam, "grad_cam_pp": grad_cam_pp, "hires_cam": hires_cam, "layer_cam": layer_cam}
FROM_HEAD = {**GRADIENT, "eigen_cam": eigen_cam, "ablation_cam": ablation_cam}
FAMILY = {**FROM_HEAD, "score_cam": score_cam}


def normed(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.double() - mean) / std


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("make", "layer"), [(vgg_f, 3), (vgg_f, 4), (vgg_f, 1), (pooled, 4), (pooled, 1)])
@pytest.mark.parametrize("name", FROM_HEAD)
def test_equals_the_literal_formula(name: str, make: Any, layer: int, relu: bool) -> None:
    classifier, images = classifier_of(make()), torch.rand(2, 3, 16, 16)
    got = FROM_HEAD[name](classifier, images, Target.of([3, 1]), layer=str(layer), relu=relu)
    module = make().double()
    for image, c, found, score in zip(images, (3, 1), got.maps, got.score, strict=True):
        with torch.no_grad():
            a = module[: layer + 1](normed(image[None]))[0].clone()
        expected = getattr(oracle, name)(lambda value, c=c: module[layer + 1 :](value.clone())[0, c], a)
        expected = expected.clamp(min=0) if relu else expected
        assert map_error(found[None], expected[None]) < 2e-5
        assert float(score) == pytest.approx(float(module(normed(image[None]))[0, c].detach()), rel=1e-5)


def test_score_cam_equals_the_literal_formula() -> None:
    classifier, images = classifier_of(vgg_f()), torch.rand(2, 3, 16, 16)
    module, mean = vgg_f().double(), torch.tensor(MEAN, dtype=torch.float64).view(3, 1, 1)
    got = score_cam(classifier, images, Target.of([3, 1]), layer="4")
    fewer = score_cam(classifier, images, Target.of([3, 1]), layer="4", channels=3)
    for index, c in enumerate((3, 1)):
        a = module[:5](normed(images[index : index + 1]))[0].detach()
        score = lambda x, c=c: module(normed(x))[0, c]  # noqa: E731
        assert map_error(got.maps[index : index + 1], oracle.score_cam(score, images[index], a, mean)[None]) < 2e-5
        widest = (a.amax((1, 2)) - a.amin((1, 2))).topk(3).indices.sort().values
        expected = oracle.score_cam(score, images[index], a[widest], mean)
        assert map_error(fewer.maps[index : index + 1], expected[None]) < 2e-5


@pytest.mark.parametrize("cells", [(4, 5), (1, 3)])
def test_masks_of_score_cam_as_libraries_make_them(cells: tuple[int, int]) -> None:
    channels, size = torch.rand(3, *cells) - 0.3, (20, 17)
    low, high = channels.amin((1, 2), keepdim=True), channels.amax((1, 2), keepdim=True)
    before = F.interpolate(((channels - low) / (high - low))[None], size, mode="bilinear", align_corners=False)[0]
    assert torch.allclose(channel_masks(channels, size, "before"), before, atol=1e-5)
    corners = F.interpolate(channels[None], size, mode="bilinear", align_corners=True)[0]
    low, high = corners.amin((1, 2), keepdim=True), corners.amax((1, 2), keepdim=True)
    assert torch.allclose(channel_masks(channels, size, align_corners=True), (corners - low) / (high - low), atol=1e-5)


def test_eigen_cam_centered() -> None:
    classifier, images, module = classifier_of(vgg_f()), torch.rand(1, 3, 16, 16), vgg_f().double()
    a = module[:5](normed(images))[0].detach()
    got = eigen_cam(classifier, images, Target.of(1), layer="4", center=True)
    assert map_error(got.maps, oracle.eigen_cam(lambda x: x, a, center=True)[None]) < 2e-5


class Normed(nn.Module):
    """Tokens behind a layer norm: the mean over channels is nothing but rounding and all places are equally large."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.patches(x).permute(0, 2, 3, 1)).mean((1, 2)))


@pytest.mark.parametrize("center", [False, True])
def test_eigen_cam_keeps_its_sign_behind_a_layer_norm(center: bool) -> None:
    net, images = Normed(), torch.rand(6, 3, 16, 16)
    got = eigen_cam(Classifier(net), images, Target.of(1), layer="norm", center=center).maps
    noise = eigen_cam(
        Classifier(net), images * (1 + 1e-6 * torch.rand(6, 1, 1, 1)), Target.of(1), layer="norm", center=center
    )
    assert map_error(noise.maps, got) < 1e-3
    assert bool((got.double().pow(3).sum((1, 2)) > 0).all())


def test_grad_cam_pp_keeps_gradients_that_are_tiny() -> None:
    """An epsilon in the denominator would make the weights those of another formula."""
    net, images = vgg_f(), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        net[10].weight.mul_(1e-12)
    got = grad_cam_pp(classifier_of(net), images, Target.of(1), layer="4").maps
    module = net.double()
    a = module[:5](normed(images))[0].detach()
    expected = oracle.grad_cam_pp(lambda value: module[5:](value.clone())[0, 1], a)
    assert map_error(got, expected[None]) < 1e-4
    net = vgg_f()
    got = grad_cam_pp(classifier_of(net), images, Target.of(1), layer="4", epsilon=1e-2).maps
    module = net.double()
    expected = oracle.grad_cam_pp(lambda value: module[5:](value.clone())[0, 1], a, epsilon=1e-2)
    assert map_error(got, expected[None]) < 1e-4


@pytest.mark.parametrize("name", FAMILY)
def test_layers_fused(name: str) -> None:
    """Each layer's map by its largest magnitude, enlarged to the finest grid, averaged."""
    classifier, images = classifier_of(vgg_f()), torch.rand(2, 3, 16, 16)
    parts = [FAMILY[name](classifier, images, Target.of(2), layer=layer).maps for layer in ("1", "4")]
    scaled = [part / part.abs().amax((1, 2), keepdim=True) for part in parts]
    coarse = F.interpolate(scaled[1][:, None], (16, 16), mode="bilinear", align_corners=False)[:, 0]
    for layer in (("1", "4"), "1+4"):
        got = FAMILY[name](classifier, images, Target.of(2), layer=layer)
        assert got.layer == "1+4"
        assert torch.allclose(got.maps, (scaled[0] + coarse) / 2, atol=1e-5)
    with pytest.raises(OptionError, match="once"):
        FAMILY[name](classifier, images, Target.of(2), layer=("1", "1"))
    with pytest.raises(NotFoundError, match="no layer '99'"):
        FAMILY[name](classifier, images, Target.of(2), layer="1+99")
    spec = make_spec(name, layer=("1", "4"))
    assert format_spec(spec) == f"{name}:layer=1+4"
    assert parse_spec(format_spec(spec)) == spec
    assert parse_spec(f"{name}:layer=1") == make_spec(name, layer="1")


class Pixels(nn.Module):
    """A pointwise network in one of three layouts: channels first, channels last, tokens behind two extra ones."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout
        self.down = nn.AvgPool2d(4)
        self.mix, self.act, self.norm, self.head = nn.Linear(3, 6), nn.ReLU(), nn.Identity(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.to_layout(self.act(self.mix(self.down(x).permute(0, 2, 3, 1)))))
        if self.layout == "tokens":
            x = x[:, 2:]
        return self.head(x.flatten(2).mean(2) if self.layout == "first" else x.flatten(1, -2).mean(1))

    def to_layout(self, x: Tensor) -> Tensor:
        if self.layout == "first":
            return x.permute(0, 3, 1, 2)
        return torch.cat([x.new_ones(len(x), 2, 6), x.flatten(1, 2)], 1) if self.layout == "tokens" else x


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_places_of_tokens_and_channels_last_are_found(name: str, size: tuple[int, int]) -> None:
    images, networks = torch.rand(2, 3, *size), {}
    for layout in ("first", "last", "tokens"):
        torch.manual_seed(3)
        networks[layout] = Classifier(Pixels(layout))
    found = {
        layout: FAMILY[name](classifier, images, Target.of(1), layer="norm") for layout, classifier in networks.items()
    }
    assert found["first"].maps.shape == (2, size[0] // 4, size[1] // 4)
    for layout in ("last", "tokens"):
        assert found[layout].stride == (4.0, 4.0)
        assert map_error(found[layout].maps, found["first"].maps) < 1e-5
        unit = Target(unit=Unit("norm", 2, (1, 3)))
        assert torch.allclose(
            grad_cam(networks[layout], images, unit, layer="norm").score,
            grad_cam(networks["first"], images, unit, layer="norm").score,
        )
    with pytest.raises(ModelError, match="layer head has no places"):
        FAMILY[name](networks["first"], images, Target.of(1), layer="head")


class Skip(nn.Module):
    """A branch around the layer; `joined` by a sum, which takes copies, or by a concatenation, which does not."""

    def __init__(self, joined: str) -> None:
        super().__init__()
        self.joined = joined
        self.stem, self.branch = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 if joined == "sum" else 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.branch(x)
        both = x + y if self.joined == "sum" else torch.cat([x, y], 1)
        return self.head(F.relu(both).mean((2, 3)))


@pytest.mark.parametrize("joined", ["sum", "concatenation"])
def test_ablation_with_a_way_around_the_layer(joined: str) -> None:
    net, images = Skip(joined), torch.rand(2, 3, 8, 8)
    got = ablation_cam(Classifier(net), images, Target.of(1), layer="branch", batch_size=3)
    net = net.double()
    for image, found in zip(images.double(), got.maps, strict=True):
        x = net.stem(image[None]).detach()

        def head(y: Tensor, x: Tensor = x) -> Tensor:
            return net.head(F.relu(x + y if joined == "sum" else torch.cat([x, y], 1)).mean((2, 3)))[0, 1]

        assert map_error(found[None], oracle.ablation_cam(head, net.branch(x)[0].detach())[None]) < 1e-5


def test_ablation_by_negative_scores_keeps_its_sign() -> None:
    net, images = vgg_f(), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        net[10].bias.sub_(100.0)
    got = ablation_cam(classifier_of(net), images, Target.of(1), layer="4")
    assert float(got.score) < 0
    usual = ablation_cam(classifier_of(vgg_f()), images, Target.of(1), layer="4")
    ratio = got.maps / usual.maps
    assert bool((ratio[usual.maps.abs() > 1e-3] > 0).all())


def test_hires_adds_up_to_the_score_before_a_linear_head() -> None:
    classifier, images = classifier_of(pooled()), torch.rand(2, 3, 16, 16)
    got = hires_cam(classifier, images, Target.of(2), layer="5")
    assert torch.allclose(got.maps.sum((1, 2)) + classifier.module[9].bias[2], got.score, atol=1e-5)
