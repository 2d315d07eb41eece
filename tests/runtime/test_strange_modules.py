"""Modules as they come: wrapped, compiled, of half precision, lazy, holding what cannot be copied."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from phosphene.attribution.grad_cam import grad_cam
from phosphene.attribution.occlusion import occlusion
from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.runtime import activations, forward, prepare
from phosphene.runtime.freeze import freeze
from phosphene.targets import Target
from tests.comparing import map_error
from tests.networks import classifier_of, pooled

TARGET = Target.of([1, 3])


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16)


def same_maps(module: nn.Module, images: Tensor, error: float = 1e-5, other: nn.Module | None = None) -> None:
    """A strange form of `pooled` gives its maps, by gradient and at a layer."""
    strange, plain = classifier_of(module), classifier_of(other or pooled())
    for method in (saliency, grad_cam):
        assert map_error(method(strange, images, TARGET).maps, method(plain, images, TARGET).maps) < error


class Locked(nn.Module):
    """Holds a lock, a generator and a tensor with a history, which copy.deepcopy refuses."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.lock = threading.Lock()
        self.lines = (line for line in "abc")
        self.scale = nn.Parameter(torch.ones(1)) * 2
        self.also = [module[0], self.lock]

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            return self.module(x) * self.scale / 2


class Capturing(nn.Module):
    """Puts a hook on a layer at its first pass and says so in an attribute, as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.kept = pooled(), []

    def forward(self, x: Tensor) -> Tensor:
        if not getattr(self, "_output_capturing_hooks_installed", False):
            self.inner[0].register_forward_hook(lambda _module, _inputs, output: self.kept.append(output))
            self._output_capturing_hooks_installed = True
        self.kept.clear()
        scores = self.inner(x)
        return scores * len(self.kept)


def test_hooks_that_the_first_pass_puts_on_are_not_put_on_twice(images):
    same_maps(Capturing().eval(), images)


class NeverCopied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("a handle cannot be shared")


class InPlaces(nn.Module):
    """Works through references to its layers in a list, as some code does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = pooled()
        self.steps = [self.inner[index] for index in range(10)]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


def test_what_cannot_be_copied_is_shared(images):
    module = Locked(pooled())
    same_maps(module, images)
    frozen = freeze(module)
    assert frozen.lock is module.lock
    assert frozen.also[0] is frozen.module[0]
    assert frozen.also[0] is not module.module[0]


def test_layers_reached_through_a_list_are_those_of_the_copy(images):
    module = InPlaces().train()
    same_maps(module, images)
    assert module.training
    assert torch.equal(
        activations(classifier_of(module), images, ["inner.5"])[1]["inner.5"],
        activations(classifier_of(pooled()), images, ["5"])[1]["5"],
    )


def test_a_module_that_refuses_copies_is_refused_with_the_reason(images):
    with pytest.raises(ModelError, match=r"NeverCopied cannot be copied \(a handle cannot be shared\)"):
        forward(classifier_of(NeverCopied()), images)


def test_wrappers_are_taken_off(images):
    same_maps(nn.DataParallel(pooled()), images)
    compiled = torch.compile(pooled(), backend="eager")
    same_maps(compiled, images)
    assert isinstance(Classifier(compiled).module, nn.Sequential)
    in_place = pooled()
    in_place.compile(backend="eager")
    same_maps(in_place, images)


def test_frozen_weights_and_weights_made_without_gradients(images):
    frozen = pooled().requires_grad_(False)
    same_maps(frozen, images)
    with torch.inference_mode():
        made = pooled()
    same_maps(made, images)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_a_change_of_weights_made_in_inference_mode_is_noticed(images):
    with torch.inference_mode():
        made = pooled()
        classifier = classifier_of(made)
        before = forward(classifier, images)
        made[-1].bias.add_(1)
        assert torch.allclose(forward(classifier, images), before + 1, atol=1e-5)


def test_weights_made_in_inference_mode_and_converted_outside_of_it_are_refused(images):
    with torch.inference_mode():
        made = pooled()
    classifier = classifier_of(made)
    forward(classifier, images)
    made.double()
    with pytest.raises(ModelError, match="make it outside of inference mode"):
        forward(classifier, images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_in_float32(images, dtype):
    rounded = pooled().to(dtype)
    same_maps(rounded, images, other=pooled().to(dtype).float())
    assert next(rounded.parameters()).dtype == dtype


def test_double_precision_weights_stay_double(images):
    module = pooled().double()
    same_maps(module, images)
    assert prepare(classifier_of(module)).dtype == torch.float64
    exact = module(classifier_of(module).preprocess.normalize(images.double()))
    assert torch.allclose(forward(classifier_of(module), images).double(), exact, atol=1e-5)


def test_parametrized_and_tied_weights(images):
    module = pooled()
    parametrizations.weight_norm(module[0])
    same_maps(module, images)
    tied = pooled()
    tied.again = tied[-1]
    frozen = freeze(tied)
    assert frozen.again is frozen[-1]


def test_weights_are_copied_and_changes_noticed(images):
    module = pooled()
    classifier = classifier_of(module)
    before = forward(classifier, images)
    frozen = prepare(classifier).module
    assert frozen[-1].weight.data_ptr() != module[-1].weight.data_ptr()
    with torch.no_grad():
        module[-1].bias += 1
    assert torch.allclose(forward(classifier, images), before + 1, atol=1e-5)
    module.load_state_dict(pooled().state_dict())
    assert torch.allclose(forward(classifier, images), before, atol=1e-6)


def test_lazy_layers_ask_for_a_first_run(images):
    module = nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(ModelError, match="lazy layers that never ran; run it once"):
        forward(classifier_of(module), images)
    module(images)
    assert forward(classifier_of(module), images).shape == (2, 2)


class CutOff(nn.Module):
    """Computes under no_grad, so that no gradient reaches the pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = pooled()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_a_network_that_cuts_off_gradients_says_so_and_is_occluded(images):
    classifier = classifier_of(CutOff())
    with pytest.raises(ModelError, match=r"no gradient reaches the pictures: CutOff cuts it off .* occlusion or rise"):
        saliency(classifier, images, TARGET)
    plain = occlusion(classifier_of(pooled()), images, TARGET, window=(8, 8), stride=(8, 8))
    assert map_error(occlusion(classifier, images, TARGET, window=(8, 8), stride=(8, 8)).maps, plain.maps) < 1e-5


def test_a_network_refuses_images_in_one_line():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    with pytest.raises(
        ModelError, match=r"Sequential cannot run on images of shape \(1, 3, 8, 8\): mat1 and mat2"
    ) as caught:
        forward(classifier_of(module), torch.rand(1, 3, 8, 8))
    assert "\n" not in str(caught.value)
