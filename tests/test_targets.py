"""Targets: each kind is data, knows its score, and is understood in one place."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from phosphene import explain, impress
from phosphene.classifier import Labels
from phosphene.errors import NotFoundError, OptionError
from phosphene.runtime import input_gradient
from phosphene.targets import (
    BestClasses,
    ClassTarget,
    Outputs,
    Target,
    Unit,
    VersusTarget,
    kinds,
    of_each,
    resolve,
)
from phosphene.types import Score
from tests.networks import MEAN, STD, classifier_of, linear, pooled

LABELS = Labels(("tabby", "tiger cat", "lynx"), ("n1", "n2", "n3"))
EVERY_KIND = [Target.of(1), Target.of([0, 1], score="margin"), Target.of(1, versus=2), Unit("0", 1, (2, 3))]


@given(st.lists(st.integers(0, 999), min_size=1, max_size=6), st.integers(1, 6))
def test_targets_are_broadcast_or_refused_never_zipped_short(classes, count):
    target = Target.of(classes)
    if len(classes) in (1, count):
        expanded = target.expand(count)
        assert len(expanded.classes) == count
        assert expanded.expand(count) == expanded
        assert [expanded.rows(i, i + 1).classes[0] for i in range(count)] == (classes * count)[:count]
    else:
        with pytest.raises(OptionError, match=f"{len(classes)} target classes for {count} images"):
            target.expand(count)


def test_versus_classes_are_broadcast_too():
    assert Target.of([1, 2], versus=3).expand(2).versus == (3, 3)
    assert Target.of(1, versus=3).expand(2).versus == (3, 3)
    assert Target.of(1, versus=3).expand(2).rows(1, 2) == Target((1,), (3,))
    with pytest.raises(OptionError, match="3 versus-classes for 2 classes"):
        Target.of([1, 2], versus=[3, 4, 5])


@pytest.mark.parametrize("classes", [7, np.int64(7), np.array(7), torch.tensor(7), [7], (7,), np.array([7]), {7}])
def test_every_spelling_of_one_class(classes):
    assert Target.of(classes).classes == (7,)


@pytest.mark.parametrize(
    "classes", ["tabby", ["tabby"], [], 1.5, [1.5], None, [None], torch.tensor([0.5]), [[1], [2]], True, object()]
)
def test_what_is_no_class_is_refused(classes):
    with pytest.raises(OptionError):
        Target.of(classes)


def test_a_target_is_one_thing():
    unit = Unit("conv", 3, (1, 2))
    assert str(unit) == "conv=3@1,2"
    assert str(Unit("conv")) == "conv"
    assert Target(unit=unit).expand(5) == Target(unit=unit)
    for arguments in ({}, {"classes": (1,), "unit": unit}, {"unit": unit, "versus": (1,)}):
        with pytest.raises(OptionError):
            Target(**arguments)
    with pytest.raises(OptionError, match="choose logit, probability or margin"):
        Target.of(1, score="loss")


def test_classes_the_network_does_not_have_are_named():
    classifier = classifier_of(linear())
    logits = torch.rand(1, 3)
    for target in (Target.of(3), Target.of(-1), Target.of(0, versus=3)):
        with pytest.raises(NotFoundError, match="has 3 classes, 0 to 2"):
            classifier.score(logits, target)


def test_scores_are_what_they_are_called():
    classifier, logits = classifier_of(linear()), torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    assert classifier.score(logits, Target.of([0, 2])).tolist() == [1.0, 5.0]
    assert torch.allclose(classifier.score(logits, Target.of(1, score="probability")), logits.softmax(1)[:, 1])
    assert classifier.score(logits, Target.of([1, 0], score="margin")).tolist() == [1.0, -5.0]
    assert classifier.score(logits, Target.of(1, versus=0)).tolist() == [2.0, 0.0]


def test_every_kind_is_looked_at():
    ours = {name for name, kind in kinds().items() if kind.__module__ == "phosphene.targets"}
    assert {target.kind for target in EVERY_KIND} == ours


@pytest.mark.parametrize("target", EVERY_KIND, ids=str)
def test_a_target_is_frozen_data(target):
    assert pickle.loads(pickle.dumps(target)) == target
    assert hash(replace(target)) == hash(target)
    assert replace(target) == target
    with pytest.raises(FrozenInstanceError):
        target.score = "probability"


def test_the_constructor_makes_the_kind_that_is_meant():
    assert Target((1,)) == Target.of(1) == ClassTarget((1,))
    assert Target((1,), (2,), None, "logit") == VersusTarget((1,), (2,), "logit")
    assert Target(unit=Unit("0", 1)) == Unit("0", 1)
    assert all(isinstance(target, Target) for target in EVERY_KIND)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (None, BestClasses(1)),
        ("top1", BestClasses(1)),
        ("top12", BestClasses(12)),
        ("lynx", Target.of(2)),
        ("tiger", Target.of(1)),
        ("N3", Target.of(2)),
        ("2", Target.of(2)),
        (np.int64(2), Target.of(2)),
        (torch.tensor(2), Target.of(2)),
        (["tabby", 2, "n2"], Target.of([0, 2, 1])),
        (torch.tensor([2, 0]), Target.of([2, 0])),
        (Target.of(7), Target.of(7)),
        (Unit("0"), Unit("0")),
    ],
)
def test_what_is_meant_by_a_target_is_understood(asked, found):
    assert resolve(asked, LABELS) == found


def test_a_class_may_be_called_top3():
    assert resolve("top3", Labels(("top1", "top3"))) == Target.of(1)


@pytest.mark.parametrize("asked", ["top0", "wolf", 3, -1, torch.eye(3), [0.0, 1.0, 0.0], ["tabby", "top2"], len, True])
def test_what_is_not_understood_is_refused(asked):
    with pytest.raises(OptionError):
        resolve(asked, LABELS)


def test_classes_of_each_picture():
    logits = torch.tensor([[0.1, 0.7, 0.2], [0.9, 0.0, 0.1]])
    assert of_each(BestClasses(2), logits) == (Target.of([1, 2, 0, 2]), 2)
    assert of_each(BestClasses(2), logits, Target.of(2), "logit") == (
        Target.of([1, 0, 0, 1], versus=[2, 2, 2, 2], score="logit"),
        2,
    )
    assert of_each(Target.of(2), logits) == (Target.of([2, 2]), 1)
    assert of_each(Unit("0", 1), logits) == (Unit("0", 1), 1)
    assert BestClasses().one_of_each(logits) == Target.of([1, 0])
    with pytest.raises(OptionError, match="'top2' is several classes"):
        explain(classifier_of(pooled()), torch.rand(1, 3, 16, 16), target="top2")


@dataclass(frozen=True)
class Spread(Target, kind="spread"):
    """A kind that looks at all scores and at a layer: their variance, and the largest activation."""

    layer: str

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        return outputs.logits.var(dim=1) + outputs.spatial(self.layer).flatten(1).amax(dim=1)


SPREAD = Spread("0")


def own_scores(net: nn.Module, images: Tensor) -> Tensor:
    seen = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    return net(seen).var(dim=1) + net[0](seen).flatten(1).amax(dim=1)


METHODS = ["saliency", "grad_cam:layer=0", "integrated_gradients:steps=2", "occlusion:window=8,stride=8", "deconvnet"]


@pytest.mark.parametrize("method", METHODS)
def test_methods_see_the_score_of_a_new_kind_and_nothing_else(method):
    net, images = pooled().eval(), torch.rand(2, 3, 16, 16)
    found = explain(classifier_of(net), images, method, target=SPREAD)
    assert torch.allclose(found.score, own_scores(net, images), atol=1e-5)
    assert found[1].target == SPREAD


def test_the_gradient_of_a_new_kind_is_right():
    net, images = pooled().eval(), torch.rand(2, 3, 16, 16, requires_grad=True)
    (expected,) = torch.autograd.grad(own_scores(net, images).sum(), images)
    _, gradient = input_gradient(classifier_of(net), images, SPREAD)
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_recipes_raise_a_new_kind():
    (made,) = impress(classifier_of(pooled()), SPREAD, "class_model", preset="paper", steps=5)
    assert made.target == SPREAD
    assert made.scores[-1] > made.scores[0]


def test_two_kinds_of_one_name_are_refused():
    with pytest.raises(OptionError, match=r"'unit' is there already, from phosphene\.targets"):

        class Other(Target, kind="unit"):
            pass


def test_what_has_no_classes_cannot_be_told_apart():
    for target in (SPREAD, Unit("0")):
        with pytest.raises(OptionError, match=f"a {target.kind} has no class to be told apart from"):
            target.against(Target.of(1))
    with pytest.raises(OptionError, match="not from the unit 0=1"):
        Target.of(1).against(Unit("0", 1))
