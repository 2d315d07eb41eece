"""Idioms of training code around and inside of networks: wrappers, swapped weights, own generators, compiled parts."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, fx, nn
from torch.optim.swa_utils import AveragedModel

from phosphene import explain
from phosphene.attribution.grad_cam import grad_cam
from phosphene.attribution.guided_backprop import guided_backprop
from phosphene.attribution.lrp import lrp
from phosphene.errors import ModelError
from phosphene.runtime import forward, prepare
from phosphene.sources import Item
from phosphene.tasks import ExplainConfig, PredictConfig
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager
from tests.robustness.everything import changed, everything
from tests.robustness.networks import in_double
from tests.robustness.strange import CLASSES, SIZE, Body
from tests.robustness.test_as_written import INDICES, MOST, TARGET, WAYS, pictures
from tests.robustness.test_asking_networks import errors
from tests.robustness.test_never_stale_further import made


class SeedsAGenerator(Body):
    """Adds the same noise at each pass, by a generator made for it."""

    def above(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return super().above(x + torch.randn(x.shape[1:], generator=generator).to(x.dtype))


def test_a_generator_made_in_the_forward_is_made_at_each_pass() -> None:
    found = errors(SeedsAGenerator, pictures())
    assert all(error <= MOST for error in found.values()), found
    classifier = classifier_of(made(SeedsAGenerator), SIZE)
    for _ in range(2):  # (of a graph that holds the generator the second pass would be another)
        assert map_error(forward(classifier, pictures()), forward(classifier, pictures())) == 0
    net = classifier.module
    features = net.second(net.below(classifier.preprocess.normalize(pictures()))).detach()
    noise = torch.randn(features.shape[1:], generator=torch.Generator().manual_seed(1))
    wanted = torch.einsum("k,nkhw->nhw", net.head.weight[1], (features + noise).relu())
    assert map_error(explain(classifier, pictures(), "cam", target=1).maps, wanted.detach()) <= 1e-5


class HoldsAGenerator(Body):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(5)

    def above(self, x: Tensor) -> Tensor:
        return super().above(x) + torch.randn((x.shape[0], CLASSES), generator=self.generator)


@pytest.mark.filterwarnings("ignore:.*draws random numbers")
def test_a_generator_of_the_network_s_own_is_not_moved() -> None:
    network = made(HoldsAGenerator)
    before = everything(network)
    for method in ("saliency", "grad_cam:layer=second"):
        assert explain(classifier_of(network, SIZE), pictures(), method, target=1).maps.isfinite().all()
    assert changed(before, everything(network)) == []


class UsesAveragedWeights(Body):
    """In eval mode those of its shadow, an exponential average, which it lends to its layers for the pass."""

    def __init__(self) -> None:
        super().__init__()
        self.shadow = {name: 1.3 * value.detach() for name, value in self.named_parameters()}

    def forward(self, x: Tensor) -> Any:
        shadow = {f"inner.{name}": value.to(x.dtype) for name, value in self.shadow.items()}
        return torch.func.functional_call(Lent(self), shadow, (x,))


class Lent(nn.Module):
    def __init__(self, inner: Body) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return Body.forward(self.inner, x)


def test_weights_that_are_lent_for_a_pass_count_on_the_way_back_too() -> None:
    found = errors(UsesAveragedWeights, pictures())
    assert all(error <= MOST for error in found.values()), found


class Slope:
    def __init__(self) -> None:
        self.slope = 0.1

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(x, self.slope)


class ByAnObject(Body):
    """Its activation is an object of another class, a method of one, or a function with an argument filled in."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.activation = activation

    def below(self, x: Tensor) -> Tensor:
        return self.activation(super().below(x) - 0.2)


def test_what_an_activation_was_filled_in_with_may_be_changed() -> None:
    called, method, partial = Slope(), Slope(), functools.partial(nn.functional.leaky_relu, negative_slope=0.1)
    for activation in (called, method.__call__, partial):
        classifier = classifier_of(made(functools.partial(ByAnObject, activation)), SIZE)
        first = forward(classifier, pictures())
        called.slope = method.slope = partial.keywords["negative_slope"] = -1.5
        fresh = classifier_of(made(functools.partial(ByAnObject, activation)), SIZE)
        assert map_error(forward(classifier, pictures()), forward(fresh, pictures())) <= MOST
        assert map_error(first, forward(fresh, pictures())) > 0.01
        called.slope = method.slope = partial.keywords["negative_slope"] = 0.1


class Wrapped(nn.Module):
    """As training frameworks: hands on whatever it is given, and is asked for whatever it has not."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Body()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, *args: Any, **keywords: Any) -> Any:
        return self.net(*args, **keywords)


class ChoosesItsForward(Body):
    def __init__(self) -> None:
        super().__init__()
        self.forward = self.one_way  # type: ignore[method-assign]

    def one_way(self, x: Tensor) -> Tensor:
        return super().forward(x)


def averaged() -> nn.Module:
    return AveragedModel(made(Body))


@pytest.mark.parametrize("make", [averaged, lambda: made(Wrapped), lambda: made(ChoosesItsForward)])
def test_a_network_behind_a_wrapper_is_read_as_itself(make: Any) -> None:
    found = explain(classifier_of(make(), SIZE), pictures(), "cam", target=list(INDICES))
    wanted = Eager(in_double(made(Body)), MEAN, STD).cam(pictures().double(), INDICES, "average", "head")
    assert map_error(found.maps, wanted) <= MOST


class CoolsItsScores(Body):
    """By a number that came from NumPy, registered before all weights; the other is kept in eight bits."""

    def __init__(self) -> None:
        super().__init__()
        own = dict(self._modules)
        self._modules.clear()
        self.temperature = nn.Parameter(torch.tensor(2.5, dtype=torch.float64))
        self.gain = nn.Parameter(torch.tensor([[0.5, 1.5]]).to(torch.float8_e4m3fn), requires_grad=False)
        self._modules.update(own)

    def above(self, x: Tensor) -> Tensor:
        return super().above(x * self.gain.to(x.dtype).sum()) / self.temperature


def test_images_are_of_the_type_of_the_weights_not_of_a_number_beside_them() -> None:
    found = errors(CoolsItsScores, pictures(), ["scores", "saliency", "grad_cam"])
    assert all(error <= MOST for error in found.values()), found


class Parametrized(Body):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.second)


def test_what_makes_a_weight_is_no_layer() -> None:
    names = [layer.name for layer in prepare(classifier_of(made(Parametrized), SIZE)).layers]
    assert "second" in names
    assert not any("parametrizations" in name for name in names)


def test_a_method_under_compile_runs_as_it_was_written() -> None:
    compiled: list[fx.GraphModule] = []

    def backend(graph: fx.GraphModule, _inputs: list[Tensor]) -> Any:
        compiled.append(graph)
        return graph.forward

    class Compiled(Body):
        @torch.compile(backend=backend)
        def forward(self, x: Tensor) -> Tensor:
            return Body.forward(self, x)

    classifier = classifier_of(made(Compiled), SIZE)
    found = guided_backprop(classifier, pictures(), TARGET).reconstruction
    wanted = Eager(in_double(made(Body)), MEAN, STD).reconstruction(pictures().double(), INDICES, "guided_backprop")
    assert map_error(found, wanted) <= MOST
    assert compiled == []
    torch.compile(torch.sin, backend=backend)(torch.ones(2))
    assert len(compiled) == 1  # (what the user compiles is compiled, before and after)


class Quantize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)


class Quantized(Body):
    def __init__(self) -> None:
        super().__init__()
        self.quantize = Quantize()

    def below(self, x: Tensor) -> Tensor:
        return self.quantize(super().below(x)).dequantize()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["eigen_cam", "score_cam", "ablation_cam"])
def test_channels_in_whole_numbers_are_refused_by_the_layer_s_name(method: str) -> None:
    with pytest.raises(ModelError, match="'quantize' gives whole numbers"):
        explain(classifier_of(made(Quantized), SIZE), pictures(), f"{method}:layer=quantize", target=1)


class Compares(Body):
    """Features of the picture with those of one that it keeps, which its layers see last."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.rand(1, 3, *SIZE))

    def forward(self, x: Tensor) -> Tensor:
        features, kept = (self.average(self.last(self.second(self.below(one)))) for one in (x, self.kept))
        return self.head((features - kept).abs().flatten(1))


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "layer_cam"])
def test_the_map_of_a_picture_that_is_kept_is_not_passed_off_as_the_explained_one_s(method: str) -> None:
    classifier = classifier_of(made(Compares), SIZE)
    with pytest.raises(ModelError, match=r"last output of layer 'second' .* not of the picture"):
        explain(classifier, pictures(), f"{method}:layer=second", target=1)
    wanted = Eager(in_double(made(Compares)), MEAN, STD).saliency(pictures().double(), INDICES)
    assert map_error(WAYS["saliency"][0](classifier, pictures(), None), wanted) <= MOST  # type: ignore[arg-type]


class RulesOut(Body):
    def above(self, x: Tensor) -> Tensor:
        return super().above(x) + torch.where(torch.arange(CLASSES) == 4, -torch.inf, 0.0).to(x.dtype)


@pytest.mark.parametrize("config", [PredictConfig(count=2), ExplainConfig.of(["saliency"])])
def test_a_class_that_is_ruled_out_is_an_answer(config: Any) -> None:
    network = prepare(classifier_of(made(RulesOut), SIZE, labels=list("abcde")))
    (row,) = config.run(network, [Item("grey", "grey", Image.new("RGB", SIZE[::-1], (90, 120, 60)))])
    assert (row.status, row.predicted[0].label in "abcd") == ("ok", True)
    assert lrp(network, pictures(), TARGET).maps.isfinite().all()


def test_layers_are_looked_at_in_the_size_of_the_images() -> None:
    """Also where one is named before any image came, of a network that takes any size."""
    classifier = classifier_of(made(Body), None)
    grad_cam(classifier, pictures(), TARGET, layer="second")
    (shape,) = (layer.shape for layer in prepare(classifier).layers if layer.name == "second")
    assert shape == (8, SIZE[0] // 2, SIZE[1] // 2)
