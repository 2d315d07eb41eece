"""The contract of the methods on the architectures people use; run by `make test-zoo`."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from phosphene.errors import ModelError
from phosphene.runtime import activations, forward, masked_scores, prepare
from phosphene.targets import Target
from tests.contract import checks
from tests.zoo.networks import SIZE, SPECS, classifier

# Every architecture has to give right maps. That nothing is left behind is compared byte by byte over all weights: on
# the light networks, and on each kind of them. Two methods take as many passes as the layer has channels.
_EVERYWHERE = (checks.shape_and_device, checks.batch_equals_singles, checks.any_context)
_LIGHT = ("ResNet-18", "SqueezeNet 1.1", "MobileNetV3", "ViT-Tiny")
METHODS = [name for name in checks.method_names() if not name.startswith("captum:")]  # the rest is captum's own
_PASSES_PER_CHANNEL = ("score_cam", "ablation_cam")


def cases():
    for network in SPECS:
        for method in METHODS:
            if method in _PASSES_PER_CHANNEL:
                chosen = (checks.shape_and_device,)
            else:
                chosen = checks.CHECKS if network in _LIGHT else _EVERYWHERE
            for check in chosen:
                yield pytest.param(method, network, check, id=f"{network}-{method}-{check.__name__}")


def quick_spec(method):
    """A method with options that make it quick on 64 pixels."""
    return checks.quick_spec(method, **({"window": (24, 24), "stride": (24, 24)} if method == "occlusion" else {}))


DEFAULT_LAYERS = {
    "VGG-16": "features",
    "ResNet-18": "layer4",
    "DenseNet-121": "features",
    "MobileNetV3": "features",
    "SqueezeNet 1.1": "classifier.2",
    "EfficientNet-B0": "features",
    "ConvNeXt-Tiny": "features",
    "ViT-Tiny": "blocks.11.norm1",
    "Swin-Tiny": "norm",
}


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("method", "network", "check"), list(cases()))
def test_contract(method, network, check):
    spec, target = quick_spec(method), Target.of([3, 1, 2])
    if checks.applies(spec, classifier(network), images(), target):
        check = batch_equals_singles if check is checks.batch_equals_singles else check
        check(spec, classifier(network), images(), target)


def batch_equals_singles(spec, own, pictures, target):
    """The check, where a ReLU or a max-pooling all but undecided may fall the other way in another order of sums.

    A picture of 64 pixels makes 300 000 units of VGG-16 decide; about one of them is undecided to float32, and the
    gradient jumps by about a hundredth of its maximum. None is to float64.
    """
    try:
        checks.batch_equals_singles(spec, own, pictures, target)
    except AssertionError:
        checks.batch_equals_singles(spec, own, pictures, target, tolerance=0.05)
        exact = own.with_module(deepcopy(own.module).double())
        checks.batch_equals_singles(spec, exact, pictures, target, tolerance=1e-6)


@pytest.mark.parametrize("network", SPECS)
def test_occlusion_in_windows_is_exact(network):
    """Computing only what a window touches gives what whole covered copies give."""
    boxes, fill = [(0, 0, 16, 16), (20, 40, 36, 56), (48, 48, 64, 64)], torch.full((3, 1, 1), 0.5)
    fast, slow = (
        masked_scores(
            classifier(network), images(2), Target.of([1, 2]), boxes, fill, score="logit", windowed=way
        ).covered
        for way in (True, False)
    )
    assert float((fast - slow).abs().max()) < 1e-3 * float(slow.abs().max())


@pytest.mark.parametrize("network", SPECS)
def test_the_default_layer(network):
    assert prepare(classifier(network)).default_layer == DEFAULT_LAYERS[network]


@pytest.mark.parametrize("network", SPECS)
def test_prepared_gives_what_the_original_gives(network):
    """Logits and every captured layer, also those that are not kept in memory one by one."""
    own = classifier(network)
    layer = prepare(own).default_layer
    with torch.no_grad():
        expected = own.logits(images())
    assert torch.allclose(forward(own, images()), expected, rtol=1e-4, atol=1e-3 * float(expected.abs().max()))
    seen = {}
    handle = own.module.get_submodule(layer).register_forward_hook(
        lambda _m, _a, output: seen.update(value=output.clone())
    )
    with torch.no_grad():
        own.logits(images())
    handle.remove()
    got = activations(own, images(), [layer])[1][layer]
    assert torch.allclose(got, seen["value"], rtol=1e-3, atol=1e-3 * float(seen["value"].abs().max()))


REFUSED = {
    "deconvnet": {"MobileNetV3", "EfficientNet-B0", "ConvNeXt-Tiny", "ViT-Tiny", "Swin-Tiny"},
    "guided_backprop": {"MobileNetV3", "EfficientNet-B0", "ConvNeXt-Tiny", "ViT-Tiny", "Swin-Tiny"},
    "guided_grad_cam": {"MobileNetV3", "EfficientNet-B0", "ConvNeXt-Tiny", "ViT-Tiny", "Swin-Tiny"},
    "cam": {"VGG-16", "MobileNetV3", "ConvNeXt-Tiny", "ViT-Tiny"},
    "lrp": {"MobileNetV3", "EfficientNet-B0", "ConvNeXt-Tiny", "ViT-Tiny", "Swin-Tiny"},
    "attention_relevance": {*SPECS} - {"ViT-Tiny"},
    "attention_rollout": {*SPECS} - {"ViT-Tiny"},
}


@pytest.mark.parametrize("network", SPECS)
def test_who_works_where(network):
    """The methods that make no sense on a network refuse it; the others work on it."""
    own, target = classifier(network), Target.of([3])
    methods = [name for name in METHODS if name not in _PASSES_PER_CHANNEL]
    refused = {name for name in methods if not checks.applies(quick_spec(name), own, images(1), target)}
    assert refused == {name for name in methods if network in REFUSED.get(name, ())}


def test_a_layer_without_places_is_refused():
    vit = classifier("ViT-Tiny")
    with pytest.raises(ModelError, match="head"):
        checks.explain(checks.quick_spec("grad_cam", layer="head"), vit, images(1), Target.of(1))
    assert isinstance(vit.module.head, nn.Linear)
