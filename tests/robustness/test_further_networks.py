"""Networks and calls of people's own that were refused without reason, answered wrongly, or failed in torch's words."""

from __future__ import annotations

import warnings
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phosphene import explain, impress
from phosphene.attribution.ablation_cam import ablated_scores
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError, OptionError, PhospheneWarning
from phosphene.runtime import forward
from phosphene.targets import Target
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager
from tests.robustness.networks import in_double
from tests.robustness.strange import SIZE, Body
from tests.robustness.test_as_written import INDICES, WAYS, Case, pictures

MOST = 1e-4


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(4)
    return kind().eval()


def assert_right(kind: type[nn.Module], *ways: str, output: str | int | None = None) -> None:
    truth = Eager(in_double(Scores(made(kind), output)), MEAN, STD)
    classifier = Classifier(made(kind), Preprocess(SIZE, None, MEAN, STD), output=output)
    case = Case(lambda: made(kind))
    wrapped = replace(case, layer=f"inner.{case.layer}")
    for way in ways:
        found = WAYS[way][0](classifier, pictures(), case)
        assert map_error(found, WAYS[way][1](truth, pictures().double(), wrapped)) <= MOST, way


class Scores(nn.Module):
    """What a network returns, by the name that an attribute has."""

    def __init__(self, inner: nn.Module, output: str | int | None) -> None:
        super().__init__()
        self.inner, self.output = inner, output

    def forward(self, x: Tensor) -> Any:
        found = self.inner(x)
        return getattr(found, self.output) if isinstance(self.output, str) else found


class TrainReturnsNothing(Body):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


class OneImageAlone(Body):
    """As networks are that were written for one camera."""

    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        return found.view(1, 5)


def test_a_network_whose_train_returns_nothing() -> None:
    torch.manual_seed(4)
    network = TrainReturnsNothing()
    network.train(False)
    torch.manual_seed(4)
    twin = Body().eval()
    found = forward(classifier_of(network, SIZE), pictures())
    assert map_error(found, Eager(in_double(twin), MEAN, STD).logits(pictures().double())) <= MOST


@pytest.mark.parametrize("spec", ["saliency", "grad_cam", "occlusion:window=5,stride=5", "rise:masks=6", "score_cam"])
def test_a_network_that_takes_one_image_alone(spec: str) -> None:
    """Windows and masks of one picture are many images too."""
    alone, together = (classifier_of(made(kind), SIZE) for kind in (OneImageAlone, Body))
    found = explain(alone, pictures(), spec, target=1)
    assert map_error(found.maps, explain(together, pictures(), spec, target=1).maps) <= MOST
    assert any("takes no batch" in note for note in found.notes)


class SharedActivation(Body):
    """One ReLU at two places of as many channels, as tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.ReLU()
        self.more = nn.Conv2d(6, 6, 3, padding=1)

    def below(self, x: Tensor) -> Tensor:
        x = self.shared(super().below(x) - 0.1)
        return self.shared(self.more(x) + 0.5) + 0.2 * x


def test_without_a_channel_means_of_the_last_output_of_a_layer_that_runs_twice() -> None:
    network, image = in_double(made(SharedActivation)), pictures()[:1]
    _, found, output = ablated_scores(classifier_of(made(SharedActivation), SIZE), image, Target.of(1), "shared")
    wanted = []
    for channel in range(output.shape[1]):
        turns: list[int] = []

        def without(_module: nn.Module, _given: Any, value: Tensor, channel: int = channel) -> Tensor:
            turns.append(channel)  # noqa: B023 (it is the list of this turn)
            return value if len(turns) == 1 else value * (torch.arange(value.shape[1]) != channel).view(1, -1, 1, 1)  # noqa: B023

        handle = network.shared.register_forward_hook(without)  # type: ignore[union-attr]
        wanted.append(Eager(network, MEAN, STD).logits(image.double())[0, 1])
        handle.remove()
    assert map_error(found, torch.stack(wanted)[None]) <= MOST


@contextmanager
def default_type(kind: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("recipe", ["sci", "sci:background=fade", "class_impression", "class_model"])
def test_drawings_do_not_hang_on_the_default_type(recipe: str) -> None:
    classifier = classifier_of(made(Body), SIZE)
    usual = impress(classifier, 1, recipe, steps=6)[0].image
    with default_type(torch.float64):
        found = impress(classifier, 1, recipe, steps=6)[0].image
    torch.testing.assert_close(found, usual, rtol=0, atol=1e-4)


@pytest.mark.parametrize("spec", ["smoothgrad:samples=3", "rise:masks=6", "expected_gradients:samples=3"])
@pytest.mark.parametrize("kind", [torch.float64, torch.float16])
def test_the_same_numbers_are_drawn_whatever_the_default_type(spec: str, kind: torch.dtype) -> None:
    classifier, images = classifier_of(made(Body), SIZE), pictures()
    wanted = explain(classifier, images, spec, target=1).maps
    with default_type(kind):
        found = explain(classifier, images, spec, target=1).maps
    assert map_error(found, wanted) <= 1e-3


@dataclass
class Answer:
    answer: Tensor
    loss: float = 0.0


class AnswersByAttribute(Body):
    def forward(self, x: Tensor) -> Any:
        return Answer(super().forward(x))


def test_scores_of_an_object_are_named_by_its_attribute() -> None:
    assert_right(AnswersByAttribute, "scores", "saliency", "grad_cam", "occlusion", output="answer")


@dataclass
class Logits:
    logits: Tensor


class LogitsByAttribute(Body):
    def forward(self, x: Tensor) -> Any:
        return Logits(super().forward(x))


class InPlaceOnTheImage(Body):
    def forward(self, x: Tensor) -> Tensor:
        x *= 1.0
        return super().forward(x)


@pytest.mark.parametrize("kind", [LogitsByAttribute, InPlaceOnTheImage])
def test_relevance_of_an_object_s_scores_and_past_work_on_the_image(kind: type[nn.Module]) -> None:
    found, wanted = (explain(classifier_of(made(each), SIZE), pictures(), "lrp", target=1) for each in (kind, Body))
    assert map_error(found.maps, wanted.maps) <= 1e-3


Pair = namedtuple("Pair", "aside scores")


class NamedPair(Body):
    def forward(self, x: Tensor) -> Any:
        found = super().forward(x)
        return Pair(found * 2, found)


def test_class_activation_maps_of_a_named_tuple() -> None:
    """One node of a graph, that does not show what goes in: the numbers do."""
    found = explain(Classifier(made(NamedPair), Preprocess(SIZE), output=1), pictures(), "cam", target=1)
    wanted = explain(Classifier(made(Body), Preprocess(SIZE)), pictures(), "cam", target=1)
    assert map_error(found.maps, wanted.maps) <= 1e-5


class ListOfRows(Body):
    def forward(self, x: Tensor) -> Any:
        found = super().forward(x)
        return [found[index] for index in range(len(x))]


def test_a_list_of_rows_is_refused_and_not_taken_for_the_scores_of_the_first_image() -> None:
    """Of as many images as classes the first row would pass for a column."""
    classifier = Classifier(made(ListOfRows), Preprocess(SIZE), head="sigmoid")
    images = torch.rand(5, 3, *SIZE)
    with pytest.raises(ModelError, match=r"a list of \d rows"):
        explain(classifier, images, "saliency", target=0)


class OneProbability(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).relu().mean((2, 3))).sigmoid()


@pytest.mark.parametrize("spec", ["saliency", "grad_cam"])
def test_a_probability_under_the_usual_head_is_looked_at_as_any_other_network(spec: str) -> None:
    """Its batch statistics are noticed, and its layers found, though the head that was told does not fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhospheneWarning)
        found = explain(classifier_of(made(OneProbability), SIZE), pictures(), spec, target=0)
        alone = [explain(classifier_of(made(OneProbability), SIZE), one, spec, target=0).maps for one in pictures()]
    assert map_error(found.maps, torch.cat(alone)) <= MOST
    assert any("one by one" in note for note in found.notes)


@pytest.mark.parametrize("field", ["head", "module", "preprocess"])
def test_a_field_that_is_set_later_is_checked_as_at_first(field: str) -> None:
    classifier = classifier_of(made(Body), SIZE)
    before = getattr(classifier, field)
    with pytest.raises((OptionError, ModelError)):
        setattr(classifier, field, "nonsense")
    assert getattr(classifier, field) is before


def test_a_set_has_no_order() -> None:
    with pytest.raises(OptionError, match="no order"):
        explain(classifier_of(made(Body), SIZE), pictures(), "saliency", target=set(INDICES))


def test_numbers_of_numpy_are_numbers() -> None:
    preprocess = Preprocess(SIZE, np.int64(18), scale=np.float32(255))
    assert preprocess == Preprocess(SIZE, 18, scale=255.0)
    for wrong in (True, 18.0, 0):
        with pytest.raises(OptionError, match="short_side"):
            Preprocess(SIZE, wrong)
    classifier = classifier_of(made(Body), SIZE)
    found = explain(classifier, pictures(), "saliency", target=1, batch_size=np.int64(2))
    assert torch.equal(found.maps, explain(classifier, pictures(), "saliency", target=1, batch_size=2).maps)


def test_what_steers_a_call_is_refused_before_it_fails() -> None:
    with pytest.raises(OptionError, match="progress"):
        explain(classifier_of(made(Body), SIZE), pictures(), "rise:masks=4", target=1, progress=True)
    with pytest.raises(ModelError, match="meta"):
        forward(classifier_of(made(Body).to_empty(device="meta"), SIZE), pictures())
