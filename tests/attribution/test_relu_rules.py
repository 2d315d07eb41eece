"""DeconvNet and guided back-propagation: every form of ReLU, every start and end, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.attribution.deconvnet import deconvnet
from phosphene.attribution.guided_backprop import guided_backprop
from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError, NotFoundError
from phosphene.relu_rule import relu_rule
from phosphene.runtime import input_gradient
from phosphene.targets import Target, Unit
from tests.oracles import relu_rules as oracle

METHODS = {"deconvnet": deconvnet, "guided": guided_backprop}
INFINITY = float("inf")


class Small(nn.Module):
    """conv - relu - pool - conv - relu - flatten - linear, its ReLU written in any way."""

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.relu = relu
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
        self.last = nn.Linear(5 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu(self.first(x)), 2)
        return self.last(self.relu(self.second(x)).flatten(1))


def small(relu: Callable[[Tensor], Tensor] = F.relu, scale: float = 1.0) -> Small:
    torch.manual_seed(1)
    net = Small(relu)
    with torch.no_grad():
        net.first.weight.mul_(scale)
    return net


def steps(net: Small, upper: float) -> list[Any]:
    return [
        ("conv", net.first.weight, net.first.bias),
        ("relu", upper),
        ("pool", 2),
        ("conv", net.second.weight, net.second.bias),
        ("relu", upper),
        ("flatten",),
        ("linear", net.last.weight, net.last.bias),
    ]


def error(result: Tensor, expected: Tensor) -> float:
    result, expected = result.detach(), expected.detach()
    return float(((result.double() - expected).abs().flatten(1).amax(1) / expected.abs().flatten(1).amax(1)).max())


RELUS: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "nn.ReLU reused": nn.ReLU,
    "nn.ReLU in place, reused": lambda: nn.ReLU(inplace=True),
    "F.relu": lambda: F.relu,
    "F.relu in place": lambda: lambda x: F.relu(x, inplace=True),
    "F.relu_": lambda: F.relu_,
    "torch.relu": lambda: torch.relu,
    "torch.relu_": lambda: torch.relu_,
    "tensor.relu": lambda: lambda x: x.relu(),
    "tensor.relu_": lambda: lambda x: x.relu_(),
    "tensor.relu_, return value dropped": lambda: _dropped,
    "a view relu_": lambda: _by_slices,
    "clamp(min=0)": lambda: lambda x: x.clamp(min=0),
    "clamp_(0)": lambda: lambda x: x.clamp_(0),
    "torch.clamp": lambda: lambda x: torch.clamp(x, min=0.0),
    "clip": lambda: lambda x: x.clip(0),
    "clamp_min": lambda: lambda x: x.clamp_min(0),
    "clamp_min_": lambda: lambda x: x.clamp_min_(0),
    "clamp by a tensor": lambda: lambda x: x.clamp(min=torch.zeros(())),
    "threshold": lambda: nn.Threshold(0, 0),
    "threshold in place": lambda: nn.Threshold(0, 0, inplace=True),
    "maximum": lambda: lambda x: torch.maximum(x, torch.zeros_like(x)),
    "max, the other way round": lambda: lambda x: torch.max(torch.zeros(()), x),
    "operator": lambda: torch.ops.aten.relu.default,
}
RELU6S: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "nn.ReLU6": nn.ReLU6,
    "nn.ReLU6 in place": lambda: nn.ReLU6(inplace=True),
    "F.relu6": lambda: F.relu6,
    "F.relu6 in place": lambda: lambda x: F.relu6(x, inplace=True),
    "nn.Hardtanh": lambda: nn.Hardtanh(0, 6),
    "F.hardtanh": lambda: lambda x: F.hardtanh(x, 0.0, 6.0),
    "F.hardtanh_": lambda: lambda x: F.hardtanh_(x, 0.0, 6.0),
    "clamp": lambda: lambda x: x.clamp(0, 6),
}


def _dropped(x: Tensor) -> Tensor:
    x.relu_()
    return x


def _by_slices(x: Tensor) -> Tensor:
    x[:, ::2].relu_()
    x[:, 1::2].relu_()
    return x


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", [*RELUS, *RELU6S])
def test_every_form_of_relu_follows_the_rule(form: str, method: str) -> None:
    net = small((RELUS | RELU6S)[form](), scale=1 if form in RELUS else 30)
    images, upper = torch.rand(2, 3, 8, 8), INFINITY if form in RELUS else 6.0
    way = steps(net, upper)
    values = oracle.forward(way, images)
    assert form in RELUS or bool((values[2] == 6).any())
    expected = oracle.back(way, values, F.one_hot(torch.tensor([1, 1]), 4), method)
    result = METHODS[method](Classifier(net), images, Target.of(1))
    assert error(result.reconstruction, expected) < 1e-5
    assert torch.allclose(result.maps, result.reconstruction.sum(1))
    assert torch.allclose(result.score.double(), values[-1][:, 1], atol=1e-5)
    plain = oracle.back(way, values, F.one_hot(torch.tensor([1, 1]), 4), "gradient")
    assert error(plain, expected) > 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "unit", [Unit("second", 2, (1, 3)), Unit("second", 2), Unit("second"), Unit("last", 3), Unit("first", 0, (7, 0))]
)
def test_starts_at_a_neuron_a_channel_a_layer(method: str, unit: Unit) -> None:
    net, images = small(), torch.rand(2, 3, 8, 8)
    way = steps(net, INFINITY)[: {"first": 1, "second": 4, "last": 7}[unit.layer]]
    values = oracle.forward(way, images)
    start = torch.zeros_like(values[-1])
    if unit.channel is None:
        start = values[-1]
    elif unit.place is not None:
        start[:, unit.channel, unit.place[0], unit.place[1]] = 1
    else:
        start[:, unit.channel] = 1 / start[0, 0].numel()
    result = METHODS[method](Classifier(net), images, Target(unit=unit))
    assert error(result.reconstruction, oracle.back(way, values, start, method)) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_ends_at_the_input_of_any_layer(method: str) -> None:
    net, images = small(), torch.rand(2, 3, 8, 8)
    way = steps(net, INFINITY)
    values = oracle.forward(way, images)
    expected = oracle.back(way[3:], values[3:], F.one_hot(torch.tensor([0, 2]), 4), method)
    for layer in ("second", net.second):
        result = METHODS[method](Classifier(net), images, Target.of([0, 2]), to=layer)
        assert result.layer == "second"
        assert result.maps.shape == (2, 4, 4)
        assert result.stride == (2.0, 2.0)
        assert error(result.reconstruction, expected) < 1e-5


def test_an_end_above_the_start_is_refused() -> None:
    with pytest.raises(ModelError, match="does not depend on the input of layer second"):
        deconvnet(Classifier(small()), torch.rand(1, 3, 8, 8), Target(unit=Unit("first", 0)), to="second")
    with pytest.raises(ModelError, match="input of layer last has no places"):
        deconvnet(Classifier(small()), torch.rand(1, 3, 8, 8), Target.of(0), to="last")
    with pytest.raises(NotFoundError, match="second"):
        deconvnet(Classifier(small()), torch.rand(1, 3, 8, 8), Target.of(0), to="secnd")


def test_the_norm_divides_the_picture_as_it_divides_the_image() -> None:
    net, images = small(), torch.rand(1, 3, 8, 8)
    plain = deconvnet(Classifier(net), (images - 0.5) / 0.25, Target.of(1)).reconstruction
    normed = deconvnet(Classifier(net, Preprocess(None, None, (0.5,) * 3, (0.25,) * 3)), images, Target.of(1))
    assert torch.allclose(normed.reconstruction, plain / 0.25, atol=1e-6)


@pytest.mark.parametrize("method", [deconvnet, guided_backprop])
def test_without_relu_it_is_the_gradient(method: Any) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(16, 3)
    )
    classifier, images = Classifier(net), torch.rand(3, 3, 8, 8)
    _, gradient = input_gradient(classifier, images, Target.of(2))
    got = method(classifier, images, Target.of(2)).reconstruction
    assert float((got - gradient).abs().max()) <= 1e-6 * float(gradient.abs().max())


def test_without_max_pooling_deconvnet_does_not_see_the_image() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    classifier, images = Classifier(net), torch.rand(2, 3, 8, 8)
    pictures = deconvnet(classifier, images, Target.of(2)).reconstruction
    assert torch.equal(pictures[0], pictures[1])
    guided = guided_backprop(classifier, images, Target.of(2)).reconstruction
    assert not torch.equal(guided[0], guided[1])


def test_forward_values_are_those_of_the_network() -> None:
    for form in (RELUS | RELU6S).values():
        net, images = small(form(), 30), torch.rand(2, 3, 8, 8)
        expected = net(images)
        with relu_rule(lambda gradient, through: gradient):
            assert torch.equal(net(images.clone().requires_grad_()), expected)


class Gated(nn.Module):
    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    name: (make, rf"no ReLU rule for the activation .* of layer 'body\.act' \({type(make()).__name__}\)")
    for name, make in {
        "SiLU": nn.SiLU,
        "SiLU in place": lambda: nn.SiLU(inplace=True),
        "GELU": nn.GELU,
        "Hardswish": nn.Hardswish,
        "Mish": nn.Mish,
        "ELU": nn.ELU,
        "SELU": nn.SELU,
        "CELU": nn.CELU,
        "LeakyReLU": nn.LeakyReLU,
        "PReLU": nn.PReLU,
        "Softplus": nn.Softplus,
        "Tanh": nn.Tanh,
        "Softshrink": nn.Softshrink,
        "x * sigmoid(x)": lambda: Gated(lambda x: x * torch.sigmoid(x)),
        "x.mul(x.sigmoid())": lambda: Gated(lambda x: x.mul(x.sigmoid())),
        "x * relu6(x + 3) / 6": lambda: Gated(lambda x: x * F.relu6(x + 3) / 6),
        "x * (relu6(x + 3) / 6)": lambda: Gated(lambda x: x * (F.relu6(x + 3) / 6)),
        "x * sigmoid(1.7 x)": lambda: Gated(lambda x: 0.5 * x * torch.sigmoid(1.7 * x)),
        "softsign": nn.Softsign,
    }.items()
} | {
    "tanhshrink": (nn.Tanhshrink, "no ReLU rule"),
    "gelu by erf": (lambda: Gated(lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))), "no ReLU rule"),
    "hardtanh(-1, 1)": (nn.Hardtanh, "does not reach HardtanhBackward"),
    "scripted ReLU": (lambda: torch.jit.script(nn.ReLU()), "does not reach ReluBackward"),
    "scripted function": (
        lambda: Gated(lambda x: _scripted_clamp()(x)),
        "does not reach ClampMinBackward|does not reach ClampBackward",
    ),
    "scripted SiLU": (lambda: torch.jit.script(nn.SiLU()), "code hidden from Python"),
    "own autograd function": (lambda: Gated(_OwnRelu.apply), "does not reach _OwnReluBackward"),
}


def _clamp(x: Tensor) -> Tensor:
    return x.clamp(min=0.0)


@cache
def _scripted_clamp() -> Any:
    return torch.jit.script(_clamp)


class _OwnRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (ctx.saved_tensors[0] > 0)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_has_no_rule_is_refused_and_named(name: str) -> None:
    make, message = REFUSED[name]
    net = nn.Sequential()
    net.add_module("body", nn.Sequential())
    net.body.add_module("conv", nn.Conv2d(3, 4, 3))
    net.body.add_module("act", make())
    net.body.add_module("drop", nn.Dropout())
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    classifier, images = Classifier(net), torch.rand(1, 3, 8, 8)
    for method in (deconvnet, guided_backprop):
        with pytest.raises(ModelError, match=message):
            method(classifier, images, Target.of(1))
    if name != "compiled":  # what lies below the end of the way is none of its business
        assert deconvnet(classifier, images, Target.of(1), to="pool").maps.shape == (1, 6, 6)


def test_gates_norms_and_safe_clamps_are_no_activations() -> None:
    class Harmless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.squeeze = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv(x))
            x = x * torch.sigmoid(self.squeeze(F.relu(x.mean((2, 3)))))[..., None, None]
            x = F.normalize(x, dim=1) / x.square().sum(1, keepdim=True).clamp(min=1e-6).sqrt()
            x = F.layer_norm(x, x.shape[1:]) * torch.softmax(x, 1)
            return x.mean((2, 3))

    result = guided_backprop(Classifier(Harmless()), torch.rand(2, 3, 8, 8), Target.of(1))
    assert result.problems == (None, None)


def test_two_threads_with_one_model_and_two_rules_give_the_serial_results() -> None:
    classifier, images = Classifier(small()), torch.rand(4, 3, 8, 8)
    jobs = [deconvnet, guided_backprop, saliency] * 2
    expected = [job(classifier, images, Target.of(1), batch_size=1).maps for job in jobs]
    found: list[list[Tensor]] = [[] for _ in jobs]
    start = threading.Barrier(len(jobs))

    def work(index: int) -> None:
        start.wait()
        found[index] += [jobs[index](classifier, images, Target.of(1), batch_size=1).maps for _ in range(10)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, wanted in zip(found, expected, strict=True):
        assert len(results) == 10
        assert all(torch.equal(result, wanted) for result in results)


def test_captum_agrees_where_it_can_see_every_relu() -> None:
    captum = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 36, 16), nn.ReLU(), nn.Linear(16, 3)),
    ).eval()
    images = torch.rand(2, 3, 16, 16)
    for ours, theirs in ((deconvnet, captum.Deconvolution), (guided_backprop, captum.GuidedBackprop)):
        with pytest.warns(UserWarning, match="backward hooks"):
            expected = theirs(net).attribute(images.clone().requires_grad_(), target=2).detach().double()
        assert error(ours(Classifier(net), images, Target.of(2)).reconstruction, expected) < 1e-6
