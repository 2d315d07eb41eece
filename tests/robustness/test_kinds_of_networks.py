"""Kinds of networks that are made in another way than by modules of dense weights: right, or refused in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phosphene import attribute, explain, impress
from phosphene.attribution.guided_backprop import guided_backprop
from phosphene.attribution.integrated_gradients import integrated_gradients
from phosphene.errors import ModelError
from phosphene.runtime import forward
from phosphene.zoo.choice import weights_hash
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager
from tests.robustness.everything import changed, everything
from tests.robustness.networks import in_double
from tests.robustness.strange import CLASSES, SIZE, Body
from tests.robustness.test_as_written import INDICES, MOST, TARGET, pictures
from tests.robustness.test_never_stale_further import made


def drawn(network: nn.Module) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = impress(classifier_of(network, SIZE), 1, "class_model", steps=2)
    return found.image


def grad_cam_error(network: nn.Module, layer: str, truth: nn.Module | None = None) -> float:
    found = explain(classifier_of(network, SIZE), pictures(), f"grad_cam:layer={layer}", target=list(INDICES))
    wanted = Eager(in_double(truth or network), MEAN, STD).grad_cam(pictures().double(), INDICES, layer)
    return map_error(found.maps, wanted)


class NormsEachImage(Body):
    """By its own mean and spread, of which a picture of one color has none."""

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean((1, 2, 3), keepdim=True)
        return super().forward(x / x.std((1, 2, 3), keepdim=True))


def test_a_baseline_without_a_gradient_does_not_spoil_the_way_from_it() -> None:
    found = integrated_gradients(classifier_of(made(NormsEachImage), SIZE), pictures(), TARGET, steps=3)
    wanted = Eager(in_double(made(NormsEachImage)), MEAN, STD).integrated_gradients(pictures().double(), INDICES, 3)
    assert map_error(found.maps, wanted) <= 10 * MOST


class Checkpointed(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.second(checkpoint(self.below, x, use_reentrant=False)))


@pytest.mark.parametrize("layer", ["first", "norm", "pool"])
def test_a_layer_inside_of_a_checkpoint_is_looked_at(layer: str) -> None:
    assert grad_cam_error(made(Checkpointed), layer) <= MOST


def test_a_checkpointed_network_is_drawn_as_any() -> None:
    assert map_error(drawn(made(Checkpointed)), drawn(made(Body))) <= 1e-3


class LoopsOverImages(Body):
    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([Body.forward(self, image[None]) for image in images])


@pytest.mark.parametrize("count", [2, 3])
def test_a_layer_that_runs_for_each_image_by_itself_is_looked_at_image_by_image(count: int) -> None:
    images = pictures()[:count]
    for spec in ("grad_cam:layer=second", "eigen_cam:layer=second", "layer_cam:layer=second"):
        found, plain = (
            explain(classifier_of(made(kind), SIZE), images, spec, target=1) for kind in (LoopsOverImages, Body)
        )
        assert map_error(found.maps, plain.maps) <= MOST


class TakesByName(Body):
    def forward(self, *, pixel_values: Tensor) -> Tensor:
        return super().forward(pixel_values)


def test_a_network_that_takes_pictures_by_name_alone_is_given_them_by_that_name() -> None:
    named = classifier_of(made(TakesByName), SIZE)
    assert map_error(forward(named, pictures()), forward(classifier_of(made(Body), SIZE), pictures())) <= MOST


class CastsTo16Bits(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.bfloat16))


def test_a_network_that_names_a_type_of_16_bits_is_told_why_that_does_not_fit() -> None:
    with pytest.raises(ModelError, match="run in float32 here"):
        forward(classifier_of(made(CastsTo16Bits).bfloat16(), SIZE), pictures())


class Votes(Body):
    def forward(self, x: Tensor) -> Tensor:
        found = super().forward(x)
        classes = torch.arange(found.shape[1]).expand_as(found) // 2
        return x.new_zeros(found.shape).scatter_add(1, classes, found)


def test_that_types_are_mixed_in_16_bits_is_told_though_nobody_names_them() -> None:
    classifier = classifier_of(made(Votes), SIZE)
    assert classifier.logits(pictures()).isfinite().all()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ModelError, match="say precision='exact' for steps that know no other"),
    ):
        classifier.logits(pictures())


@pytest.mark.filterwarnings("ignore")
def test_an_exported_network_is_explained_as_it_is_given() -> None:
    count = torch.export.Dim("count", min=1, max=64)
    program = torch.export.export(made(Body), (torch.rand(2, 3, *SIZE),), dynamic_shapes=({0: count},))
    network = torch.export.unflatten(program)
    notes = [dict(node.meta) for node in network.graph.nodes]
    for spec in ("saliency", "grad_cam:layer=second", "occlusion:window=8,stride=8"):
        found, plain = (explain(classifier_of(one, SIZE), pictures(), spec, target=1) for one in (network, made(Body)))
        assert map_error(found.maps, plain.maps) <= MOST
    assert any(notes)
    assert [list(node.meta) for node in network.graph.nodes] == list(map(list, notes))


def test_a_compiled_part_is_explained_as_the_module_it_was_made_of() -> None:
    network, images = made(Body), pictures()
    network.second = torch.compile(network.second, backend="aot_eager")
    network.relu = torch.compile(network.relu, backend="aot_eager")
    before = everything(network)
    classifier, truth = classifier_of(network, SIZE), Eager(in_double(made(Body)), MEAN, STD)
    found = guided_backprop(classifier, images, TARGET).reconstruction
    assert map_error(found, truth.reconstruction(images.double(), INDICES, "guided_backprop")) <= MOST
    cam = explain(classifier, images, "grad_cam:layer=second", target=list(INDICES))
    assert map_error(cam.maps, truth.grad_cam(images.double(), INDICES, "second")) <= MOST
    assert changed(before, everything(network)) == []


class SparseHead(nn.Module):
    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(head.weight.detach().to_sparse(), requires_grad=False)
        self.bias = head.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.weight, x.float().mT).mT + self.bias


class WithASparseHead(Body):
    def __init__(self) -> None:
        super().__init__()
        self.head = SparseHead(self.head)  # type: ignore[assignment, arg-type]


def test_sparse_weights_are_told_apart_and_drawn() -> None:
    network, other = made(WithASparseHead), made(WithASparseHead)
    other.head.weight.data = other.head.weight.data * 2
    assert weights_hash(classifier_of(network, SIZE)) != weights_hash(classifier_of(other, SIZE))
    assert drawn(network).isfinite().all()


@pytest.mark.filterwarnings("ignore")
def test_packed_weights_are_drawn() -> None:
    network = torch.ao.quantization.quantize_dynamic(made(Body), {nn.Linear}, dtype=torch.qint8)
    assert len(weights_hash(classifier_of(network, SIZE))) == 64
    try:
        assert drawn(network).isfinite().all()
    except ModelError as error:  # where steps run in bfloat16
        assert "precision='exact'" in str(error)


class Nested(Body):
    """Tokens of each image as one of a nested tensor, doubled there."""

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        tokens = torch.nested.as_nested_tensor([one.flatten(1).mT for one in x])
        return torch.nested.to_padded_tensor(tokens * 2.0, 0.0).mT.reshape(x.shape)


class Doubled(Body):
    def below(self, x: Tensor) -> Tensor:
        return super().below(x) * 2


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_on_the_way_hide_no_layer() -> None:
    assert grad_cam_error(made(Nested), "second", made(Doubled)) <= MOST


class WithANormToSpare(Body):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.BatchNorm2d(6)


class WithASpareNormAlone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.BatchNorm2d(6)
        self.body = nn.Sequential(nn.Conv2d(3, CLASSES, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@pytest.mark.parametrize("kind", [WithANormToSpare, WithASpareNormAlone])
def test_a_norm_that_does_not_run_remembers_nothing(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    assert drawn(kind().eval()).isfinite().all()


def test_a_network_that_refuses_to_be_set_to_eval_is_taken_as_it_is() -> None:
    module = made(Body)
    refusing = made(Body).eval()
    refusing.train = lambda mode=True: (_ for _ in ()).throw(RuntimeError("deployed: no modes"))  # type: ignore[method-assign]
    found, wanted = (explain(classifier_of(one, SIZE), pictures(), "saliency", target=1) for one in (refusing, module))
    assert torch.equal(found.maps, wanted.maps)


@pytest.mark.parametrize(
    ("packed", "what"), [(Tensor.to_sparse, "sparse"), (lambda rows: torch.nested.as_nested_tensor([*rows]), "nested")]
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_scores_that_are_no_dense_tensor_are_refused(packed: Callable[[Tensor], Tensor], what: str) -> None:
    network = nn.Sequential(made(Body), Called(packed))
    with pytest.raises(ModelError, match=f"returned its scores as a {what} tensor; let it return a dense one"):
        explain(classifier_of(network, SIZE), pictures(), "saliency", target=1)


class Called(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class MakesItsHead(nn.Module):
    """Knows how wide its head is when the first picture comes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), None

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu().mean((2, 3))
        self.head = nn.Linear(x.shape[1], CLASSES) if self.head is None else self.head
        return self.head(x)


def test_a_head_that_the_first_pass_makes_has_to_be_made_first() -> None:
    network = MakesItsHead().eval()
    with pytest.raises(ModelError, match=r"makes 'head.weight' in its first pass, which never ran; run it once"):
        explain(classifier_of(network, SIZE), pictures(), "saliency", target=1)
    network(pictures())
    assert grad_cam_error(network, "body") < MOST


def test_a_backward_hook_that_watches_stands_in_the_way_of_no_rule() -> None:
    network, seen = made(Body), []
    plain = explain(classifier_of(made(Body), SIZE), pictures(), "guided_backprop", target=1)
    next(child for child in network.modules() if isinstance(child, nn.Conv2d)).register_full_backward_hook(
        lambda module, given, output: seen.append(output)
    )
    found = explain(classifier_of(network, SIZE), pictures(), "guided_backprop", target=1)
    assert map_error(found.maps, plain.maps) < MOST
    assert seen


def test_pictures_whose_sign_is_put_off_are_pictures() -> None:
    images = torch.fft.ifft2(torch.fft.fft2(pictures())).conj().imag
    assert images.is_neg()
    classifier = classifier_of(made(Body), SIZE)
    found, wanted = (
        attribute(classifier, one, 1, "integrated_gradients").maps for one in (images, images.resolve_neg())
    )
    assert torch.equal(found, wanted)
