"""Changes of all sorts after the first call: what is explained is always the network and the classifier as they are."""

from __future__ import annotations

import functools
import gc
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from phosphene import explain
from phosphene.attribution.occlusion import occlusion
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError, OptionError
from phosphene.runtime import forward, prepare
from phosphene.targets import Target
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager, boxes
from tests.robustness.strange import SIZE, Body, Case, moved
from tests.robustness.test_as_written import INDICES, WAYS, explained, pictures

# Eager float32 is the yardstick here: it runs the very network that was changed.
MOST = 1e-4
SEEN_BY = ("scores", "saliency", "grad_cam", "occlusion")
CASE = Case(lambda: made(Settings))


@dataclass
class Config:
    scale: float = 1.0


class Doubled(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return 2 * values


class Settings(Body):
    """All that a forward may read."""

    factor = 1.0  # of the class

    def __init__(self) -> None:
        super().__init__(relu=nn.LeakyReLU(0.0), last=nn.ReLU())
        self.scale, self.flag, self.mode = 1.0, False, "plain"
        self.numbers, self.nested = [1.0] * 100, {"a": [{"b": 1.0}, (1.0, 2.0)]}
        self.config, self.space = Config(), SimpleNamespace(scale=1.0)
        self.array, self.queue, self.names = np.ones(2, np.float32), deque([1.0]), {"plain"}
        self.act: Callable[[Tensor], Tensor] = functools.partial(F.leaky_relu, negative_slope=0.9)
        self.shift, self.shifts = torch.zeros(1), [torch.zeros(1)]
        self.heads = nn.ModuleList([self.head, nn.Linear(8, 5)])
        self.choice = nn.ModuleDict({"one": nn.Identity(), "two": nn.Hardswish()})
        self.extra: nn.Module | None = None
        self.endings = nn.ModuleList([nn.Tanh(), nn.Hardsigmoid()])
        self.ending = self.endings[0]
        self.hidden = [nn.Conv2d(6, 6, 1)]  # in a plain list: no parameters of this network
        self.drop, self.gains = nn.Dropout(0.0), nn.ParameterList([nn.Parameter(torch.ones(1))])

    def below(self, x: Tensor) -> Tensor:
        x = super().below(self.bent(x))
        x = x + self.hidden[0](x) * self.scale * self.numbers[70] * self.nested["a"][0]["b"] * self.nested["a"][1][0]
        x = x * self.config.scale * self.space.scale * float(self.array[0]) * self.queue[0] * self.gains[0]
        x = self.choice["one"](x) * (self.factor if self.mode in self.names else 0.5)
        if self.extra is not None:
            x = self.extra(x)
        x = self.ending(x)
        return (x.flip(1) if self.flag else x) + self.shift.to(x) + self.shifts[0].to(x)

    def bent(self, x: Tensor) -> Tensor:
        return self.act(x)


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        network = kind()
        moved(network.norm)
        return network.eval()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(8)) / 2


def with_optimizer(network: nn.Module) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), 0.1)
    network(pictures()).square().sum().backward()
    optimizer.step()


def trained(network: nn.Module) -> None:
    """Some runs in training mode, which move the statistics, and a step by hand."""
    network.train()
    for _ in range(3):
        network(2 * pictures() + 1)
    network.eval()


def as_average(network: nn.Module) -> None:
    network.pool.__class__ = nn.AvgPool2d
    network.pool.count_include_pad, network.pool.divisor_override = True, None


def memory_set(network: nn.Module) -> None:
    with torch.no_grad():
        network.second.weight.set_(drawn(8, 6, 3, 3))


def swapped(network: nn.Module) -> None:
    network.norm, network.extra = nn.Identity(), network.norm


def without_bias(network: nn.Module) -> None:
    network.first.bias = None


def normed_by_its_batch(network: nn.Module) -> None:
    network.norm.running_mean = network.norm.running_var = None


def at_one_place(tensor: Tensor) -> None:
    with torch.no_grad():
        tensor.view(-1)[17 % tensor.numel()] += 3


def renewed(owner: Any, name: str, make: Callable[[], Any]) -> None:
    """The old value goes before the new one comes, which may then lie at the same address."""
    delattr(owner, name)
    gc.collect()
    setattr(owner, name, make())


CHANGES: dict[str, Callable[[Any], object]] = {
    # Settings
    "an object's attribute": lambda net: setattr(net.config, "scale", -2.0),
    "a namespace's attribute": lambda net: setattr(net.space, "scale", 3.0),
    "an array in place": lambda net: net.array.fill(-2.0),
    "a queue": lambda net: net.queue.__setitem__(0, 3.0),
    "a set": lambda net: net.names.clear(),
    # Weights
    "an optimizer's step": with_optimizer,
    "one weight alone": lambda net: at_one_place(net.second.weight),
    "all weights from a vector": lambda net: nn.utils.vector_to_parameters(
        1.3 * nn.utils.parameters_to_vector(net.parameters()).detach(), net.parameters()
    ),
    "initialized anew": lambda net: nn.init.constant_(net.second.weight, 0.05),
    "reset": lambda net: [layer.reset_parameters() for layer in (net.first, net.second)],
    "memory set": memory_set,
    "swapped tensors": lambda net: torch.utils.swap_tensors(net.second.weight, nn.Parameter(drawn(8, 6, 3, 3))),
    "a moving average put in": lambda net: [value.data.copy_(0.7 * value) for value in net.parameters()],
    "a parameter deleted and made": lambda net: renewed(
        net.second, "weight", lambda: nn.Parameter(drawn(8, 6, 3, 3))
    ),
    "a parameter of a list": lambda net: net.gains.__setitem__(0, nn.Parameter(torch.tensor([2.5]))),
    "a bias taken away": without_bias,
    "a bias given": lambda net: setattr(net.first, "bias", nn.Parameter(drawn(6))),
    "tied to another": lambda net: setattr(net.second, "weight", nn.Parameter(net.second.weight.detach().flip(0))),
    # Norms
    "statistics moved by training": trained,
    "statistics reset": lambda net: net.norm.reset_running_stats(),
    "statistics exchanged": lambda net: setattr(net.norm, "running_mean", drawn(6)),
    "statistics taken away": normed_by_its_batch,
    "a norm without weights": lambda net: setattr(net.norm, "weight", None),
    # Modules
    "a norm moved to another place": swapped,
    "another head made the head": lambda net: setattr(net, "head", net.heads[1]),
    "another of two endings": lambda net: setattr(net, "ending", net.endings[1]),
    "two entries of a dict exchanged": lambda net: net.choice.update({"one": net.choice["two"]}),
    "a module put where there was none": lambda net: setattr(net, "extra", nn.Conv2d(6, 6, 3, padding=1)),
    "a module of the same kind": lambda net: setattr(net, "pool", nn.AvgPool2d(2)),
    "a layer hidden in a plain list": lambda net: net.hidden.__setitem__(0, nn.Conv2d(6, 6, 1)),
    "the weight of a layer hidden in a plain list": lambda net: net.hidden[0].weight.data.mul_(-2),
    "a class exchanged": as_average,
    # Attributes of layers
    "a slope": lambda net: setattr(net.relu, "negative_slope", -0.5),
    "a window": lambda net: (setattr(net.pool, "kernel_size", 3), setattr(net.pool, "padding", 1)),
    "a padding mode": lambda net: (
        setattr(net.first, "padding_mode", "circular"),
        setattr(net.first, "_reversed_padding_repeated_twice", [1, 1, 1, 1]),
    ),
    "in place": lambda net: setattr(net.relu, "inplace", True),
    "groups": lambda net: (
        setattr(net.second, "groups", 2),
        setattr(net.second, "weight", nn.Parameter(drawn(8, 3, 3, 3))),
    ),
    # Attributes of the network
    "a float": lambda net: setattr(net, "scale", -2.0),
    "a flag": lambda net: setattr(net, "flag", True),
    "a word": lambda net: setattr(net, "mode", "other"),
    "a number deep inside": lambda net: net.nested["a"][0].update(b=-1.5),
    "a tuple deep inside": lambda net: net.nested["a"].__setitem__(1, (3.0, 2.0)),
    "an array exchanged": lambda net: setattr(net, "array", np.full(2, 3, np.float32)),
    "a configuration exchanged": lambda net: setattr(net, "config", Config(-2.0)),
    "a configuration deleted and made": lambda net: renewed(net, "config", lambda: Config(-2.0)),
    "a partial exchanged": lambda net: setattr(net, "act", functools.partial(F.leaky_relu, negative_slope=3.0)),
    "a partial deleted and made": lambda net: renewed(
        net, "act", lambda: functools.partial(F.hardtanh, max_val=0.4)
    ),
    "a tensor": lambda net: setattr(net, "shift", torch.ones(1)),
    "a tensor of a list": lambda net: net.shifts.append(net.shifts.pop().add(1)),
    "a method of the instance": lambda net: setattr(net, "bent", MethodType(lambda self, x: x.square(), net)),
    # Hooks and parametrizations
    "a hook on a container": lambda net: net.choice["one"].register_forward_hook(lambda m, given, output: -output),
    "a hook of the gradient": lambda net: net.second.register_full_backward_hook(lambda m, into, out: (9 * into[0],)),
    "a parametrization": lambda net: parametrize.register_parametrization(net.first, "weight", Doubled()),
    "a weight norm": lambda net: (parametrizations.weight_norm(net.first), net.first.parametrizations.weight[0],
                                  net.first.parametrizations.weight.original0.data.mul_(2)),
    "pruning": lambda net: prune.l1_unstructured(net.second, "weight", 0.6),
}  # fmt: skip
# Where the gradient alone changes, or what is computed is the same.
SAME_SCORES = {"in place", "a hook of the gradient"}


def errors(classifier: Classifier, network: nn.Module) -> dict[str, float]:
    """Of a classifier against the network as it stands."""
    return errors_beside(expected(network), classifier)


def expected(network: nn.Module) -> dict[str, Tensor]:
    eager = Eager(network, MEAN, STD)
    return {way: WAYS[way][1](eager, pictures(), CASE) for way in SEEN_BY}


def errors_beside(wanted: dict[str, Tensor], classifier: Classifier) -> dict[str, float]:
    images = pictures()
    return {way: map_error(explained(way, classifier, images, CASE), maps) for way, maps in wanted.items()}


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed(name: str) -> None:
    network = made(Settings)
    classifier = classifier_of(network, SIZE)
    held = prepare(classifier)
    for way in SEEN_BY:  # (what is kept of the network as it was, by each of them)
        explained(way, classifier, pictures(), CASE)
    before = forward(classifier, pictures())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        CHANGES[name](network)
    wanted = expected(network)
    found = errors_beside(wanted, classifier)
    assert all(error <= MOST for error in found.values()), found
    found = errors_beside(wanted, held)
    assert all(error <= MOST for error in found.values()), f"of the prepared form that was held: {found}"
    if name not in SAME_SCORES:
        assert map_error(forward(classifier, pictures()), before) > 1e-3, "this change changes nothing"


UNSEEN: dict[str, Callable[[Any], object]] = {
    "a long list": lambda net: net.numbers.__setitem__(70, -2.0),
    "one weight alone through .data": lambda net: net.second.weight.data.view(-1)[17].add_(5),
    "a tensor in a list through .data": lambda net: net.shifts[0].data.add_(1),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_after_refresh_everything_is_seen(name: str) -> None:
    network = made(Settings)
    classifier = classifier_of(network, SIZE)
    held = prepare(classifier)
    assert all(error <= MOST for error in errors(classifier, network).values())
    before = forward(classifier, pictures())
    UNSEEN[name](network)
    classifier.refresh()
    found = errors(classifier, network)
    assert all(error <= MOST for error in found.values()), found
    found = errors(held, network)
    assert all(error <= MOST for error in found.values()), f"of the prepared form that was held: {found}"
    assert map_error(forward(classifier, pictures()), before) > 1e-3, "this change changes nothing"


@pytest.mark.parametrize("name", ["below", "bent", "factor"])
def test_what_a_class_is_given_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = made(Settings)
    classifier = classifier_of(network, SIZE)
    errors(classifier, network)
    original = Settings.below
    exchanged = {"below": lambda self, x: original(self, x) * -1, "bent": lambda self, x: x.square(), "factor": 3.0}
    monkeypatch.setattr(Settings, name, exchanged[name])
    found = errors(classifier, network)
    assert all(error <= MOST for error in found.values()), found


SCALE, BLURS, KNOWN = 1.0, False, {"scale": 1.0}
SPACE, HERE = SimpleNamespace(scale=1.0), sys.modules[__name__]


class Fixed:
    scale = 1.0


def scaled(x: Tensor) -> Tensor:
    return x * SCALE


def closed_over() -> tuple[nn.Module, Callable[[float], None]]:
    """A network whose forward reads what only its closure holds, and what sets it."""
    scale = 1.0

    def exchange(value: float) -> None:
        nonlocal scale
        scale = value

    class Closed(Body):
        def below(self, x: Tensor) -> Tensor:
            return super().below(x) * scale

    return made(Closed), exchange


class Outside(Body):
    """All that a forward may read past its module."""

    def below(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if BLURS:  # between a convolution and its norm
            x = F.avg_pool2d(x, 3, 1, 1)
        x = self.pool(self.relu(self.norm(x)))
        return scaled(x) * KNOWN["scale"] * SPACE.scale * HERE.KNOWN["scale"] * Fixed.scale


OUTSIDE: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a number that a function reads": lambda patch: patch.setitem(globals(), "SCALE", -2.0),
    "a flag": lambda patch: patch.setitem(globals(), "BLURS", True),
    "a dict": lambda patch: patch.setitem(KNOWN, "scale", -2.0),
    "a namespace": lambda patch: patch.setattr(SPACE, "scale", -2.0),
    "a class": lambda patch: patch.setattr(Fixed, "scale", -2.0),
    "a function": lambda patch: patch.setitem(globals(), "scaled", torch.sin),
    "a function of the module": lambda patch: patch.setattr(Outside, "above", lambda self, x: Body.above(self, -x)),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_code_reads_past_its_module_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = made(Outside)
    classifier = classifier_of(network, SIZE)
    assert all(error <= MOST for error in errors(classifier, network).values())
    before = forward(classifier, pictures())
    OUTSIDE[name](monkeypatch)
    found = errors(classifier, network)
    assert all(error <= MOST for error in found.values()), found
    assert map_error(forward(classifier, pictures()), before) > 1e-3, "this change changes nothing"


def test_what_a_closure_holds_is_seen() -> None:
    network, exchange = closed_over()
    classifier = classifier_of(network, SIZE)
    assert all(error <= MOST for error in errors(classifier, network).values())
    exchange(-2.0)
    found = errors(classifier, network)
    assert all(error <= MOST for error in found.values()), found


@pytest.mark.parametrize("kind", ["class", "global"])
def test_a_count_that_passes_move_themselves_does_not_make_the_form_anew(kind: str) -> None:
    class CountsItself(Body):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            if kind == "class":
                type(self).calls += 1
            else:
                counted()
            return super().forward(x)

    classifier = classifier_of(made(CountsItself), SIZE)
    forward(classifier, pictures())
    first = prepare(classifier)
    forward(classifier, pictures())
    assert prepare(classifier) is first


CALLS = 0


def counted() -> None:
    global CALLS  # (as such networks do)
    CALLS += 1


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")
def test_what_was_put_on_can_be_taken_off_again() -> None:
    """Hooks, a patched forward, a parametrization, pruning: on, off, on, each time as it is."""
    network = made(Settings)
    classifier = classifier_of(network, SIZE)

    def assert_seen() -> None:
        found = errors(classifier, network)
        assert all(error <= MOST for error in found.values()), found

    for _ in range(2):
        handle = network.norm.register_forward_hook(lambda module, given, output: output.abs())
        assert_seen()
        handle.remove()
        assert_seen()
        network.pool.forward = lambda x: F.avg_pool2d(x, 2)
        assert_seen()
        del network.pool.forward
        assert_seen()
        parametrize.register_parametrization(network.second, "weight", Doubled())
        assert_seen()
        parametrize.remove_parametrizations(network.second, "weight", leave_parametrized=True)
        assert_seen()
        prune.random_unstructured(network.head, "weight", 0.3)
        assert_seen()
        prune.remove(network.head, "weight")
        assert_seen()


def test_weights_of_half_precision_that_come_to_lie_where_the_old_ones_lay() -> None:
    """What is prepared of them holds copies, so that the memory of the old ones may be used again."""
    network = made(Body).half()
    classifier = classifier_of(network, SIZE)
    for seed in range(6):
        shape = network.second.weight.shape
        del network.second.weight
        gc.collect()
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        network.second.weight = nn.Parameter(values.half())
        eager = Eager(made(Body).half().float(), MEAN, STD)
        eager.module.second.weight = nn.Parameter(network.second.weight.detach().float())
        assert map_error(forward(classifier, pictures()), eager.logits(pictures())) <= MOST


def test_a_module_made_where_another_one_was() -> None:
    network = made(Body)
    classifier = classifier_of(network, SIZE)
    for slope in (0.1, 0.5, 0.9, -1.0):
        network.relu = None
        gc.collect()
        network.relu = nn.LeakyReLU(slope)
        assert map_error(forward(classifier, pictures()), Eager(network, MEAN, STD).logits(pictures())) <= MOST
    for function in (torch.tanh, torch.abs, torch.sin):
        network.relu.forward = None
        gc.collect()
        network.relu.forward = lambda x, function=function: function(x)
        assert map_error(forward(classifier, pictures()), Eager(network, MEAN, STD).logits(pictures())) <= MOST


def test_two_classifiers_around_one_network_both_notice() -> None:
    network = made(Body)
    pair = [classifier_of(network, SIZE), classifier_of(network, SIZE, head="sigmoid")]
    images, target = pictures(), Target.of(INDICES)
    for classifier in pair:
        occlusion(classifier, images, target, window=(5, 3), stride=(4, 4))
    network.second.weight.data.mul_(-1)
    scores = Eager(network, MEAN, STD).logits(images)
    for classifier in pair:
        assert map_error(forward(classifier, images), scores) <= MOST


def test_the_fields_of_a_classifier() -> None:
    network, images, target = made(Body), pictures(), Target.of(INDICES)
    classifier = classifier_of(network, SIZE)

    def covered(eager: Eager, size: tuple[int, int] = SIZE) -> Tensor:
        return eager.occlusion(images, INDICES, boxes(size, (5, 3), (4, 4))).view(3, 4, 4)

    def found() -> Tensor:
        return occlusion(classifier, images, target, window=(5, 3), stride=(4, 4), fill="black").maps

    assert map_error(found(), covered(Eager(network, MEAN, STD))) <= MOST
    classifier.preprocess = Preprocess(SIZE, None, (0.0, 0.1, 0.2), (0.7, 0.9, 0.5))
    assert map_error(found(), covered(Eager(network, (0.0, 0.1, 0.2), (0.7, 0.9, 0.5)))) <= MOST
    classifier.head = "sigmoid"
    copies = images[0].repeat(1, 1, 1, 1)
    copies[:, :, 0:5, 0:3] = 0
    scores = Eager(network, (0.0, 0.1, 0.2), (0.7, 0.9, 0.5)).logits(copies)
    assert map_error(found()[:1, :1, 0], scores.sigmoid()[:, INDICES[0] : INDICES[0] + 1]) <= MOST
    with pytest.raises(OptionError, match="layouts"):
        classifier.layouts = "NHWC"
    classifier.layouts = None
    assert classifier.layouts == {}
    classifier.labels = ["ant", "bee", "cat", "dog", "elk"]
    assert explain(classifier, images, "saliency", target="cat").target.classes == (2, 2, 2)
    classifier.module = made(Settings)
    scores = Eager(classifier.module, (0.0, 0.1, 0.2), (0.7, 0.9, 0.5)).logits(copies)
    assert map_error(found()[:1, :1, 0], scores.sigmoid()[:, INDICES[0] : INDICES[0] + 1]) <= MOST


def test_another_output_is_read_when_it_is_named() -> None:
    class Two(Body):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            scores = super().forward(x)
            return {"logits": scores, "other": 2 - scores.square()}

    network = made(Two)
    classifier = classifier_of(network, SIZE)
    first = forward(classifier, pictures())
    classifier.output = "other"
    assert map_error(forward(classifier, pictures()), 2 - first.square()) <= MOST
    found = explain(classifier, pictures(), "saliency", target=list(INDICES))
    assert torch.allclose(found.score, (2 - first.square())[range(3), list(INDICES)], atol=1e-4)


first = 0  # (of the name of a layer, and no name that any code reads)


def test_a_global_name_like_an_attribute_s_is_nobody_s_business(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = classifier_of(made(Body), SIZE)
    held = prepare(classifier)
    monkeypatch.setitem(globals(), "first", 1)
    monkeypatch.setattr(sys.modules[Body.__module__], "first", 1, raising=False)
    assert prepare(classifier) is held


def test_a_network_under_the_name_of_its_own_attribute_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a notebook: `model = Net()`, whose forward says `self.model`; here a name of each layer.
    network = made(Body)
    for name, _ in network.named_children():
        monkeypatch.setattr(sys.modules[Body.__module__], name, network, raising=False)
    assert prepare(classifier_of(network, SIZE)).source.module is network


def test_a_layer_read_as_a_global_by_a_function_inside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Roundabout(Body):
        def forward(self, x: Tensor) -> Tensor:
            return (lambda: super(Roundabout, self).forward(first(x)))()

    network = made(Roundabout)
    network.stem = nn.Hardtanh()
    monkeypatch.setitem(globals(), "first", network.stem)
    with pytest.raises(ModelError, match="past its attributes"):
        forward(classifier_of(network, SIZE), pictures())


class Large(nn.Module):
    """With weights of which some values of each row are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 128, 3, stride=2), nn.Linear(128, 5)
        self.kept = deque([torch.ones(5)])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3))) * self.kept[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.second.weight.data[:, :, 1, 1].add_(0.5),  # as a branch is fused
        lambda net: net.second.weight.data[:, 8:].zero_(),  # as channels are pruned
        lambda net: net.second.weight.data[:, :, 0, 2].mul_(-2),
        lambda net: net.kept[0].mul_(-1),
    ],
)
def test_some_of_each_row_is_looked_at_in_other_columns(change):
    torch.manual_seed(0)
    network, image = Large().eval(), torch.rand(1, 3, 12, 12)
    classifier = Classifier(network)
    before = forward(classifier, image)
    change(network)
    with torch.no_grad():
        expected = network(classifier.preprocess.normalize(image))
    assert not torch.allclose(before, expected, rtol=1e-3)
    torch.testing.assert_close(forward(classifier, image), expected, rtol=1e-4, atol=1e-6)


class ManyGains(nn.Module):
    """A module with a hundred parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gains, self.head = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in range(100)), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)) * torch.stack([*self.gains]).sum())


@pytest.mark.parametrize("place", [0, 99])
def test_one_of_very_many_parameters_of_a_module(place: int) -> None:
    module = ManyGains().eval()
    classifier, images = Classifier(module), torch.rand(2, 3, 8, 8)
    forward(classifier, images)
    with torch.no_grad():
        module.gains[place].mul_(50)
    torch.testing.assert_close(forward(classifier, images), module(images).detach())


def test_a_look_at_the_layers_forgives_no_change() -> None:
    """A settled form that looks at a layer for the first time does not take for its own what the user has written."""
    module = made(Settings)
    classifier, images = classifier_of(module, SIZE), pictures()
    settled = prepare(classifier)
    forward(settled, images)
    module.queue[0] = 3.0
    _ = settled.default_layer
    torch.testing.assert_close(forward(classifier, images), module(classifier.preprocess.normalize(images)).detach())
