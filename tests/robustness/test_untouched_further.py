"""After every method all that can be reached from a user's network is as it was, however the network is made."""

from __future__ import annotations

import gc
import random
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, HistogramObserver, MovingAverageMinMaxObserver
from torch.nn import functional as F

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.registry import entry
from phosphene.runtime import forward, input_gradient
from phosphene.targets import Target
from tests.comparing import map_error
from tests.contract import checks
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager
from tests.robustness.everything import changed, everything, random_states
from tests.robustness.strange import SIZE, Body, moved
from tests.robustness.test_as_written import pictures

TARGET = Target.of([1, 3])


class LowRank(nn.Linear):
    """LoRA: in eval mode the addition is in the weight, in training mode beside it."""

    def __init__(self) -> None:
        super().__init__(8, 5)
        self.down, self.up = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(5, 2))
        self.merged = False
        self.weight.requires_grad_(False)

    def train(self, mode: bool = True) -> LowRank:
        super().train(mode)
        if self.merged == mode:
            self.weight.data.add_(self.up.data @ self.down.data, alpha=-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found if self.merged else found + x @ self.down.T @ self.up.T


class Branches(nn.Module):
    """RepVGG: `eval` makes one convolution of two and throws the two away."""

    def __init__(self) -> None:
        super().__init__()
        self.three, self.one = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.whole: nn.Module | None = None

    def train(self, mode: bool = True) -> Branches:
        super().train(mode)
        if not mode and self.whole is None:
            self.whole = nn.Conv2d(6, 6, 3, padding=1)
            self.three.weight.data[:, :, 1:2, 1:2] += self.one.weight.data
            self.whole.weight.data, self.whole.bias.data = (
                self.three.weight.data,
                self.three.bias.data + self.one.bias.data,
            )
            del self.three, self.one
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.three(x) + self.one(x) if self.whole is None else self.whole(x)


class Writing(nn.Module):
    """Writes in its forward wherever a module may keep things."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("average", torch.zeros(6))
        self.calls, self.sizes, self.history = 0, [], [torch.zeros(1)]
        self.cache: dict[Any, Tensor] = {}
        self.array = np.zeros(2)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.average.lerp_(x.detach().mean((0, 2, 3)), 0.1)
        self.calls += 1
        self.sizes.append(tuple(x.shape))
        self.history[0].add_(1)
        self.array += 1
        self.cache[tuple(x.shape)] = self.last = x
        self.scale.requires_grad_(not self.scale.requires_grad)
        self.register_forward_hook(lambda module, given, output: None)
        return x * self.scale


class NotToBeCopied(Writing):
    """The same beside what no copy can be made of, so that its parts are looked at one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.lines = threading.Lock(), (line for line in "abc")
        self.made = nn.Parameter(torch.ones(1)) * 2
        self.holder = {"tensor": torch.zeros(1), "made": self.made, "lock": self.lock}

    def forward(self, x: Tensor) -> Tensor:
        self.holder["tensor"].add_(1)
        with torch.no_grad():
            self.made.mul_(1.0).add_(0.0).copy_(self.made + 1)
        return super().forward(x)


class Drawing(nn.Module):
    """Draws random numbers of every kind."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.rand_like(x) * np.random.rand() * random.random()


class Clamped(Body):
    def below(self, x: Tensor) -> Tensor:
        self.first.weight.data.clamp_(-0.05, 0.05)
        self.norm.running_var.mul_(1.1)
        return super().below(x)


class Switched(Body):
    """Sets modes and strides of its parts in its forward."""

    def below(self, x: Tensor) -> Tensor:
        self.norm.train()
        self.second.stride = 1
        return super().below(x)


def hidden(where: str) -> Callable[[], nn.Module]:
    """A norm in training mode that is not registered: it hangs on a closure, a list, an object or a class."""

    class Hidden(Body):
        def __init__(self) -> None:
            super().__init__()
            norm = nn.BatchNorm2d(6)
            if where == "closure":
                self.more: Callable[[Tensor], Tensor] = lambda x: norm(x)
            elif where == "method":
                self.more = norm.forward
            elif where == "list":
                self.parts = [norm]
            elif where == "holder":
                self.parts = _Holder(norm)
            elif where == "weak reference":
                self.kept = norm
                self.parts = weakref.ref(norm)
            elif where == "class":
                type(self).shared = norm

        def below(self, x: Tensor) -> Tensor:
            return self.normed(super().below(x))

        def normed(self, x: Tensor) -> Tensor:
            if where in ("closure", "method"):
                return self.more(x)
            if where == "list":
                return self.parts[0](x)
            if where == "weak reference":
                return self.parts()(x)
            return self.parts.part(x) if where == "holder" else type(self).shared(x)

    return Hidden


class _Holder:
    def __init__(self, part: nn.Module) -> None:
        self.part = part


class StatisticsInAClosure(Body):
    """Running statistics that are nobody's attribute."""

    def __init__(self) -> None:
        super().__init__()
        mean, variance = torch.zeros(6), torch.ones(6)
        self.normed: Callable[[Tensor], Tensor] = lambda x: F.batch_norm(x, mean, variance, training=True)

    def below(self, x: Tensor) -> Tensor:
        return self.normed(super().below(x))


def hooked_with_statistics() -> nn.Module:
    network, average = Body(), torch.zeros(6)
    network.norm.register_forward_hook(
        lambda module, given, output: average.lerp_(output.detach().mean((0, 2, 3)), 0.5) and None
    )
    return network


def hooked_by_a_method() -> nn.Module:
    class Watching(Body):
        def __init__(self) -> None:
            super().__init__()
            self.seen = torch.zeros(1)
            self.pool.register_forward_pre_hook(self.watch)

        def watch(self, module: nn.Module, given: Any) -> None:
            self.seen.add_(1)

    return Watching()


def with_gradients() -> nn.Module:
    network = Body()
    network(pictures()).square().sum().backward()
    network.first.weight.requires_grad_(False)
    return network


def first(module: nn.Module) -> nn.Module:
    return nn.Sequential(Body(norm=nn.Sequential(module, nn.BatchNorm2d(6))))


def spectral() -> nn.Module:
    network = Body()
    nn.utils.spectral_norm(network.second)
    nn.utils.parametrizations.spectral_norm(network.head)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "low rank": lambda: Body(head=LowRank()),
    "branches": lambda: first(Branches()),
    "writing": lambda: first(Writing()),
    "not to be copied": lambda: first(NotToBeCopied()),
    "drawing": lambda: first(Drawing()),
    "clamped": Clamped,
    "switched": Switched,
    "observers": lambda: first(nn.Sequential(MovingAverageMinMaxObserver(), HistogramObserver(), FakeQuantize())),
    "spectral": spectral,
    "with gradients": with_gradients,
    "statistics in a closure": StatisticsInAClosure,
    "statistics in a hook": hooked_with_statistics,
    "watched by a method": hooked_by_a_method,
    "in parallel": lambda: nn.DataParallel(Body()),
    **{
        f"norm in a {where}": hidden(where)
        for where in ("closure", "method", "list", "holder", "weak reference", "class")
    },
}


def made(name: str) -> nn.Module:
    """In training mode, as somebody may hand it over between two epochs."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        network = NETWORKS[name]().train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                moved(module)
        return network


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::phosphene.errors.PhospheneWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_everything_is_as_it_was_after_every_method(name: str) -> None:
    network, images = made(name), pictures()[:2]
    hidden_class = getattr(type(network), "shared", None)
    before, drawn = everything(network) | _shared(hidden_class), random_states()
    touched: dict[str, list[str]] = {}
    for method in checks.method_names():
        try:
            checks.explain(checks.quick_spec(method), classifier_of(network, SIZE), images, TARGET)
        except ModelError as error:
            assert "\n" not in str(error)
        except Exception as error:
            touched[f"{method} raised"] = [repr(error)]
        found = changed(before, everything(network) | _shared(hidden_class)) + changed(drawn, random_states())
        if found:
            touched[method] = found[:4]
            before, drawn = everything(network) | _shared(hidden_class), random_states()
    assert not touched


def _shared(module: nn.Module | None) -> dict[str, Any]:
    return {} if module is None else {f"shared {path}": value for path, value in everything(module).items()}


# What these give changes from run to run.
RIGHT = [name for name in NETWORKS if name not in ("drawing", "clamped", "observers")]


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::phosphene.errors.PhospheneWarning")
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_explained_is_the_network_in_eval_mode(name: str) -> None:
    """Right, or refused in a line that names the place."""
    images = pictures()[:2]
    try:
        classifier = classifier_of(made(name), SIZE)
        scores = forward(classifier, images)
        gradient = input_gradient(classifier, images, TARGET)[1]
    except ModelError as error:
        assert name in ("statistics in a closure", "statistics in a hook") or "norm in a" in name
        assert any(word in str(error) for word in ("more", "normed", "hook", "parts", "below", "forward", "shared"))
        return
    module = made(name).eval()
    eager = Eager(module.module if isinstance(module, nn.DataParallel) else module, MEAN, STD)
    assert map_error(scores, eager.logits(images)) <= 1e-4
    assert map_error(gradient, eager.gradient(images, TARGET.classes)) <= 1e-4


def test_a_classifier_keeps_nothing_of_pictures_alive() -> None:
    """Pictures, their maps and graphs go when their result goes."""
    network = made("with gradients")
    classifier, images = Classifier(network), pictures()
    kept = weakref.ref(images)
    for method in ("saliency", "grad_cam", "occlusion", "cam", "integrated_gradients"):
        assert entry("attribution", method)
        checks.explain(checks.quick_spec(method), classifier, images, Target.of(1))
    del images
    gc.collect()
    assert kept() is None
