"""Networks that write to what they read at the next pass: each pass begins with what they were given in."""

from __future__ import annotations

import copy
import logging
import threading
from collections import deque

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import phosphene
from phosphene.errors import ModelError


def _bank(count: int) -> Tensor:
    return F.normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(1)), dim=1)


class _Holder:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


KEPT = {
    "a large attribute": lambda: _bank(10_000),
    "an object": lambda: _Holder(_bank(50)),
    "an object in an object": lambda: _Holder(_Holder(_bank(50))),
    "a deque": lambda: deque([_bank(50)]),
    "a dict in a dict": lambda: {"a": {"t": _bank(50)}},
}


def _tensor(kept: object) -> Tensor:
    while not isinstance(kept, Tensor):
        if isinstance(kept, _Holder):
            kept = kept.tensor
        else:
            (kept,) = kept.values() if isinstance(kept, dict) else kept
    return kept


class _Memory(nn.Module):
    """Reads a memory by its features, and then moves it towards them."""

    def __init__(self, kept: object) -> None:
        super().__init__()
        self.features, self.head, self.kept = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), kept

    def forward(self, x: Tensor) -> Tensor:
        found, bank = F.normalize(self.features(x).mean((2, 3)), dim=1), _tensor(self.kept)
        read = bank.clone()
        scores = self.head((10 * found @ read.T).softmax(1) @ read)
        bank.mul_(0.9).add_(0.1 * found.detach()[:1])
        return scores


class _FastWeights(nn.Module):
    """Writes to a large weight of its own, past PyTorch's counting."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1024, 3), nn.Linear(1024, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))
        self.second.weight.data.mul_(1.05)
        return scores


def _gradient(network: nn.Module, image: Tensor) -> tuple[float, Tensor]:
    leaf = image.clone().requires_grad_()
    score = copy.deepcopy(network)(leaf)[0, 1]
    (gradient,) = torch.autograd.grad(score, leaf)
    return float(score.detach()), gradient.abs().amax(dim=1)


def _check_each_call(network: nn.Module, image: Tensor) -> None:
    """Every call explains the network as it was given, and takes what moves in it for no random numbers."""
    score, expected = _gradient(network, image)
    classifier = phosphene.Classifier.of(network)
    for _ in range(3):
        found = phosphene.attribute(classifier, image, 1, "saliency")
        assert float(found.score[0]) == pytest.approx(score, abs=1e-6)
        torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-8)
        assert not any("random" in note for note in found.notes)


@pytest.mark.parametrize("where", KEPT)
def test_what_a_forward_writes_to_is_put_back_wherever_it_is_kept(where):
    torch.manual_seed(0)
    network, image = _Memory(KEPT[where]()).eval(), torch.rand(1, 3, 12, 12)
    before = _tensor(network.kept).clone()
    _check_each_call(network, image)
    assert torch.equal(_tensor(network.kept), before)


def test_large_weights_that_a_forward_writes_to_are_put_back():
    torch.manual_seed(0)
    network, image = _FastWeights().eval(), torch.rand(1, 3, 12, 12)
    before = network.second.weight.detach().clone()
    assert before.numel() > 2**16
    _check_each_call(network, image)
    assert torch.equal(network.second.weight, before)


class _RunningMean(nn.Module):
    """Takes a running mean off, which each pass moves: in place, with or without a gradient through it."""

    def __init__(self, recorded: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
        self.register_buffer("mean", torch.zeros(8))
        self.recorded = recorded

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        with torch.set_grad_enabled(self.recorded and torch.is_grad_enabled()):
            self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
        return self.head((x - self.mean.view(1, -1, 1, 1)).relu().mean((2, 3)))


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet", "lrp"])
def test_no_way_back_leads_into_the_passes_before(recorded, method):
    torch.manual_seed(0)
    network, image = _RunningMean(recorded).eval(), torch.rand(1, 3, 12, 12)
    first = phosphene.attribute(phosphene.Classifier.of(network), image, 1, method)
    classifier = phosphene.Classifier.of(network)
    phosphene.attribute(classifier, image, 1, "saliency")
    for _ in range(2):
        assert torch.equal(phosphene.attribute(classifier, image, 1, method).maps, first.maps)


class _Logger:
    def __init__(self) -> None:
        self.step, self.lock = 0, threading.Lock()

    def add(self, value: float) -> None:
        self.step += 1


class _Logged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.head, self.logger = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), _Logger()

    def forward(self, x: Tensor) -> Tensor:
        scores = self.head(self.features(x).relu().mean((2, 3)))
        self.logger.add(0.5)
        return scores


def test_a_logger_that_cannot_be_copied_and_counts_is_no_layer_of_the_network():
    network, image = _Logged().eval(), torch.rand(1, 3, 12, 12)
    _, expected = _gradient_by_hand(network, image)
    found = phosphene.attribute(phosphene.Classifier.of(network), image, 1, "saliency")
    torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-8)


def _gradient_by_hand(network: _Logged, image: Tensor) -> tuple[Tensor, Tensor]:
    leaf = image.clone().requires_grad_()
    scores = network.head(network.features(leaf).relu().mean((2, 3)))
    (gradient,) = torch.autograd.grad(scores[0, 1], leaf)
    return scores, gradient.abs().amax(dim=1)


class _Attributes(dict):
    __getattr__ = dict.__getitem__


class _OfThemselves(dict):
    def __init__(self, *args: object, **keywords: object) -> None:
        super().__init__(*args, **keywords)
        self.__dict__ = self


@pytest.mark.parametrize("kind", [_Attributes, _OfThemselves])
def test_settings_whose_items_are_attributes_are_read(kind):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.settings = nn.Conv2d(3, 4, 3), kind(scale=2.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.features(x).relu().mean((2, 3)) * self.settings.scale

    network, image = Scaled().eval(), torch.rand(1, 3, 12, 12)
    classifier = phosphene.Classifier.of(network)
    first = phosphene.attribute(classifier, image, 1, "saliency")
    network.settings["scale"] = -6.0
    found = phosphene.attribute(classifier, image, 1, "saliency")
    torch.testing.assert_close(found.maps, 3 * first.maps)
    torch.testing.assert_close(found.score, -3 * first.score)


class _Registered(nn.Module):
    made: list[nn.Module] = []  # noqa: RUF012 (this is what is tried)

    def __init__(self) -> None:
        super().__init__()
        self.features, self.seen = nn.Conv2d(3, 4, 3), []
        self.made.append(self)

    def forward(self, x: Tensor) -> Tensor:
        self.made[0].seen.append(1)
        return self.features(x).relu().mean((2, 3))


def test_a_list_of_the_network_itself_that_its_copy_reaches_is_one_of_its_parts():
    network = _Registered().eval()
    with pytest.raises(ModelError, match="changes the network itself"):
        phosphene.attribute(phosphene.Classifier.of(network), torch.rand(1, 3, 12, 12), 1, "saliency")
    assert network.seen == []


@pytest.mark.parametrize("kind", [_Attributes, _OfThemselves])
def test_settings_that_hold_a_layer_and_count_are_copied(kind):
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(3, 4, 3)
            self.settings = kind(layer=self.features, count=0)

        def forward(self, x: Tensor) -> Tensor:
            self.settings["count"] += 1
            return self.settings["layer"](x).relu().mean((2, 3)) / self.settings["count"]

    network, image = Counted().eval(), torch.rand(1, 3, 12, 12)
    expected = network(image)[0, 1].item()
    network.settings["count"] = 0
    classifier = phosphene.Classifier.of(network)
    for method in ("saliency", "grad_cam:layer=features", "saliency"):
        assert float(phosphene.attribute(classifier, image, 1, method).score[0]) == pytest.approx(expected, abs=1e-6)
    assert network.settings["count"] == 0


def test_tensors_of_any_layout_may_lie_anywhere():
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, table = nn.Conv2d(3, 4, 3), torch.rand(9, 4)
            self.column, self.nested = _Holder(table[:4, 0]), {"a": {"b": table[:4, 1]}}
            self.columns, self.same = table.unbind(1), torch.zeros(1).expand(300_000)

        def forward(self, x: Tensor) -> Tensor:
            return self.features(x).relu().mean((2, 3)) * self.column.tensor + self.nested["a"]["b"]

    assert phosphene.attribute(Kept().eval(), torch.rand(1, 3, 12, 12), 1, "saliency").maps.any()


def test_the_loggers_of_everybody_stay():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.passes, self.logger = nn.Conv2d(3, 4, 3), 0, logging.getLogger("of.a.network")

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return self.features(x).relu().mean((2, 3)) / self.passes

    classifier, image = phosphene.Classifier.of(Counting().eval()), torch.rand(1, 3, 12, 12)
    phosphene.attribute(classifier, image, 1, "saliency")
    later = logging.getLogger("made.later")
    phosphene.attribute(classifier, image, 1, "saliency")
    assert logging.getLogger("made.later") is later
