"""Finer-CAM and ShapleyCAM: against their formulas by plain autograd, and pytorch-grad-cam where it is installed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene import ModelError, OptionError, Target, Unit, attribute
from phosphene.attribution.finer_cam import finer_cam
from phosphene.attribution.shapley_cam import shapley_cam
from tests.networks import MEAN, STD, classifier_of, pooled
from tests.transformers import FORMS, VisionTransformer


class Curved(nn.Module):
    """A layer with places, and behind it a head whose scores bend."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 49, 12), nn.GELU(), nn.Linear(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def normalized(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def finer_score(logits: Tensor, goal: int, alpha: float, count: int) -> Tensor:
    """The score of one image's logits (K,), written out."""
    near = sorted((k for k in range(len(logits)) if k != goal), key=lambda k: (logits[k] - logits[goal]).abs().item())
    weights = torch.stack([logits.softmax(0)[k] for k in near[:count]])
    differences = torch.stack([logits[goal] - alpha * logits[k] for k in near[:count]])
    return (weights * differences).sum() / weights.sum()


@pytest.mark.parametrize(("alpha", "classes"), [(1.0, 3), (0.6, 2), (0.0, 1)])
def test_finer_cam_is_its_formula(alpha, classes, images):
    net = Curved().eval()
    found = finer_cam(classifier_of(net), images, Target.of([1, 4]), layer="features", alpha=alpha, classes=classes)
    for index, goal in enumerate((1, 4)):
        activations = net.features(normalized(images[index : index + 1])).detach().requires_grad_()
        score = finer_score(net.head(activations)[0], goal, alpha, classes)
        (gradient,) = torch.autograd.grad(score, activations)
        expected = (gradient.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)[0].detach()
        assert torch.allclose(found.maps[index], expected, atol=1e-4 * float(expected.abs().max()))


def test_finer_cam_without_others_is_grad_cam(images):
    classifier = classifier_of(pooled())
    one, other = (attribute(classifier, images, 1, method).maps for method in ("finer_cam:alpha=0", "grad_cam"))
    assert torch.allclose(one, other, atol=1e-6)


def test_what_finer_cam_refuses(images):
    classifier = classifier_of(pooled())
    for target in (Target(unit=Unit("0", 1)), Target.of(1, versus=2), Target.of(1, score="probability")):
        with pytest.raises(OptionError, match="tells a class apart by itself"):
            finer_cam(classifier, images, target)
    some, every = (finer_cam(classifier, images, Target.of(1), classes=count).maps for count in (4, 9))
    assert torch.equal(some, every)
    with pytest.raises(OptionError, match="has one class, and none to tell it from"):
        finer_cam(classifier_of(pooled(classes=1), head="score"), images, Target.of(0))
    with pytest.raises(OptionError, match="alpha=-1"):
        finer_cam(classifier, images, Target.of(1), alpha=-1)


def utility(kind: str, logits: Tensor, goal: int) -> Tensor:
    if kind == "residual":
        return logits[goal] + F.log_softmax(logits, dim=0)[goal]
    return logits[goal] if kind == "logit" else logits.softmax(0)[goal]


@pytest.mark.parametrize("kind", ["residual", "logit", "probability"])
def test_shapley_cam_is_its_formula(kind, images):
    net = Curved().eval()
    found = shapley_cam(classifier_of(net), images, Target.of([1, 4]), layer="features", utility=kind)
    for index, goal in enumerate((1, 4)):
        activations = net.features(normalized(images[index : index + 1])).detach().requires_grad_()

        def score(values: Tensor, goal: int = goal) -> Tensor:
            return utility(kind, net.head(values)[0], goal)

        (gradient,) = torch.autograd.grad(score(activations), activations)
        hessian = torch.autograd.functional.hessian(score, activations).flatten(4).flatten(0, 3)
        bent = (hessian @ activations.detach().flatten()).view_as(activations)
        weights = (gradient - 0.5 * bent).mean(dim=(2, 3), keepdim=True)
        expected = (weights * activations).sum(dim=1)[0].detach()
        assert torch.allclose(found.maps[index], expected, atol=1e-4 * float(expected.abs().max()))
        assert float(found.score[index]) == pytest.approx(score(activations).item(), rel=1e-4)


def test_shapley_cam_of_a_logit_behind_a_linear_head_is_grad_cam(images):
    classifier = classifier_of(pooled())
    one, other = (attribute(classifier, images, 1, method).maps for method in ("shapley_cam:utility=logit", "grad_cam"))
    assert torch.allclose(one, other, atol=1e-5)
    residual = attribute(classifier, images, 1, "shapley_cam").maps
    assert not torch.allclose(residual, 2 * other, atol=1e-3)
    with pytest.raises(OptionError, match="give a class alone"):
        shapley_cam(classifier, images, Target(unit=Unit("0", 1)))


@pytest.mark.parametrize("form", FORMS)
def test_shapley_cam_bends_through_fused_attention(form, images):
    one, other = (
        shapley_cam(classifier_of(VisionTransformer(kind)), images, Target.of(1), layer="blocks.1.norm1").maps
        for kind in (form, "by_hand")
    )
    assert torch.allclose(one, other, atol=1e-4 * float(other.abs().max()))


def test_a_network_without_a_second_derivative_is_refused(images):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient * 2

    class Net(Curved):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(Once.apply(self.features(x)))

    with pytest.raises(ModelError, match="has no second derivative here"):
        shapley_cam(classifier_of(Net().eval()), images, Target.of(1), layer="features")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its hooks as they are let go of
def test_same_as_pytorch_grad_cam(images):
    peers = pytest.importorskip("pytorch_grad_cam", reason="pytorch-grad-cam is not installed", exc_type=ImportError)
    finer = pytest.importorskip("pytorch_grad_cam.finer_cam", reason="it is older", exc_type=ImportError)
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets", exc_type=ImportError)
    net = Curved().eval()
    classifier, x = classifier_of(Curved().eval()), normalized(images)

    def shown(maps: Tensor) -> Tensor:
        maps = maps.clamp(min=0)
        return maps / maps.amax(dim=(1, 2), keepdim=True)

    best = net(x).argmax(dim=1).tolist()
    theirs = finer.FinerCAM(net, [net.features])
    theirs.base_cam.get_target_width_height = lambda _: (7, 7)
    expected = torch.from_numpy(theirs(input_tensor=x, targets=None))
    found = finer_cam(classifier, images, Target.of(best), layer="features")
    assert torch.allclose(shown(found.maps), expected, atol=1e-4)
    curved = peers.ShapleyCAM(net, [net.features])
    curved.get_target_width_height = lambda _: (7, 7)
    expected = torch.from_numpy(curved(x, [targets.ClassifierOutputReST(goal) for goal in best]))
    found = shapley_cam(classifier, images, Target.of(best), layer="features")
    assert torch.allclose(shown(found.maps), expected, atol=1e-4)


def test_a_layer_that_sees_two_views_of_each_image_has_no_places():
    class Mirrored(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)

        def forward(self, x):
            found = self.features(torch.cat([x, x.flip(3)])).relu().mean((2, 3))
            return self.head(found.unflatten(0, (2, -1)).mean(0))

    with pytest.raises(ModelError, match="has no places"):
        attribute(Mirrored().eval(), torch.rand(2, 3, 12, 12), 1, "finer_cam", layer="features")
