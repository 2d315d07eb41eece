"""A user's network is as it was after every method: weights, buffers, attributes, modes, hooks, gradients."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import MinMaxObserver

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.targets import Target
from phosphene.tasks.attributions import attribute
from tests.contract.checks import explain, method_names, quick_spec
from tests.robustness.networks import assert_right, error, ordinary, pictures, state


class Merging(nn.Conv2d):
    """Merges a low-rank addition into its weight in eval mode, and takes it out in train mode, in place."""

    def __init__(self) -> None:
        super().__init__(3, 16, 3, padding=1)
        torch.manual_seed(3)
        self.down, self.up = nn.Parameter(torch.randn(2, 27)), nn.Parameter(torch.randn(16, 2))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            addition = (self.up @ self.down).view_as(self.weight)
            self.weight.data += -addition if mode else addition
            self.merged = not mode
        return self


class Counting(nn.Module):
    """Writes a counter, a moving average and a cache in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("average", torch.zeros(3))
        self.last: Tensor = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.count += 1
            self.average.mul_(0.9).add_(0.1 * x.detach().mean((0, 2, 3)).float())
        self.last = x.detach()
        return x


class Clamping(nn.Module):
    """Writes to the weights of another layer at each run."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.convolution.weight.data.clamp_(-0.2, 0.2)
        return self.convolution(x)


def _first(module: nn.Module) -> nn.Sequential:
    return nn.Sequential(module, *ordinary())


def _merging() -> nn.Module:
    network = ordinary()
    network[0] = Merging()
    return network.train()


def _norm_in_a_closure() -> nn.Module:
    norm = nn.BatchNorm2d(3)

    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.inner = norm, ordinary()
            self.function: Callable[[Tensor], Tensor] = lambda x: norm(x)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.function(x))

    return Hidden().train()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "merging": _merging,
    "counting": lambda: _first(Counting()),
    "observer": lambda: _first(MinMaxObserver()),
    "clamping": lambda: _first(Clamping()),
    "training": lambda: ordinary().train(),
    "norm in a closure": _norm_in_a_closure,
}


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("name", NETWORKS)
def test_no_method_touches_the_network(name: str, method: str) -> None:
    network = NETWORKS[name]()
    network.zero_grad(set_to_none=True)
    before, modes = state(network), [module.training for module in network.modules()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()]
    flags = [parameter.requires_grad for parameter in network.parameters()]
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with suppress(ModelError):  # (what cannot be explained is left alone too)
        explain(quick_spec(method), Classifier(network), pictures(2), Target.of([0, 1]))
    after = state(network)
    assert after.keys() == before.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert [module.training for module in network.modules()] == modes
    assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()] == hooks
    assert [parameter.requires_grad for parameter in network.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == drawn[1:]


def test_merged_weights_are_explained() -> None:
    """In training mode as it would be in eval mode."""
    assert_right(lambda: _merging().eval(), Classifier(_merging()))


def test_four_threads_on_one_classifier() -> None:
    classifier, images, target = Classifier(ordinary()), pictures(4), Target.of([0, 1, 2, 3])
    specs = ["saliency", "grad_cam", "occlusion:window=8,stride=8", "guided_backprop", "integrated_gradients:steps=4"]
    wanted = [attribute(classifier, images, target, spec).maps for spec in specs]
    fresh = Classifier(ordinary())
    with ThreadPoolExecutor(4) as pool:
        jobs = [(spec, pool.submit(attribute, fresh, images, target, spec)) for _ in range(4) for spec in specs]
        for spec, job in jobs:
            assert error(job.result().maps, wanted[specs.index(spec)].double()) <= 1e-6, spec


def test_scores_asked_of_a_classifier_move_no_statistic() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout())
    before = copy.deepcopy(network.train().state_dict())
    images = torch.rand(2, 3, 8, 8)
    classifier = Classifier.of(network)
    assert torch.equal(classifier.logits(images), classifier.logits(images))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(child.training for child in network.modules())
