"""Networks whose images are not independent of each other: a batch gives what its images give alone, and it is said."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene import explain
from phosphene.classifier import Classifier
from phosphene.runtime import prepare
from phosphene.targets import Target
from tests.comparing import map_error
from tests.contract import checks
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager
from tests.robustness.strange import SIZE, Body, Case, moved
from tests.robustness.test_as_written import INDICES, MOST, WAYS, asked, explained, pictures

SPECS = ["saliency", "grad_cam", "rise:masks=6", "score_cam", "ablation_cam", "smoothgrad:samples=3"]


class DeviationOfTheBatch(Body):
    """As discriminators have it: the deviation over the batch as one more channel."""

    def __init__(self) -> None:
        super().__init__(second=nn.Conv2d(7, 8, 3, padding=1))

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        deviation = (x.var(0, unbiased=False) + 1e-4).sqrt().mean()
        return torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], 1)


class StatisticsOfTheBatch(Body):
    def below(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(F.batch_norm(self.first(x), None, None, training=True)))


class NormedAgain(Body):
    """Batch normalization that was left in training mode, in the middle of the network."""

    def train(self, mode: bool = True) -> NormedAgain:
        super().train(mode)
        self.norm.train()
        return self


class ScaledByTheBatch(Body):
    def above(self, x: Tensor) -> Tensor:
        scores = super().above(x)
        return scores / scores.abs().amax()


class AttendingOverTheBatch(Body):
    """Tokens given with the batch first to attention that expects it second: a mistake that many make."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2)

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + 4 * self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return tokens.transpose(1, 2).reshape(x.shape)


class SlightlyMixed(Body):
    """Each image with a thousandth of the others: little, but far more than rounding."""

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        return x + 1e-3 * x.sum(0, keepdim=True)


class FirstOfTheBatch(Body):
    """Every image beside the first one of its batch."""

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        return x - 0.5 * x[:1]


KINDS: list[Callable[[], nn.Module]] = [
    *(DeviationOfTheBatch, StatisticsOfTheBatch, NormedAgain, ScaledByTheBatch, AttendingOverTheBatch, SlightlyMixed),
    FirstOfTheBatch,
]


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        network = kind()
        moved(network.norm)
        return network.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_looking_sees_each_image_alone(kind: Callable[[], nn.Module]) -> None:
    case, images = Case(lambda: made(kind)), pictures()
    classifier, truth = classifier_of(case.make(), SIZE), Eager(case.make().double(), MEAN, STD)
    errors = {
        way: map_error(explained(way, classifier, images, case), WAYS[way][1](truth, images.double(), case))
        for way in asked(case)
    }
    assert all(error <= MOST for error in errors.values()), errors


@pytest.mark.parametrize("kind", KINDS)
def test_all_methods_give_for_a_batch_what_its_images_give_alone_and_say_so(kind: Callable[[], nn.Module]) -> None:
    classifier, images = classifier_of(made(kind), SIZE), pictures()
    for spec in SPECS:
        together = explain(classifier, images, spec, target=list(INDICES))
        alone = [
            explain(classifier, image[None], spec, target=index) for image, index in zip(images, INDICES, strict=True)
        ]
        assert map_error(together.maps, torch.cat([one.maps for one in alone])) <= MOST, spec
        assert any("one by one" in note for note in together.notes), spec


@functools.cache
def normed_again() -> Classifier:
    return classifier_of(made(NormedAgain), SIZE)


@pytest.mark.parametrize("method", checks.method_names())
def test_the_contract_of_batches_holds(method: str) -> None:
    classifier, images, target = normed_again(), pictures(), Target.of(INDICES)
    spec = checks.quick_spec(method)
    if checks.applies(spec, classifier, images, target):
        checks.batch_equals_singles(spec, classifier, images, target)


def test_nothing_is_said_of_networks_whose_images_are_independent() -> None:
    classifier = classifier_of(made(Body), SIZE)
    for spec in SPECS:
        assert not any("one by one" in note for note in explain(classifier, pictures(), spec, target=1).notes)


class BarelyMixed(Body):
    """Each image with so little of the others that their scores hardly show it."""

    share = 1e-6

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        return x + self.share * x.sum(0, keepdim=True)


def independent(network: nn.Module) -> bool:
    return prepare(classifier_of(network.eval(), SIZE)).network.images_are_independent(pictures().shape[1:])


def test_images_that_see_each_other_are_told_by_the_gradient_however_little_it_is() -> None:
    assert independent(Body())
    assert not independent(BarelyMixed())


class DeadBeforeTheNorm(Body):
    """A ReLU dead for all images before a norm by the batch: no gradient shows that they mix, DeconvNet's does."""

    def below(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x) - 1e4)
        return self.pool(F.batch_norm(x + self.first.weight.sum(), None, None, training=True))


class NormedInstances(Body):
    """What PyTorch runs as a batch norm of one image with N times the channels."""

    def below(self, x: Tensor) -> Tensor:
        return self.pool(self.relu(F.instance_norm(self.first(x))))


def test_a_norm_by_the_batch_is_noticed_where_no_gradient_shows_it() -> None:
    network = made(DeadBeforeTheNorm)
    assert not independent(network)
    notes = explain(classifier_of(network, SIZE), pictures(), "deconvnet", target=1).notes
    assert any("one by one" in note for note in notes)


def test_a_norm_of_instances_runs_in_batches() -> None:
    assert independent(made(NormedInstances))
