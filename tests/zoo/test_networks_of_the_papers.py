"""The networks of the papers as torchvision has them, random weights: maps, classes, facets; by `make test-zoo`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from phosphene.errors import ModelError
from phosphene.runtime import activations, forward, prepare
from phosphene.synthesis.recipes.class_model import ClassModelOptions, class_model
from phosphene.synthesis.recipes.minds_eye import Exemplars, MindsEyeOptions, minds_eye
from phosphene.synthesis.streams import Streams
from phosphene.targets import Target
from tests.contract import checks
from tests.zoo.networks import OF_THE_PAPERS, classifier
from tests.zoo.test_networks import batch_equals_singles

# A method of each kind; the contract of all of them is checked on the networks of test_networks.
METHODS = ("saliency", "deconvnet", "guided_backprop", "cam", "grad_cam", "integrated_gradients", "lrp", "occlusion")
LAYERS = {
    "ResNet-50": "layer4",
    "Wide-ResNet-101-2": "layer4",
    "ResNeXt-101": "layer4",
    "AlexNet": "features",
    "GoogLeNet": "inception5b",
    "Inception-v3": "Mixed_7c",
}


def images(network: str, count: int = 2) -> Tensor:
    side = classifier(network).preprocess.size[0]
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def cases() -> Iterator[object]:
    for network in OF_THE_PAPERS:
        for method in METHODS:
            yield pytest.param(network, method, id=f"{network}-{method}")


@pytest.mark.parametrize(("network", "method"), list(cases()))
def test_maps(network: str, method: str) -> None:
    options = {"window": (48, 48), "stride": (48, 48)} if method == "occlusion" else {}
    spec, target = checks.quick_spec(method, **options), Target.of([3, 1])
    if (network, method) == ("AlexNet", "cam"):
        with pytest.raises(ModelError, match="grad_cam"):
            checks.explain(spec, classifier(network), images(network), target)
        return
    checks.shape_and_device(spec, classifier(network), images(network), target)
    batch_equals_singles(spec, classifier(network), images(network), target)


@pytest.mark.parametrize("network", OF_THE_PAPERS)
def test_the_prepared_network_is_the_network(network: str) -> None:
    """The same logits, and the same at the default layer."""
    own, seen = classifier(network), {}
    layer = prepare(own).default_layer
    assert layer == LAYERS[network]
    handle = own.module.get_submodule(layer).register_forward_hook(lambda _m, _a, out: seen.update(value=out.clone()))
    with torch.no_grad():
        expected = own.logits(images(network))
    handle.remove()
    scale = float(expected.abs().max())
    torch.testing.assert_close(forward(own, images(network)), expected, rtol=1e-4, atol=1e-3 * scale)
    got = activations(own, images(network), [layer])[1][layer]
    torch.testing.assert_close(got, seen["value"], rtol=1e-3, atol=1e-3 * float(seen["value"].abs().max()))


@pytest.mark.parametrize("network", OF_THE_PAPERS)
def test_a_class_and_a_layer_are_drawn(network: str) -> None:
    own = classifier(network)
    options = ClassModelOptions.of("paper", steps=3, rate=1e-4, penalty=0.0)  # depths of random weights are rough
    steps = list(class_model(own, Target.of([1]), Streams.of(0, ["1"]), options))
    first, last = (float(forward(own, step.images)[0, 1]) for step in (steps[0], steps[-1]))
    assert last > first
    exemplars = Exemplars(LAYERS[network], (images(network, 3),), (torch.full((3,), 1 / 3),))
    side = int(images(network).shape[-1])
    drawn = MindsEyeOptions.of("paper", steps=6, side=side, previous="none", start="mean")
    moved = list(minds_eye(own, exemplars, Streams.of(0, ["facet"]), drawn))
    assert float(moved[-1].value) > float(moved[0].value)
