"""Modules that do not do what their type says: patched, subclassed, hooked, parametrized. They run as they are."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from phosphene import explain
from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.runtime import prepare
from tests.robustness.networks import assert_right, error, errors, ordinary, pictures

Change = Callable[[nn.Sequential], None]


def doubled_by_closure(network: nn.Sequential, place: int | None) -> None:
    module = network if place is None else network[place]
    before = module.forward
    module.forward = lambda x: 2 * before(x)


def _partial(network: nn.Sequential) -> None:
    before = network[0].forward
    network[0].forward = functools.partial(lambda inner, x: 3 * inner(x), before)


def _own_conv_forward(network: nn.Sequential) -> None:
    network[0]._conv_forward = lambda x, weight, bias: F.conv2d(x, 2 * weight, bias, padding=1)


def _weight_is_computed(network: nn.Sequential) -> None:
    weight = network[6].weight.detach().clone()
    del network[6].weight
    network[6].weight = 2 * weight


class _Normed(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


class _Cut(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - 0.1


class _Pooled(nn.AdaptiveAvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.amax((2, 3), keepdim=True)


class _Row(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.tanh())


class _Weighted(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)


def _exchange(place: int, module: Callable[[], nn.Module]) -> Change:
    def change(network: nn.Sequential) -> None:
        torch.manual_seed(5)
        network[place] = module().eval()

    return change


class _Thrice(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 3 * weight


CHANGES: dict[str, Change] = {
    "nothing": lambda network: None,
    "convolution patched by a closure": functools.partial(doubled_by_closure, place=0),
    "norm patched by a closure": functools.partial(doubled_by_closure, place=1),
    "network patched by a closure": functools.partial(doubled_by_closure, place=None),
    "patched by a method": lambda network: setattr(
        network[2], "forward", types.MethodType(lambda self, x: F.leaky_relu(x, 0.1), network[2])
    ),
    "patched by a partial": _partial,
    "own _conv_forward": _own_conv_forward,
    "weight that is no parameter": _weight_is_computed,
    "forward hook": lambda network: network[3].register_forward_hook(lambda module, given, output: 1.5 * output),
    "forward pre-hook": lambda network: network[1].register_forward_pre_hook(lambda module, given: (given[0] + 0.3,)),
    "hook of the network": lambda network: network.register_forward_hook(lambda module, given, output: 1.5 * output),
    "pre-hook of the network": lambda network: network.register_forward_pre_hook(
        lambda module, given: (0.5 * given[0],)
    ),
    "hook with keywords": lambda network: network[2].register_forward_hook(
        lambda module, given, keywords, output: output.square(), with_kwargs=True
    ),
    "hook that runs another layer": lambda network: network[0].register_forward_hook(
        functools.partial(lambda inner, module, given, output: inner(output), network[3])
    ),
    "backward hook": lambda network: network[3].register_full_backward_hook(lambda module, into, out: (2 * into[0],)),
    "weight norm": lambda network: parametrizations.weight_norm(network[0]),
    "spectral norm": lambda network: parametrizations.spectral_norm(network[6].eval()).eval(),
    "a parametrization of one's own": lambda network: parametrize.register_parametrization(
        network[3], "weight", _Thrice()
    ),
    "pruned": lambda network: prune.l1_unstructured(network[0], "weight", amount=0.4),
    "subclass of a norm": _exchange(1, lambda: _Normed(16)),
    "subclass of a ReLU": _exchange(2, _Cut),
    "subclass of pooling": _exchange(8, lambda: _Pooled(1)),
    "subclass of a linear layer": _exchange(10, lambda: _Row(24, 5)),
    "subclass's _conv_forward": _exchange(0, lambda: _Weighted(3, 16, 3, padding=1)),
    "circular padding": _exchange(0, lambda: nn.Conv2d(3, 16, 3, padding=1, padding_mode="circular")),
    "reflected padding": _exchange(0, lambda: nn.Conv2d(3, 16, 5, padding=2, padding_mode="reflect")),
    "replicated padding": _exchange(3, lambda: nn.Conv2d(16, 16, 3, padding=1, padding_mode="replicate")),
    "group norm": _exchange(1, lambda: nn.GroupNorm(4, 16)),
    "norm without statistics": _exchange(1, lambda: nn.BatchNorm2d(16, track_running_stats=False)),
    "norm without weights": _exchange(1, lambda: nn.BatchNorm2d(16, affine=False)),
    "half of a layer": lambda network: network[10].weight.data.copy_(network[10].weight.data.half()),
}


def _changed(change: Change) -> nn.Module:
    network = ordinary()
    change(network)
    return network


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_not_plain_runs_as_it_is(name: str) -> None:
    assert_right(lambda: _changed(CHANGES[name]))


@contextmanager
def _global_hook() -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, given, output: output + 0.1 if isinstance(module, nn.BatchNorm2d) else None
    )
    try:
        yield
    finally:
        handle.remove()


def test_global_hooks_are_honored() -> None:
    classifier = Classifier(ordinary())
    assert_right(ordinary, classifier)
    with _global_hook():
        found = errors(classifier, ordinary().double(), pictures())
        assert max(found["scores"], found["gradient"]) <= 1e-5, found
    assert_right(ordinary, classifier)


def test_what_a_copy_cannot_follow_is_refused_by_name() -> None:
    network = ordinary()

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor) -> Tensor:
            return network[10](network[:10](x))

    with pytest.raises(ModelError, match=r"the forward of the network \(Outer\) reaches the network's own layers"):
        prepare(Classifier(Outer()))


class BatchMaximum(nn.Module):
    """Divides by the largest value of the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ordinary()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x / x.amax())


class OwnStatistics(nn.Module):
    """A norm that always takes the statistics of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ordinary()

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
        return self.inner((x - mean) / deviation)


@pytest.mark.parametrize("kind", [BatchMaximum, OwnStatistics])
def test_images_that_depend_on_their_batch_run_one_by_one_and_it_is_said(kind: type[nn.Module]) -> None:
    classifier, images = Classifier(kind().eval()), pictures()
    assert_right(lambda: kind().eval(), classifier)
    together = explain(
        classifier, images, ["saliency", "grad_cam", "occlusion:window=8,stride=8", "rise:masks=6"], target=1
    )
    for spec, found in together.items():
        alone = [explain(classifier, image[None], spec, target=1).maps for image in images]
        assert error(found.maps, torch.cat(alone).double()) <= 1e-5, spec
        assert any("one by one" in note for note in found.notes), spec
    assert explain(Classifier(ordinary()), images, "saliency", target=1).notes == ()


def test_a_network_that_takes_views_of_its_maps() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.convolution, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 24 * 24, 5)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.convolution(x).relu().view(len(x), -1))

    assert_right(lambda: Viewing().eval())
