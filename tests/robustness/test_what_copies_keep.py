"""What hangs on tensors, what is kept by module, and who asks whether a weight is frozen: the copy that runs has it."""

from __future__ import annotations

import weakref
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from phosphene import Unit, attribute, explain
from phosphene.attribution.input_x_gradient import input_x_gradient
from phosphene.attribution.lrp import lrp
from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier
from phosphene.errors import ModelError, OptionError
from phosphene.runtime import forward
from phosphene.targets import Target
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager
from tests.robustness.strange import SIZE, Body
from tests.robustness.test_as_written import INDICES, TARGET, pictures
from tests.robustness.test_never_stale_further import made

# Eager float32 is the yardstick: a copy in float64 would lose the same things.
MOST = 1e-4


def differences(classifier: Classifier, network: nn.Module) -> dict[str, float]:
    truth, images = Eager(network, MEAN, STD), pictures()
    return {
        "scores": map_error(forward(classifier, images), truth.logits(images)),
        "saliency": map_error(saliency(classifier, images, TARGET).maps, truth.saliency(images, INDICES)),
        "input_x_gradient": map_error(
            input_x_gradient(classifier, images, TARGET).maps, truth.input_x_gradient(images, INDICES)
        ),
    }


def ramp() -> Tensor:
    return torch.linspace(-1, 2, 6).view(6, 1, 1)


class MaskOnAWeight(Body):
    def __init__(self) -> None:
        super().__init__()
        self.first.weight.mask = (torch.rand(self.first.weight.shape) > 0.5).float()

    def below(self, x: Tensor) -> Tensor:
        mask = getattr(self.first.weight, "mask", 1.0)
        x = nn.functional.conv2d(x, self.first.weight * mask, self.first.bias, padding=self.first.padding)
        return self.pool(self.relu(self.norm(x)))


class GainOnABuffer(Body):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))
        self.scale.gain = ramp()

    def below(self, x: Tensor) -> Tensor:
        return super().below(x) * self.scale * getattr(self.scale, "gain", 1.0)


class Positive(nn.Parameter):
    pass


class WeightOfAClass(Body):
    def __init__(self) -> None:
        super().__init__()
        self.gains = Positive(ramp())

    def below(self, x: Tensor) -> Tensor:
        return super().below(x) * (self.gains.exp() if isinstance(self.gains, Positive) else self.gains)


class BufferOfAClass(Body):
    def __init__(self) -> None:
        super().__init__()
        self.gains = nn.Buffer(ramp())

    def below(self, x: Tensor) -> Tensor:
        return super().below(x) * (self.gains.exp() if isinstance(self.gains, nn.Buffer) else self.gains)


class NoGradIfFrozen(Body):
    """Frozen parts are run without a gradient; the way beside them has one."""

    def forward(self, x: Tensor) -> Tensor:
        trained = any(weight.requires_grad for weight in self.first.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            found = self.below(x)
        return self.above(self.second(found)) + x.mean(dim=(2, 3)).sum(dim=1, keepdim=True)


class AdapterIfTrained(Body):
    def below(self, x: Tensor) -> Tensor:
        return super().below(x) * (3.0 if self.first.weight.requires_grad else 1.0)


class TrainedAlone(Body):
    def below(self, x: Tensor) -> Tensor:
        weights = [weight for weight in self.first.parameters() if weight.requires_grad]
        x = nn.functional.conv2d(x, *weights, padding=self.first.padding)
        return self.pool(self.relu(self.norm(x)))


class ByModule(Body):
    def __init__(self) -> None:
        super().__init__()
        self.gains = weakref.WeakKeyDictionary({self.first: ramp()})
        self.gated = weakref.WeakSet([self.second])
        self.named = weakref.WeakValueDictionary({"first": self.first})
        self.ids = {id(self.norm): ramp() + 1, 3: 2.0}
        self.ordered = OrderedDict({id(self.first.weight): 0.5})

    def below(self, x: Tensor) -> Tensor:
        x = self.named["first"](x) * self.gains.get(self.first, 1.0)
        x = self.norm(x) * self.ids.get(id(self.norm), 1.0) * self.ids[3]
        return self.pool(self.relu(x)) * self.ordered.get(id(self.first.weight), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        found = self.second(self.below(x))
        return self.above(found * 2 if self.second in self.gated else found)


KINDS = [
    *(MaskOnAWeight, GainOnABuffer, WeightOfAClass, BufferOfAClass),
    *(NoGradIfFrozen, AdapterIfTrained, TrainedAlone, ByModule),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_what_the_forward_looks_for(kind):
    network = made(kind)
    found = differences(classifier_of(network, SIZE), network)
    assert all(error <= MOST for error in found.values()), found


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (MaskOnAWeight, lambda net: net.first.weight.mask.data.neg_()),
        (MaskOnAWeight, lambda net: setattr(net.first.weight, "mask", 2.0)),
        (MaskOnAWeight, lambda net: delattr(net.first.weight, "mask")),
        (GainOnABuffer, lambda net: setattr(net.scale, "gain", 2.0)),
        (AdapterIfTrained, lambda net: net.first.requires_grad_(False)),
        (NoGradIfFrozen, lambda net: net.first.requires_grad_(False)),
    ],
)
def test_what_hangs_on_a_tensor_is_never_stale(kind, change):
    network = made(kind)
    classifier = classifier_of(network, SIZE)
    before = forward(classifier, pictures()), saliency(classifier, pictures(), TARGET).maps
    change(network)
    found = differences(classifier, network)
    assert all(error <= MOST for error in found.values()), found
    after = forward(classifier, pictures()), saliency(classifier, pictures(), TARGET).maps
    assert any(map_error(one, other) > 1e-3 for one, other in zip(after, before, strict=True))
    if kind is not NoGradIfFrozen and hasattr(network.first.weight, "mask"):
        assert network.first.weight.requires_grad


def test_the_original_keeps_what_hangs_on_it():
    network = made(MaskOnAWeight)
    mask, attributes = network.first.weight.mask, dict(vars(network.first.weight))
    saliency(classifier_of(network, SIZE), pictures(), TARGET)
    assert vars(network.first.weight) == attributes
    assert network.first.weight.mask is mask


class TwoNames(Body):
    """The same layers under two names, the second in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(self.first, self.norm), self.second])


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "score_cam:channels=2"])
def test_a_layer_goes_by_each_of_its_names(method):
    classifier, images = classifier_of(made(TwoNames), SIZE), pictures()
    one, other = (explain(classifier, images, method, target=1, layer=name) for name in ("second", "stages.1"))
    assert other.layer == "second"
    assert torch.equal(one.maps, other.maps)
    by_unit = [explain(classifier, images, "saliency", target=Unit(name, 1)) for name in ("second", "stages.1")]
    assert torch.equal(by_unit[0].maps, by_unit[1].maps)


def test_a_layer_whose_name_holds_a_plus():
    class Named(Body):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({"a+b": self.second})
            del self.second

        def forward(self, x: Tensor) -> Tensor:
            return self.above(self.parts["a+b"](self.below(x)))

    found = explain(classifier_of(made(Named), SIZE), pictures(), "grad_cam", target=1, layer="parts.a+b")
    assert found.layer == "parts.a+b"


class InnerGradient(Body):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            found = self.below(x if x.requires_grad else x.detach().requires_grad_())
            likely = self.above(self.second(found)).logsumexp(dim=1).sum()
            (slope,) = torch.autograd.grad(likely, found, create_graph=True)
        return self.above(self.second(found + 30 * slope * found))


def test_relevance_of_a_network_that_takes_gradients_itself_is_refused():
    with pytest.raises(ModelError, match=r"another score under rules of relevance .* takes gradients itself"):
        lrp(classifier_of(made(InnerGradient), SIZE), pictures(), TARGET, composite="epsilon")


class Evaluates(Body):
    def eval(self, loader):
        raise AssertionError("measures itself")


class Trains(Body):
    def train(self, loader, epochs):
        raise AssertionError("trains itself")


def bare(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        network = kind()
    for module in nn.Module.modules(network):
        module.training = False
    return network


@pytest.mark.parametrize("kind", [Evaluates, Trains])
def test_a_network_that_measures_or_trains_itself_by_the_usual_names(kind):
    network = bare(kind)
    found = differences(classifier_of(network, SIZE), network)
    assert all(error <= MOST for error in found.values()), found


@pytest.mark.parametrize("name", ["modules", "parameters", "buffers", "named_children"])
@pytest.mark.parametrize("inside", [False, True])
def test_names_that_hide_the_parts_of_a_network_are_refused(name, inside):
    network = made(Body)
    object.__setattr__(network.second if inside else network, name, [1, 2])
    of = "its layer 'second'" if inside else "Body"
    with pytest.raises(ModelError, match=f"'{name}' of {of} is a list, where torch.nn.Module has the method"):
        Classifier(network)


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_gamma_box"])
def test_relevance_of_a_network_that_asks_what_is_frozen(composite):
    class Asks(Body):
        def below(self, x: Tensor) -> Tensor:
            assert self.first.weight.requires_grad
            return super().below(x)

    found, expected = (
        lrp(classifier_of(made(kind), SIZE), pictures(), TARGET, composite=composite).maps for kind in (Asks, Body)
    )
    torch.testing.assert_close(found, expected)


def test_relevance_of_a_score_near_zero_among_large_ones():
    class Large(Body):
        def forward(self, x: Tensor) -> Tensor:
            scores = 3000 * super().forward(x)
            return scores - scores.detach()[:, 1:2] * torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]) + 1e-4

    network = made(Large)
    found = lrp(classifier_of(network, SIZE), pictures()[:1], Target.of(1), composite="epsilon")
    assert found.maps.isfinite().all()


@pytest.mark.parametrize(
    ("network", "channels"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)), 1),
        (nn.Sequential(nn.Linear(28 * 28, 32), nn.ReLU(), nn.Linear(32, 10)), 1),
        (nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 10)), 1),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), 3),
        (nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 10)), 3),
        (nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Linear(1024, 10)), 3),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), 3),
    ],
)
def test_how_many_channels_a_network_of_linear_layers_takes(network, channels):
    assert Classifier(network).preprocess.channels == channels


def test_a_network_without_values_is_refused_by_every_method():
    with torch.device("meta"):
        network = Body()
    with pytest.raises(ModelError, match="have no values"):
        lrp(Classifier(network), torch.rand(1, 3, *SIZE), Target.of(1))


class Equal(Body):
    """All are equal to one another."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, nn.Module)

    __hash__ = nn.Module.__hash__


def test_a_network_that_says_it_equals_others():
    network = made(Equal)
    assert all(error <= MOST for error in differences(classifier_of(network, SIZE), network).values())


def test_images_with_what_is_no_number_are_refused():
    images = pictures()
    images[0, 1, 2, 3], images[1, 0, 0, 0] = torch.nan, torch.inf
    for method in ("saliency", "grad_cam", "occlusion"):
        with pytest.raises(OptionError, match="images with 2 values that are NaN or infinite"):
            attribute(classifier_of(made(Body), SIZE), images, 1, method)
