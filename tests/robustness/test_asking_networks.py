"""Networks that ask about what they are given, and parts of networks that are no ordinary parts."""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from phosphene import explain
from phosphene.attribution.eigen_cam import eigen_cam
from phosphene.errors import ModelError, OptionError, PhospheneWarning
from phosphene.runtime import forward, input_gradient
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager
from tests.robustness.everything import changed, everything, random_states
from tests.robustness.networks import in_double
from tests.robustness.strange import SIZE, Body, Case
from tests.robustness.test_as_written import INDICES, TARGET, WAYS, asked, pictures
from tests.robustness.test_never_stale_further import made

MOST = 1e-4


def errors(kind: type[nn.Module], images: Tensor, ways: list[str] | None = None) -> dict[str, float]:
    case = Case(lambda: made(kind))
    classifier, truth = classifier_of(made(kind), SIZE), Eager(in_double(made(kind)), MEAN, STD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhospheneWarning)
        return {
            way: map_error(WAYS[way][0](classifier, images, case), WAYS[way][1](truth, images.double(), case))
            for way in ways or asked(case)
        }


class BranchesOnAGradient(Body):
    """Weighs places, where a gradient is recorded."""

    def below(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.requires_grad:
            x = x * torch.linspace(0.5, 2, x.shape[-1], dtype=x.dtype) + 0.3
        return self.pool(self.relu(self.norm(x)))


def test_a_branch_on_whether_a_gradient_is_recorded_is_taken_where_gradients_are_asked_for() -> None:
    ways = ["saliency", "input_x_gradient", "grad_cam", "hires_cam", "guided_backprop", "deconvnet"]
    found = errors(BranchesOnAGradient, pictures(), ways)
    assert all(error <= MOST for error in found.values()), found


class ChannelsLastAlone(Body):
    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last):
            raise ValueError("give channels last")
        return super().forward(x).softmax(1)


def test_a_network_that_takes_channels_last_alone() -> None:
    classifier, images = classifier_of(made(ChannelsLastAlone), SIZE), pictures()
    with pytest.warns(PhospheneWarning, match="returns probabilities"):
        found = explain(classifier, images, ["grad_cam", "occlusion:window=8,stride=8"], target=1)
    truth = in_double(made(Body))
    wanted = Eager(truth, MEAN, STD).grad_cam(images.double(), (1, 1, 1), found[0].layer)
    scores = Eager(truth, MEAN, STD).logits(images.double()).softmax(1)[:, 1]
    assert map_error(found[1].score[:, None], scores[:, None]) <= MOST
    assert found[0].maps.shape == wanted.shape


class StopsEarly(Body):
    """Is done with a batch whose pictures are all bright: what noise does not show."""

    def forward(self, x: Tensor) -> Tensor:
        bright = bool((x.mean((1, 2, 3)) > 0.8).all())
        return self.above(self.below(x).repeat(1, 2, 1, 1)[:, :8]) if bright else super().forward(x)


class ScalesByABright(StopsEarly):
    def forward(self, x: Tensor) -> Tensor:
        return Body.forward(self, x * 2 if float(x.mean((1, 2, 3)).max()) > 0.8 else x)


@pytest.mark.parametrize("kind", [StopsEarly, ScalesByABright])
def test_what_code_reads_of_a_batch_is_read_of_each_picture(kind: type[nn.Module]) -> None:
    weights, shifts = torch.tensor([0.5, 0.2, 0.4]), torch.tensor([0.0, 0.8, 0.0])
    images = pictures() * weights.view(3, 1, 1, 1) + shifts.view(3, 1, 1, 1)
    ways = ["scores", "saliency", "occlusion", *(["grad_cam"] if kind is ScalesByABright else [])]
    found = errors(kind, images, ways)
    assert all(error <= MOST for error in found.values()), found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhospheneWarning)
        notes = explain(classifier_of(made(kind), SIZE), images, "saliency", target=1).notes
    assert any("one by one" in note for note in notes)


class DrawsALayerOfItsOwn(Body):
    """Where a number of Python's says so it does something between a convolution and its norm."""

    always: bool | None = None

    def below(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if random.random() < 0.5 if self.always is None else self.always:
            x = 3 * x + 1
        return self.pool(self.relu(self.norm(x)))


def test_what_is_drawn_is_one_of_what_the_network_may_be() -> None:
    images, maps = pictures(), []
    for always in (True, False):
        network = made(DrawsALayerOfItsOwn)
        network.always = always
        maps.append(Eager(in_double(network), MEAN, STD).saliency(images.double(), INDICES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhospheneWarning)
        for seed in range(4):
            random.seed(seed)
            found = input_gradient(classifier_of(made(DrawsALayerOfItsOwn), SIZE), images, TARGET)[1].abs().amax(1)
            assert min(map_error(found, wanted) for wanted in maps) <= MOST


class NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise KeyError("nothing was kept")


class WithoutAWayBack(Body):
    def above(self, x: Tensor) -> Tensor:
        return super().above(NoWayBack.apply(x))


class Undifferentiated(Body):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("kind", [WithoutAWayBack, Undifferentiated])
def test_methods_without_a_gradient_need_none(kind: type[nn.Module]) -> None:
    classifier, images = classifier_of(made(kind), SIZE), pictures()
    found = eigen_cam(classifier, images, TARGET, layer="second").maps
    assert map_error(found, eigen_cam(classifier_of(made(Body), SIZE), images, TARGET, layer="second").maps) <= 1e-4
    for method in ("eigen_cam", "score_cam", "ablation_cam"):
        assert explain(classifier, images, method, target=1).maps.isfinite().all()
    with pytest.raises(ModelError, match="gradient"):
        explain(classifier, images, "grad_cam:layer=second", target=1)


class ByMagnitude(Body):
    def __init__(self) -> None:
        super().__init__(pool=nn.LPPool2d(2, 2))


def test_the_relu_inside_of_a_pool_is_no_activation() -> None:
    found = errors(ByMagnitude, pictures(), ["guided_backprop", "deconvnet"])
    assert all(error <= MOST for error in found.values()), found


class Twice(Body):
    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) + super().forward(1.2 * x)) / 2


class Mirrored(Body):
    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) + super().forward(x.flip(-1))) / 2


def test_of_which_output_a_map_is_where_a_layer_has_several_is_said() -> None:
    images = pictures()
    for method in ("grad_cam", "eigen_cam", "score_cam"):
        found = explain(classifier_of(made(Twice), SIZE), images, f"{method}:layer=second", target=1)
        assert any("runs 2 times" in note for note in found.notes), method
        plain = explain(classifier_of(made(Body), SIZE), images, f"{method}:layer=second", target=1)
        assert not any("times" in note for note in plain.notes)
        with pytest.raises(ModelError, match="sees the picture mirrored in the last of its 2 runs"):
            explain(classifier_of(made(Mirrored), SIZE), images, f"{method}:layer=second", target=1)


class WithALayerToSpare(Body):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Conv2d(3, 4, 3)


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "layer_saliency", "guided_grad_cam", "ablation_cam"])
def test_a_layer_that_does_not_run_is_refused_by_name(method: str) -> None:
    with pytest.raises(ModelError, match="'spare' did not run"):
        explain(classifier_of(made(WithALayerToSpare), SIZE), pictures(), f"{method}:layer=spare", target=1)


class HandsOutItself(nn.Conv2d):
    def __deepcopy__(self, memo: dict[int, Any]) -> HandsOutItself:
        return self


class WithAPartThatIsNeverCopied(Body):
    def __init__(self) -> None:
        super().__init__(second=HandsOutItself(6, 8, 3, padding=1))


def test_a_layer_that_hands_out_itself_as_its_copy_is_refused_by_name() -> None:
    network = made(WithAPartThatIsNeverCopied).train()
    before = everything(network)
    with pytest.raises(ModelError, match=r"'second'.*hands out itself"):
        forward(classifier_of(network, SIZE), pictures())
    assert changed(before, everything(network)) == []


class Several(nn.Module):
    """An ensemble as PyTorch's tutorial makes it: weights in a dict, and a skeleton without any."""

    def __init__(self) -> None:
        super().__init__()
        networks = [made(Body) for _ in range(2)]
        for seed, network in enumerate(networks):
            nn.init.normal_(network.second.weight, generator=torch.Generator().manual_seed(seed))
        self.weights, self.statistics = torch.func.stack_module_state(networks)
        self.skeleton = copy.deepcopy(networks[0]).to("meta")

    def forward(self, x: Tensor) -> Tensor:
        def one(weights: dict[str, Tensor], statistics: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(self.skeleton, (weights, statistics), (x,))

        return torch.vmap(one)(self.weights, self.statistics).mean(0)


def test_weights_that_are_kept_beside_a_skeleton() -> None:
    images, classifier = pictures(), classifier_of(Several().eval(), SIZE)
    network = Several().eval()
    for held in (network.weights, network.statistics):
        held.update({name: value.double() if value.is_floating_point() else value for name, value in held.items()})
    wanted = Eager(network, MEAN, STD)
    assert map_error(forward(classifier, images), wanted.logits(images.double())) <= MOST
    found = input_gradient(classifier, images, TARGET)[1]
    assert map_error(found, wanted.gradient(images.double(), INDICES)) <= MOST
    with pytest.raises(ModelError, match="meta"):
        forward(classifier_of(made(Body).to("meta"), SIZE), images)


class OddTensors(Body):
    """Types of numbers that PyTorch does not mix, values that equal nothing, and memory that is not strided."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("eighth", torch.randn(6).to(torch.float8_e4m3fn))
        self.register_buffer("steps", torch.arange(1, 7).to(torch.uint16))
        self.register_buffer("counts", torch.arange(6).to(torch.uint64))
        self.register_buffer("unused", torch.full((3,), float("nan")))
        self.register_buffer("sparse", torch.eye(8).to_sparse())
        self.register_buffer("rows", torch.eye(8).to_sparse_csr())
        self.turn = nn.Parameter(torch.randn(6, dtype=torch.complex64))

    def below(self, x: Tensor) -> Tensor:
        x = torch.fft.fft2(super().below(x)) * self.turn[:, None, None]
        x = torch.fft.ifft2(x).real * self.eighth.to(x.real.dtype)[:, None, None]
        return x + self.steps.to(x.dtype)[:, None, None]


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_tensors_of_every_kind() -> None:
    network, images = made(OddTensors), pictures()
    classifier, eager = classifier_of(network, SIZE), Eager(network, MEAN, STD)
    assert map_error(forward(classifier, images), eager.logits(images)) <= 1e-4
    network.steps.copy_(torch.full((6,), 9).to(torch.uint16))
    assert map_error(forward(classifier, images), eager.logits(images)) <= 1e-4


def test_nothing_is_explained_where_nothing_is_computed() -> None:
    classifier, images = classifier_of(made(Body), SIZE), pictures()
    refusals = (ModelError, OptionError)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(refusals, match="FakeTensorMode"):
        explain(classifier, images, "saliency", target=1)


def test_a_classifier_s_layouts_may_be_changed_in_place() -> None:
    class Turned(Body):
        def below(self, x: Tensor) -> Tensor:
            return super().below(x)

    classifier = classifier_of(made(Turned), SIZE)
    explain(classifier, pictures(), "grad_cam:layer=second", target=1)
    classifier.layouts["second"] = "NHWC"
    found = explain(classifier, pictures(), "grad_cam:layer=second", target=1)
    assert found.maps.shape == (3, 8, 8)
    wanted = Eager(in_double(made(Body)), MEAN, STD).layer(pictures().double(), (1, 1, 1), "second")
    turned = (wanted[1].mean((1, 2), keepdim=True) * wanted[0]).sum(3)
    assert map_error(found.maps, turned) <= MOST


class SeedsItself(Body):
    """Sets the generators at each pass, so that its numbers are always the same."""

    def below(self, x: Tensor) -> Tensor:
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        return super().below(x) * float(np.random.rand()) * random.random()


def test_generators_that_a_network_sets_are_put_back() -> None:
    classifier, images = classifier_of(made(SeedsItself), SIZE), pictures()
    before = random_states()
    for method in ("saliency", "grad_cam", "occlusion:window=8,stride=8", "cam", "lrp"):
        explain(classifier, images, method, target=1)
        assert random_states() == before, method


def test_a_layer_inside_of_a_transformation_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"'skeleton.second' runs inside of torch.vmap"):
        explain(classifier_of(Several().eval(), SIZE), pictures(), "grad_cam:layer=skeleton.second", target=1)


def test_images_without_values_are_refused() -> None:
    classifier, images = classifier_of(made(Body), SIZE), pictures()
    with pytest.raises(OptionError, match="without values"):
        forward(classifier, images.to("meta"))
    with pytest.raises(OptionError, match="without values"):
        torch.vmap(lambda image: forward(classifier, image[None]))(images)
