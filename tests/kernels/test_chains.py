"""What runs fast gives what the network as written gives: outputs, gradients and every captured layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import skimage.data
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from phosphene.attribution.relu_rules import rule_gradient
from phosphene.classifier import Classifier
from phosphene.graph import Kernel, convolution_kernel
from phosphene.hooks import capture, survey
from phosphene.images import preprocess
from phosphene.kernels.convolution import Convolution
from phosphene.relu_rule import relu_rule
from phosphene.runtime import forward, input_gradient, layer_gradients, prepare
from phosphene.runtime.precision import compute_dtype
from phosphene.targets import Target
from phosphene.zoo import load_classifier
from phosphene.zoo.efficientnet_lite import SamePadConv2d


class Halved(nn.Conv2d):
    """A subclass whose forward does more than convolve."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


class Branching(nn.Module):
    """A norm that two read, a ReLU that runs twice, and functional ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.relu = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        y = self.relu(self.second(self.relu(x.clone())))
        return F.relu6(x + y).mean((2, 3))


def _pooled(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv_norm_relu": lambda: _pooled(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1)),
    "conv_relu6": lambda: _pooled(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6(), nn.Conv2d(8, 4, 3, 2, 1)),
    "hardtanh": lambda: _pooled(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Hardtanh(-0.5, 0.7)),
    "norm_alone": lambda: _pooled(nn.BatchNorm2d(3), nn.Conv2d(3, 4, (3, 5), padding=(2, 1)), nn.BatchNorm2d(4)),
    "grouped_dilated": lambda: _pooled(nn.Conv2d(3, 6, 3, padding=2, dilation=2, groups=3), nn.ReLU()),
    "too_much_padding": lambda: _pooled(nn.Conv2d(3, 4, 3, padding=4), nn.ReLU(), nn.Conv2d(4, 4, 1, padding=1)),
    "padding_same": lambda: _pooled(nn.Conv2d(3, 4, 5, padding="same"), nn.ReLU(), nn.Conv2d(4, 4, 4, padding="same")),
    "reflected": lambda: _pooled(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.ReLU()),
    "same_pad": lambda: _pooled(SamePadConv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
    "same_pad_depthwise": lambda: _pooled(
        nn.Conv2d(3, 8, 1), SamePadConv2d(8, 8, 5, 2, groups=8), nn.BatchNorm2d(8), nn.ReLU6()
    ),
    "subclass": lambda: _pooled(Halved(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
    "branching": Branching,
    "containers": lambda: _pooled(
        nn.Sequential(nn.Conv2d(3, 6, 3)),
        nn.Sequential(nn.BatchNorm2d(6), nn.Sequential(nn.ReLU()), nn.Conv2d(6, 6, 3, groups=6)),
        nn.Sequential(nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4)), nn.ReLU6(), nn.Conv2d(4, 5, 1)),
    ),
}


def _network(name: str) -> nn.Module:
    torch.manual_seed(3)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def _gradient(network: nn.Module, images: Tensor, index: int) -> Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(network(images)[:, index].sum(), images)[0]


@pytest.mark.parametrize("side", [11, 12])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_outputs_and_gradients_are_those_of_the_network_as_written(name: str, side: int) -> None:
    network, images = _network(name), torch.rand(3, 3, side, side + 2)
    classifier = Classifier(network)
    with torch.no_grad():
        wanted = network(images)
    assert torch.allclose(forward(classifier, images), wanted, atol=2e-6)
    score, gradient = input_gradient(classifier, images, Target.of(1))
    assert torch.allclose(score, wanted[:, 1], atol=2e-6)
    assert torch.allclose(gradient, _gradient(network, images, 1), atol=2e-6)
    assert not any("forward" in vars(module) for module in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_each_captured_layer_is_that_of_the_original(name: str) -> None:
    network, images = _network(name), torch.rand(2, 3, 12, 12)
    for layer in survey(network, images):
        prepared = prepare(Classifier(network), keep=[layer.name])
        with torch.no_grad(), capture(network, [layer.name]) as wanted, capture(prepared.module, [layer.name]) as got:
            network(images)
            prepared.module(images)
        assert torch.allclose(got[layer.name], wanted[layer.name], atol=2e-6), layer.name


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_gradients_at_each_layer_are_those_of_the_original(name: str) -> None:
    network, images = _network(name), torch.rand(2, 3, 12, 12)
    for layer in survey(network, images):
        with capture(network, [layer.name], edit=_leaf) as wanted:
            score = network(images)[:, 1].sum()
        (expected,) = torch.autograd.grad(score, wanted[layer.name])
        found = layer_gradients(Classifier(network), images, Target.of(1), [layer.name])
        assert torch.allclose(found.gradients[layer.name], expected, atol=2e-6), layer.name


def _leaf(_name: str, output: Tensor) -> Tensor:
    return output.detach().requires_grad_()


def test_a_sequence_of_convolutions_is_one_step_of_the_way_back() -> None:
    prepared = prepare(Classifier(_network("conv_norm_relu")))
    module = prepared.module
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    first = module[0](images)
    assert all(module[place](first) is first for place in (1, 2, 3)), "the first convolution did the work of all"
    with capture(module, ["2"]):
        assert module[2](module[1](module[0](images))).shape[1] == 8


def test_work_is_swallowed_only_while_nobody_watches() -> None:
    network = _network("conv_norm_relu")
    prepared, images = prepare(Classifier(network)).variant("windows"), torch.rand(1, 3, 8, 8)
    module = prepared.module
    with torch.no_grad():
        swallowed = module[0](images)
        assert torch.equal(module[2](module[1](swallowed)), swallowed)
        with capture(module, ["0"]):
            alone = module[0](images)
        assert torch.allclose(alone, network[0](images), atol=1e-6)
        assert not torch.allclose(alone, swallowed, atol=1e-2)
        with capture(module, ["1"]):
            normed = module[1](module[0](images))
        assert torch.allclose(normed, network[:2](images), atol=1e-6)


def test_a_function_mode_sees_every_activation() -> None:
    names: list[str] = []

    class Seen(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    module = prepare(Classifier(_network("conv_relu6"))).module
    with torch.no_grad(), Seen():
        module(torch.rand(1, 3, 8, 8))
    assert "relu6" in names or "hardtanh" in names


def test_a_changed_weight_or_statistic_is_noticed() -> None:
    network, images = _network("conv_norm_relu"), torch.rand(1, 3, 8, 8)
    classifier = Classifier(network)
    before = forward(classifier, images)
    with torch.no_grad():
        network[1].running_mean.add_(0.5)
    after = forward(classifier, images)
    assert not torch.allclose(before, after)
    assert torch.allclose(after, network(images), atol=2e-6)


@pytest.fixture(scope="module")
def cat() -> Tensor:
    classifier = load_classifier("embedded")
    picture = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1) / 255
    return preprocess(picture, classifier.views([picture])[0])[None]


def test_saliency_of_the_embedded_network(cat: Tensor) -> None:
    classifier = load_classifier("embedded")
    score, gradient = input_gradient(classifier, cat, Target.of(285))
    wanted = _gradient(nn.Sequential(_Normalized(classifier)), cat, 285)
    assert float((gradient - wanted).abs().max() / wanted.abs().max()) < 1e-5
    assert torch.allclose(score, classifier.logits(cat)[:, 285], atol=1e-4)


def test_layer_gradients_of_the_embedded_network(cat: Tensor) -> None:
    classifier, name = load_classifier("embedded"), "blocks.9"
    found = layer_gradients(classifier, cat, Target.of(285), [name])
    with capture(classifier.module, [name]) as wanted:
        score = classifier.logits(cat)[:, 285]
    gradient = torch.autograd.grad(score.sum(), wanted[name])[0]
    assert torch.allclose(found.activations[name], wanted[name], atol=1e-4)
    assert float((found.gradients[name] - gradient).abs().max() / gradient.abs().max()) < 1e-5


class _Normalized(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier.logits(x)


def test_layers_of_the_embedded_network_are_those_of_the_original() -> None:
    classifier, images = load_classifier("embedded"), torch.rand(1, 3, 64, 64)
    prepared = prepare(classifier)
    names = ["stem", "stem.0", "blocks.1.depthwise.0", "blocks.3.depthwise.1", "blocks.5.expand.2"]
    names += ["blocks.9", "head.1"]
    with torch.no_grad(), capture(classifier.module, names) as wanted:
        classifier.module(images)
    for name in names:
        with torch.no_grad(), capture(prepared.module, [name]) as got:
            prepared.module(images)
        assert torch.allclose(got[name], wanted[name], atol=1e-4), name


def test_fast_is_close_to_exact(cat: Tensor) -> None:
    exact = load_classifier("embedded")
    fast = prepare(exact, precision="fast")
    wanted, got = (forward(classifier, cat).softmax(1) for classifier in (exact, fast))
    assert float((wanted - got).abs().max()) < 0.05
    maps = [input_gradient(classifier, cat, Target.of(285))[1].abs().amax(1).flatten() for classifier in (exact, fast)]
    assert float(torch.corrcoef(torch.stack(maps))[0, 1]) > 0.95


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_way_back_is_close_to_the_float32_one(groups: int, stride: int) -> None:
    if compute_dtype("fast", torch.device("cpu")) == torch.float32:
        pytest.skip("this processor has no bfloat16")
    layer = SamePadConv2d(4, 4, 3, stride, groups=groups).eval()
    kernel = convolution_kernel(layer)
    assert kernel is not None
    gradient, size = torch.randn(2, 4, *kernel.outputs((10, 10))), torch.Size((2, 4, 10, 10))
    exact, fast = (
        Convolution(layer.weight.detach(), None, kernel, groups, None, dtype).input_gradient(gradient, size)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert fast.dtype == torch.bfloat16
    assert torch.allclose(fast.float(), exact, atol=0.03 * float(exact.abs().max()))


@pytest.mark.parametrize(
    ("size", "padding"),
    [(size, padding) for size in (1, 2, 3, 5, 7) for padding in (None, 0, 1, 3) if padding is None or padding <= size],
)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_way_back_through_a_stem(size: int, stride: int, padding: int | None) -> None:
    kernel = Kernel((size, size), (stride, stride), padding=None if padding is None else (padding, padding))
    weight = torch.randn(6, 3, size, size)
    stem = Convolution(weight, None, kernel, 1, None, torch.float32)
    for sides in ((17, 20), (24, 23), (23, 24), (31, 9)):
        (top, bottom), (left, right) = kernel.pads(sides)
        images = torch.randn(2, 3, *sides, dtype=torch.float64, requires_grad=True)
        output = F.conv2d(F.pad(images, (left, right, top, bottom)), weight.double(), stride=stride)
        gradient = torch.randn(output.shape)
        (wanted,) = torch.autograd.grad(output, images, gradient.double())
        got = stem.input_gradient(gradient, images.shape)
        assert float((got - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("size", "padding"),
    [(size, padding) for size in (1, 2, 3, 5) for padding in (None, 0, 1, 3) if padding is None or padding <= size],
)
@pytest.mark.parametrize("stride", [(2, 2), (4, 1), (3, 2)])
def test_the_bfloat16_way_back_through_a_strided_depthwise_convolution(
    size: int, stride: tuple[int, int], padding: int | None
) -> None:
    if compute_dtype("fast", torch.device("cpu")) == torch.float32:
        pytest.skip("this processor has no bfloat16")
    kernel = Kernel((size, size), stride, padding=None if padding is None else (padding, padding))
    weight = torch.randn(4, 1, size, size).bfloat16()
    layer = Convolution(weight, None, kernel, 4, None, torch.bfloat16)
    for sides in ((17, 20), (24, 23), (31, 9)):
        (top, bottom), (left, right) = kernel.pads(sides)
        images = torch.randn(2, 4, *sides, requires_grad=True)
        output = F.conv2d(F.pad(images, (left, right, top, bottom)), weight.float(), stride=stride, groups=4)
        gradient = torch.randn(output.shape).bfloat16()
        (wanted,) = torch.autograd.grad(output, images, gradient.float())
        got = layer.input_gradient(gradient, images.shape)
        assert got.dtype == torch.bfloat16
        assert got.is_contiguous(memory_format=torch.channels_last)
        assert float((got - wanted).abs().max()) <= 0.01 * float(wanted.abs().max())


@pytest.mark.parametrize("purpose", ["maps", "steps"])
def test_a_fast_network_works_outside_of_passes_too(purpose: Any) -> None:
    prepared = prepare(load_classifier("embedded"), precision="fast").variant(purpose)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert bool(torch.isfinite(prepared.logits(images)).all())
    with prepared.passing(gradients=True):
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(prepared.logits(leaf)[:, 0].float().sum(), leaf)
    assert bool(gradient.any())
    assert bool(torch.isfinite(gradient).all())


def test_gradients_of_steps_are_those_of_the_network_between_the_kinks() -> None:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardtanh(-9, 9), nn.Conv2d(4, 2, 6), nn.Flatten())
    network.eval()[1].running_mean.normal_()
    images = torch.rand(2, 3, 8, 8)
    got = _gradient(prepare(Classifier(network)).variant("steps").module, images, 1)
    assert torch.allclose(got, _gradient(network, images, 1), atol=1e-6)


def test_late_convolutions_are_the_last_that_run() -> None:
    class Backwards(nn.Module):
        """Registers its layers in another order than it runs them."""

        def __init__(self) -> None:
            super().__init__()
            self.last, self.third, self.second, self.first = (nn.Conv2d(3, 3, 3) for _ in range(4))

        def forward(self, images: Tensor) -> Tensor:
            return self.last(self.third(self.second(self.first(images)))).mean(dim=(2, 3))

    prepared = prepare(Classifier(Backwards()))
    assert [name for name, layer in prepared.module.named_children() if vars(layer)["forward"].late] == ["last"]


@pytest.mark.skipif(compute_dtype("fast", torch.device("cpu")) != torch.bfloat16, reason="no bfloat16 here")
def test_global_pooling_of_bfloat16_is_the_mean_of_what_it_is_given() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    fast, images = prepare(Classifier(network), precision="fast"), torch.rand(2, 3, 9, 7)
    with fast.passing(gradients=False):
        maps = fast.module[0](images)
        got = fast.module[1](maps)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, maps.double().mean(dim=(2, 3), keepdim=True).bfloat16())


@pytest.mark.parametrize("size", [(3, 7), (1, 7), (2, 5, 7), (2, 3, 4, 7), (0, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_what_it_was(size: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, given = nn.Linear(7, 6, bias=bias), torch.randn(size)
    fused = prepare(Classifier(nn.Sequential(nn.Flatten(), layer))).module.get_submodule("1")
    expected = layer(given)
    with torch.no_grad():
        torch.testing.assert_close(fused(given), expected, rtol=1e-5, atol=1e-6)
    leaves = [given.clone().requires_grad_() for _ in range(2)]
    found = fused(leaves[0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(output.square().sum(), leaf)[0] for output, leaf in
                 ((found, leaves[0]), (layer(leaves[1]), leaves[1]))]  # fmt: skip
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    turned = torch.randn(7, 4).T  # (laid out otherwise)
    with torch.no_grad():
        torch.testing.assert_close(fused(turned), layer(turned), rtol=1e-5, atol=1e-6)


def test_a_linear_layer_refuses_what_it_refused() -> None:
    fused = prepare(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(7, 6)))).module.get_submodule("1")
    for wrong in (torch.rand(2, 5), torch.rand(2, 7).double()):
        with pytest.raises(RuntimeError, match=r"mat1 and mat2|same dtype"), torch.no_grad():
            fused(wrong)
    assert fused(torch.rand(7)).shape == (6,)


def test_rules_for_relus_are_as_near_as_eager_passes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 9),
    ).eval()  # fmt: skip
    images, classifier = torch.rand(2, 3, 20, 20), Classifier(network)

    def opened(gradient: Tensor, _through: Callable[[Tensor], Tensor]) -> Tensor:
        return gradient.clamp(min=0)

    def gated(gradient: Tensor, through: Callable[[Tensor], Tensor]) -> Tensor:
        return through(gradient).clamp(min=0)

    for rule in (opened, gated):
        leaf = images.clone().requires_grad_()
        with relu_rule(rule):
            score = network(leaf)[:, 4].sum()
        (expected,) = torch.autograd.grad(score, leaf)
        _, found = rule_gradient(classifier, images, Target.of(4), rule)
        assert float((found - expected).abs().max()) <= 4e-6 * float(expected.abs().max())
