"""Networks that ask how many images there are, or what all of them hold: each image is explained as it is alone."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phosphene import explain, impress
from phosphene.errors import PhospheneWarning
from phosphene.runtime import input_gradient, prepare
from phosphene.runtime.prepare import Prepared
from phosphene.targets import Target
from tests.comparing import map_error
from tests.networks import classifier_of
from tests.robustness.strange import SIZE, Body
from tests.robustness.test_as_written import MOST, pictures
from tests.robustness.test_asking_networks import errors
from tests.robustness.test_batches import independent
from tests.robustness.test_never_stale_further import made


class OtherwiseFromThreeOn(Body):
    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        return x.flip(-1) * 2 if x.shape[0] > 2 else x


class OtherwiseByFours(Body):
    """As code does that packs images by fours."""

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        return x.roll(1, 1) if x.size(0) % 4 == 0 else x


class TheLastOfMany(Body):
    """Cuts what does not fit off."""

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        return torch.cat([x[:2], x[2:] * 0.5]) if len(x) > 2 else x


class WithoutAGradientInLargeBatches(Body):
    """To spare memory: the scores are the same."""

    def below(self, x: Tensor) -> Tensor:
        edges = super().below(x.detach() if len(x) > 2 else x)
        return edges + 0 * super().below(x)


SIZES = [OtherwiseFromThreeOn, OtherwiseByFours, TheLastOfMany, WithoutAGradientInLargeBatches]
WAYS = ["scores", "saliency", "integrated_gradients", "grad_cam", "occlusion", "guided_backprop", "deconvnet"]


@pytest.mark.parametrize("kind", SIZES)
def test_what_a_network_does_to_batches_of_one_size_alone_is_not_explained(kind: type[nn.Module]) -> None:
    found = errors(kind, pictures(), WAYS)
    assert all(error <= MOST for error in found.values()), found
    images = pictures().repeat(2, 1, 1, 1)[:4]
    for spec in ("saliency", "smoothgrad:samples=4", "layer_cam", "score_cam", "rise:masks=4"):
        together = explain(classifier_of(made(kind), SIZE), images, spec, target=1)
        alone = explain(classifier_of(made(kind), SIZE), images[-1:], spec, target=1)
        assert map_error(together.maps[-1:], alone.maps) <= MOST, spec


def test_that_images_ran_one_by_one_is_said() -> None:
    found = explain(classifier_of(made(OtherwiseFromThreeOn), SIZE), pictures(), "saliency", target=1)
    assert any("one by one" in note for note in found.notes)


def test_impressions_of_many_are_those_of_each() -> None:
    def drawn(network: nn.Module) -> Tensor:
        found = impress(classifier_of(network, SIZE), [1, 2, 3], "class_model", steps=3, seed=1)
        return torch.stack([one.image for one in found])

    assert map_error(drawn(made(OtherwiseFromThreeOn)), drawn(made(Body))) <= MOST


def test_one_image_more_is_run_for_each_size_of_batch_and_no_size_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    run = Prepared.run

    def counted(self: Prepared, module: nn.Module, images: Tensor) -> object:
        counts.append(len(images))
        return run(self, module, images)

    monkeypatch.setattr(Prepared, "run", counted)
    classifier = classifier_of(made(Body), SIZE)
    for images in (pictures(), pictures(), pictures()[:1]):
        input_gradient(classifier, images, Target.of(1))
    assert counts == [3, 1, 3, 1]
    assert prepare(classifier).notes == ()


class ReadsAList(Body):
    """Scales all by what it reads of the brightest."""

    def read(self, x: Tensor) -> float:
        return max(x.detach().mean((1, 2, 3)).tolist())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 2 if self.read(x) > 0.8 else x)


class ReadsAnArray(ReadsAList):
    def read(self, x: Tensor) -> float:
        return float(x.detach().mean((1, 2, 3)).numpy().max())


class ReadsData(ReadsAList):
    def read(self, x: Tensor) -> float:
        return float(np.asarray(x.data).mean((1, 2, 3)).max())


class CountsBright(ReadsAList):
    """Reads no value, but a shape that depends on them."""

    def read(self, x: Tensor) -> float:
        means = x.detach().mean((1, 2, 3))
        return float(len(means[means > 0.8]))


class AnyBright(Body):
    """A branch without Python."""

    def below(self, x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3)) > 0.8
        x = super().below(x)
        return torch.where(bright.any(), 1 - 2 * x, x)


class NoneButTheFirstBright(Body):
    """The second bright image of a batch finds no room, as the tokens of an expert that is full."""

    def below(self, x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3)) > 0.8
        left_out = bright & (bright.cumsum(0) > 1)
        return torch.where(left_out.view(-1, 1, 1, 1), 0.5, 1.0).to(x) * super().below(x)


VALUES = [ReadsAList, ReadsAnArray, ReadsData, CountsBright, AnyBright, NoneButTheFirstBright]


@pytest.mark.parametrize("kind", VALUES)
def test_what_is_read_of_all_images_is_read_of_each(kind: type[nn.Module]) -> None:
    """In the values of a batch no noise shows it."""
    weights, shifts = torch.tensor([0.5, 0.2, 0.2]), torch.tensor([0.0, 0.8, 0.8])
    images = pictures() * weights.view(3, 1, 1, 1) + shifts.view(3, 1, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhospheneWarning)
        found = errors(kind, images, WAYS)
    assert all(error <= MOST for error in found.values()), found


class LooksAtEach(Body):
    """Reduces over places and channels, image by image, and picks images one by one: none sees another."""

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        x = x / x.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-3)
        x = torch.stack([one - one.mean() for one in x])
        tokens = x.flatten(2).transpose(1, 2).reshape(-1, x.shape[1])
        return (tokens @ tokens.new_ones(len(tokens[0]), x.shape[1])).view(len(x), -1, x.shape[1]).mT.view_as(x)


def test_what_looks_at_one_image_after_the_other_runs_in_batches() -> None:
    assert independent(made(LooksAtEach))
    assert not independent(made(AnyBright))
