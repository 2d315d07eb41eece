"""Networks as others write them are explained as they are written: every way of looking agrees with plain float64."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from phosphene import explain
from phosphene.attribution.deconvnet import deconvnet
from phosphene.attribution.grad_cam import grad_cam
from phosphene.attribution.guided_backprop import guided_backprop
from phosphene.attribution.hires_cam import hires_cam
from phosphene.attribution.input_x_gradient import input_x_gradient
from phosphene.attribution.integrated_gradients import integrated_gradients
from phosphene.attribution.occlusion import occlusion
from phosphene.attribution.relu_rules import rule_gradient
from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier
from phosphene.errors import ModelError, PhospheneWarning
from phosphene.runtime import forward
from phosphene.runtime.prepare import Prepared
from phosphene.targets import Target
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager, boxes
from tests.robustness.networks import in_double
from tests.robustness.strange import CASES, SIZE, Case, body

INDICES = (1, 3, 0)
TARGET = Target.of(INDICES)
MOST = 1e-4
Ours = Callable[[Classifier, Tensor, Case], Tensor]
Wanted = Callable[[Eager, Tensor, Case], Tensor]

# Per way of looking what the library gives and what plain autograd gives.
WAYS: dict[str, tuple[Ours, Wanted]] = {
    "scores": (
        lambda classifier, images, case: forward(classifier, images),
        lambda truth, images, case: truth.logits(images),
    ),
    "saliency": (
        lambda classifier, images, case: saliency(classifier, images, TARGET).maps,
        lambda truth, images, case: truth.saliency(images, INDICES),
    ),
    "input_x_gradient": (
        lambda classifier, images, case: input_x_gradient(classifier, images, TARGET).maps,
        lambda truth, images, case: truth.input_x_gradient(images, INDICES),
    ),
    "integrated_gradients": (
        lambda classifier, images, case: integrated_gradients(classifier, images, TARGET, steps=3).maps,
        lambda truth, images, case: truth.integrated_gradients(images, INDICES, 3),
    ),
    "grad_cam": (
        lambda classifier, images, case: grad_cam(classifier, images, TARGET, layer=case.layer).maps,
        lambda truth, images, case: truth.grad_cam(images, INDICES, case.layer),
    ),
    "hires_cam": (
        lambda classifier, images, case: hires_cam(classifier, images, TARGET, layer=case.layer).maps,
        lambda truth, images, case: truth.hires_cam(images, INDICES, case.layer),
    ),
    "occlusion": (
        lambda classifier, images, case: (
            occlusion(classifier, images, TARGET, window=(5, 3), stride=(4, 4), fill="black").maps
        ),
        lambda truth, images, case: truth.occlusion(images, INDICES, boxes(SIZE, (5, 3), (4, 4))).view(-1, 4, 4),
    ),
    "guided_backprop": (
        lambda classifier, images, case: guided_backprop(classifier, images, TARGET).reconstruction,
        lambda truth, images, case: truth.reconstruction(images, INDICES, "guided_backprop"),
    ),
    "deconvnet": (
        lambda classifier, images, case: deconvnet(classifier, images, TARGET).reconstruction,
        lambda truth, images, case: truth.reconstruction(images, INDICES, "deconvnet"),
    ),
}


def pictures() -> Tensor:
    return torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(3))


def explained(way: str, classifier: Classifier, images: Tensor, case: Case) -> Tensor | None:
    """What the library gives; None for a refusal that names what it cannot follow, where that is allowed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhospheneWarning)
        try:
            return WAYS[way][0](classifier, images, case)
        except ModelError as error:
            if case.may_refuse is None or case.may_refuse not in str(error):
                raise
            return None


def asked(case: Case) -> list[str]:
    """The ways of looking that fit a network."""
    left_out = ("guided_backprop", "deconvnet") * (not case.rules) + ("grad_cam", "hires_cam") * (case.layer is None)
    return [way for way in WAYS if way not in left_out]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning", "ignore:.*:DeprecationWarning")
def test_a_strange_network_is_explained_as_it_is(name: str) -> None:
    case, images = CASES[name], pictures()
    classifier, truth = classifier_of(case.make(), SIZE), Eager(in_double(case.make()), MEAN, STD)
    errors = {}
    for way in asked(case):
        found = explained(way, classifier, images, case)
        if found is not None:
            errors[way] = map_error(found, WAYS[way][1](truth, images.double(), case))
    assert all(error <= MOST for error in errors.values()), errors


@contextmanager
def global_hooks() -> Iterator[None]:
    """Hooks of the user's own on every module: one edits what linear layers are given, one what norms return."""
    registry = nn.modules.module
    handles = [
        registry.register_module_forward_pre_hook(
            lambda module, given: (given[0] * 0.5,) if isinstance(module, nn.Linear) else None
        ),
        registry.register_module_forward_hook(
            lambda module, given, output: output.abs() + 0.3 if isinstance(module, nn.BatchNorm2d) else None
        ),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", ["layers_in_a_plain_list_beside_their_names"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_hooks_on_every_module_are_honored_by_every_way(name: str, when: str) -> None:
    """Whether they come before the first call or after it; and their going is noticed."""
    case, images = CASES[name], pictures()
    classifier, truth = classifier_of(case.make(), SIZE), Eager(in_double(case.make()), MEAN, STD)
    if when == "after":
        for way in asked(case):
            explained(way, classifier, images, case)
    with global_hooks():
        errors = {way: map_error(explained(way, classifier, images, case), wanted(truth, images.double(), case))
                  for way, (_, wanted) in WAYS.items()}  # fmt: skip
    assert all(error <= MOST for error in errors.values()), errors
    errors = {way: map_error(explained(way, classifier, images, case), wanted(truth, images.double(), case))
              for way, (_, wanted) in WAYS.items()}  # fmt: skip
    assert all(error <= MOST for error in errors.values()), errors


@pytest.mark.parametrize("method", ["ablation_cam", "captum:feature_ablation", "captum:gradient_shap", "rise:masks=4"])
def test_a_hook_on_a_value_without_a_gradient_is_let_be(method: str) -> None:
    """PyTorch refuses it; where none is recorded it would not run."""
    classifier = classifier_of(CASES["the_hook_of_the_tutorial"].make(), SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhospheneWarning)
        assert explain(classifier, pictures()[0], method).maps.isfinite().all()


def doubled_by_turns(module: nn.Module, given: object, output: Tensor) -> None:
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient * (1 + torch.arange(gradient.shape[1]) % 2).view(-1, 1, 1))


def test_a_rule_up_to_a_layer_runs_hooks_on_what_it_is_given() -> None:
    network, image = body().eval(), pictures()[:1]
    network.pool.register_forward_hook(doubled_by_turns)
    _, found = rule_gradient(
        classifier_of(network, SIZE), image, Target.of(1), lambda gradient, through: through(gradient), to="second"
    )
    _, wanted = Eager(in_double(network), MEAN, STD).layer(image.double(), (1,), "pool")
    assert map_error(found, wanted) <= MOST


def test_nothing_is_printed_of_a_graph_that_is_tried_out(capfd: pytest.CaptureFixture[str]) -> None:
    forward(classifier_of(CASES["a_second_input_that_may_be_left_out"].make(), SIZE), pictures())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["channels_that_are_shuffled_and_split", "a_loop_over_the_images"])
def test_no_picture_is_held_once_a_network_was_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of FX that hold themselves hold whatever called them, until Python looks for circles."""
    held: list[weakref.ReferenceType[Tensor]] = []
    ready = Prepared.ready

    def noted(self: Prepared, images: Tensor) -> Tensor:
        found = ready(self, images)
        held.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Prepared, "ready", noted)
    gc.collect()
    gc.disable()
    try:
        saliency(classifier_of(CASES[name].make(), SIZE), pictures(), TARGET)
        assert held
        assert all(picture() is None for picture in held)
    finally:
        gc.enable()
