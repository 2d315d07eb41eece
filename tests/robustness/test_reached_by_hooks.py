"""What a network's hooks and functions hold counts as part of it; writes past PyTorch's counting are seen."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import phosphene
from phosphene.classifier import Classifier
from tests.comparing import map_error
from tests.robustness.everything import changed, everything


def net() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


class Adapter(nn.Module):
    """Low-rank weights beside a layer, put on by exchanging its forward."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 2, 3, 1, 1, bias=False), nn.Conv2d(2, 16, 1, bias=False)
        self.multiplier, self.before = 1.0, layer.forward
        layer.forward = self.forward  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.before(x) + self.multiplier * self.up(self.down(x))


class Steering:
    """A hook that is an object, or one of its methods."""

    def __init__(self) -> None:
        self.scale, self.mask = 1.0, torch.ones(16, 1, 1)

    def __call__(self, _module: nn.Module, _given: object, output: Tensor) -> Tensor:
        return output * self.scale * self.mask

    edit = __call__


def adapter(module: nn.Sequential) -> Adapter:
    return Adapter(module[0])


def steering(module: nn.Sequential) -> Steering:
    made = Steering()
    module[0].register_forward_hook(made)
    return made


def steering_method(module: nn.Sequential) -> Steering:
    made = Steering()
    module[0].register_forward_hook(made.edit)
    return made


def settings_in_closure(module: nn.Sequential) -> dict:
    settings = {"scale": 1.0, "mask": torch.ones(16, 1, 1)}
    module[0].register_forward_hook(lambda _m, _i, output: output * settings["scale"] * settings["mask"])
    return settings


def settings_in_partial(module: nn.Sequential) -> dict:
    settings = {"scale": 1.0}

    def hook(settings: dict, _module: nn.Module, _given: object, output: Tensor) -> Tensor:
        return output * settings["scale"]

    module[0].register_forward_hook(functools.partial(hook, settings))
    return settings


def layer_in_closure(module: nn.Sequential) -> nn.Module:
    extra = nn.Conv2d(3, 16, 1)
    module[0].register_forward_hook(lambda _m, given, output: output + extra(given[0]))
    return extra


CHANGES = {
    "an adapter's number": (adapter, lambda made: setattr(made, "multiplier", -3.0)),
    "an adapter's weights": (adapter, lambda made: made.up.weight.data.add_(1.0)),
    "an adapter's new layer": (adapter, lambda made: setattr(made, "up", nn.Conv2d(2, 16, 1))),
    "a number of a hook's": (steering, lambda made: setattr(made, "scale", -2.0)),
    "a number of a hook's object": (steering_method, lambda made: setattr(made, "scale", -2.0)),
    "a tensor of a hook's object": (steering_method, lambda made: setattr(made, "mask", -made.mask)),
    "a write into a hook's tensor": (steering, lambda made: made.mask[3:9].fill_(-2)),
    "a dict in a closure": (settings_in_closure, lambda made: made.update(scale=-2.0)),
    "a tensor in a closure": (settings_in_closure, lambda made: made["mask"].data[3:9].fill_(-2)),
    "a dict in a partial": (settings_in_partial, lambda made: made.update(scale=-2.0)),
    "a layer in a closure": (layer_in_closure, lambda made: made.weight.data.mul_(-4)),
}


def scores(classifier: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """What is said of the score, and what the network itself gives."""
    with torch.no_grad():
        return phosphene.attribute(classifier, images, 1, "saliency").score, classifier.module(images)[:, 1]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_outside_of_the_modules_is_noticed(change):
    make, alter = CHANGES[change]
    module, images = net(), torch.rand(2, 3, 16, 16)
    made = make(module)
    classifier = Classifier.of(module)
    said, given = scores(classifier, images)
    assert torch.allclose(said, given, atol=1e-5)
    alter(made)
    said, now = scores(classifier, images)
    assert not torch.allclose(now, given, atol=1e-4)
    assert torch.allclose(said, now, atol=1e-5)


@pytest.mark.parametrize(
    "write",
    [
        lambda module: module[0].weight.data[5].fill_(1),
        lambda module: module[1].running_mean.data[7].fill_(5),
        lambda module: module[7].weight.data[1].zero_(),
        lambda module: module[7].weight.detach().numpy().__setitem__(1, 0),
        lambda module: module[3].weight.data.masked_fill_(module[3].weight.data.abs() < 0.03, 0),
    ],
)
def test_a_write_to_a_part_past_the_counting_is_noticed(write):
    module, images = net(), torch.rand(2, 3, 16, 16)
    classifier = Classifier.of(module)
    given = scores(classifier, images)[1]
    write(module)
    said, now = scores(classifier, images)
    assert not torch.allclose(now, given, atol=1e-6)
    assert torch.allclose(said, now, atol=1e-6)


def test_a_row_of_a_large_layer_is_noticed():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 300)).eval()
    images, classifier = torch.rand(1, 3, 16, 16), Classifier.of(module)
    scores(classifier, images)
    module[1].weight.data[1] = 0
    said, now = scores(classifier, images)
    assert torch.allclose(said, now, atol=1e-6)


class Kept:
    """The extractor of many a tutorial: what a hook saw, with its gradient."""

    def __init__(self, module: nn.Sequential) -> None:
        self.features: list[Tensor] = []
        module[4].register_forward_hook(self.save)

    def save(self, _module: nn.Module, _given: object, output: Tensor) -> None:
        self.features.append(output)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("method", ["saliency", "grad_cam", "cam", "occlusion", "guided_backprop", "lrp"])
def test_a_hook_object_may_keep_outputs_with_their_gradient(method, used):
    module, images = net(), torch.rand(2, 3, 16, 16)
    expected = phosphene.attribute(Classifier.of(net()), images, 1, method).maps
    kept = Kept(module)
    if used:
        module(images.clone().requires_grad_())
    found = phosphene.attribute(Classifier.of(module), images, 1, method).maps
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    assert len(kept.features) == int(used)


def test_a_loss_before_the_logits_is_no_score():
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.body(x)
            return logits.square().mean(), logits

    module, images = WithLoss().eval(), torch.rand(1, 3, 16, 16)
    for head in ("score", "sigmoid", "softmax"):
        found = phosphene.attribute(Classifier.of(module, head=head), images, 0, "saliency")
        assert torch.allclose(found.score, module(images)[1][:, 0], atol=1e-6)


class Features(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.layer, self.kept = way, nn.Conv2d(3, 6, 3), None

    def forward(self, x: Tensor) -> Any:
        maps = F.silu(self.layer(x))
        pooled = maps.mean((2, 3))
        if self.way == "an attribute":
            self.kept = pooled
        return (maps, pooled) if self.way == "a second output" else maps


class Extractor(nn.Module):
    """Features whose mean the head is given by another way than what they return: as feature extractors do."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.body, self.rest = Features(way), nn.Conv2d(6, 6, 3)
        self.head, self.second = nn.Linear(6, 5), nn.Linear(6, 5)
        self.noted: dict[str, Tensor] = {}
        if way == "a hook":
            self.body.register_forward_hook(lambda _module, _given, output: self.noted.update(features=output))

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x)
        maps = found[0] if isinstance(found, tuple) else found
        pooled = {
            "a hook": lambda: self.noted["features"].mean((2, 3)),
            "an attribute": lambda: self.body.kept,
            "a second output": lambda: found[1],
        }[self.body.way]()
        return self.head(pooled) + self.second(F.silu(self.rest(maps)).mean((2, 3)))


@pytest.mark.parametrize("layer", ["body", None])
@pytest.mark.parametrize("way", ["a hook", "an attribute", "a second output"])
def test_what_the_score_reads_past_the_output_of_a_layer_counts(way, layer):
    torch.manual_seed(0)
    module, images = Extractor(way).eval(), torch.rand(2, 3, 12, 12)
    result = phosphene.attribute(Classifier.of(module), images, 1, "grad_cam:layer=body" if layer else "hires_cam")
    kept = []
    handle = module.get_submodule(result.layer).register_forward_hook(
        lambda _module, _given, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    score = module(images.clone().requires_grad_())[:, 1].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    weights = gradient.mean((2, 3), keepdim=True) if layer else gradient
    assert map_error(result.maps, (weights * kept[0]).sum(1).detach()) <= 1e-5


class SharesAContainer(nn.Module):
    """Reads features where a hook put them: both have the same dict, list or object, the hook by its closure."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.body, self.head, self.kept = nn.Conv2d(3, 6, 3), nn.Linear(6, 5), kept

        def keep(_module: nn.Module, _given: Any, output: Tensor) -> None:
            if isinstance(kept, dict):
                kept["features"] = output
            elif isinstance(kept, list):
                kept[:] = [output]
            else:
                kept.features = output

        self.body.register_forward_hook(keep)

    def forward(self, x: Tensor) -> Tensor:
        self.body(x)
        kept = self.kept
        features = kept["features"] if isinstance(kept, dict) else kept[0] if isinstance(kept, list) else kept.features
        return self.head(features.relu().mean((2, 3)))


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("kept", [dict, list, SimpleNamespace])
def test_a_container_that_a_hook_and_the_network_share_is_one_in_the_copy_too(kept, ran):
    torch.manual_seed(0)
    module, images = SharesAContainer(kept()).eval(), torch.rand(2, 3, 12, 12)
    if ran:
        module(torch.rand(1, 3, 12, 12))
    before = everything(module)
    found = phosphene.attribute(Classifier.of(module), images, 1, "saliency")
    assert changed(before, everything(module)) == []
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(leaf)[:, 1].sum(), leaf)
    assert map_error(found.maps, gradient.abs().amax(1)) <= 1e-5
