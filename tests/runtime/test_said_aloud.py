"""What a first look at a network notices: memory layout, softmax inside, dropout that stays on, checkpoints."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from phosphene.attribution.grad_cam import grad_cam
from phosphene.attribution.occlusion import occlusion
from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import ModelError, OptionError, PhospheneError, PhospheneWarning
from phosphene.runtime import forward, prepare
from phosphene.targets import Target
from phosphene.tasks.attributions import explain
from phosphene.tasks.impressions import impress
from tests.comparing import map_error
from tests.networks import classifier_of, linear, pooled

TARGET = Target.of(3)
WINDOW = {"window": (8, 8), "stride": (8, 8)}
METHODS = (
    "saliency",
    "grad_cam",
    "occlusion:window=8,stride=8",
    "rise:masks=20,cells=4",
    "guided_backprop",
    "score_cam",
)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(8))


class Then(nn.Module):
    """`pooled` in two halves with something done between, and something to the scores."""

    def __init__(self, between=None, after=None) -> None:
        super().__init__()
        self.inner = pooled()
        self.between, self.after = between or (lambda x: x), after or (lambda x: x)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner[4:](self.between(self.inner[:4](x))))


# Ways of writing a network that ask for contiguous values, or see another order of them in channels last.
CONTIGUOUS = {
    "view": lambda x: x.view(len(x), -1).view(x.shape),
    "view of rows": lambda x: x.view(len(x), 6, -1).view(x.shape),
    "as strided": lambda x: torch.as_strided(x, x.shape, (6 * 64, 64, 8, 1)),
    "view as strided": lambda x: x.as_strided((len(x), 6 * 64), (6 * 64, 1)).unflatten(1, (6, 8, 8)),
}


def checked(x: Tensor) -> Tensor:
    assert x.is_contiguous(), "wants contiguous values"
    return x


CONTIGUOUS["a check"] = checked


@pytest.mark.parametrize("kind", CONTIGUOUS)
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_network_that_wants_contiguous_values_gets_them(kind, precision, images):
    strange, plain = classifier_of(Then(CONTIGUOUS[kind])), classifier_of(pooled())
    assert torch.allclose(forward(strange, images), forward(plain, images), atol=1e-4)
    for method in METHODS:
        found, expected = (explain(one, images, method, target=3).maps for one in (strange, plain))
        assert map_error(found, expected) < 1e-4, method
    layer = grad_cam(strange, images, TARGET, layer="inner.5").maps
    assert map_error(layer, grad_cam(plain, images, TARGET, layer="5").maps) < 1e-4


def test_a_picture_can_be_made_for_it():
    strange = classifier_of(Then(CONTIGUOUS["view"]))
    made = impress(strange, 3, steps=2)[0]
    assert made.image.shape == (3, 16, 16)


def test_what_no_layout_helps_is_still_refused(images):
    with pytest.raises(ModelError, match="cannot run on images of shape"):
        forward(classifier_of(Then(lambda x: x.view(3, 7))), images)


def softmaxed(x: Tensor) -> Tensor:
    return x.softmax(dim=1)


def test_probabilities_are_told_and_taken_for_what_they_are(images):
    inner = classifier_of(Then(after=softmaxed))
    with pytest.warns(PhospheneWarning, match=r"Then.*sums to one.*head='probabilities'") as said:
        found = explain(inner, images, "grad_cam", target=3, layer="inner.5")
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    plain = classifier_of(pooled())
    prepared = prepare(inner)
    logits = forward(prepared, images)
    expected = forward(plain, images)
    assert torch.allclose(prepared.probabilities(logits), expected.softmax(1), atol=1e-5)
    assert torch.allclose(logits, expected.log_softmax(1), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(inner, images, "saliency", target=3)  # said once
        told = explain(classifier_of(Then(after=softmaxed), head="probabilities"), images, target=3, layer="inner.5")
    assert torch.equal(told.maps, found.maps)


@pytest.mark.parametrize("score", ["logit", "probability", "margin"])
def test_scores_of_probabilities(score, images):
    told, plain = classifier_of(Then(after=softmaxed), head="probabilities"), classifier_of(pooled())
    target = Target.of(3, score=score)
    found, expected = (saliency(one, images, target) for one in (told, plain))
    if score != "logit":
        assert torch.allclose(found.score, expected.score, atol=1e-4)
        assert map_error(found.maps, expected.maps) < 1e-3
    assert torch.allclose(told.probabilities(told.logits(images)).sum(1), torch.ones(2))


def test_a_sigmoid_inside_is_told_too(images):
    several = classifier_of(Then(after=torch.sigmoid), head="sigmoid")
    with pytest.warns(PhospheneWarning, match=r"sigmoid.*head='probabilities'"):
        found = explain(several, images, "saliency", target=3)
    assert torch.allclose(prepare(several).probabilities(found.score[:, None]), pooled_odds(images)[:, 3:4], atol=1e-5)
    binary = Then(after=lambda x: x[:, :1].sigmoid())
    told = classifier_of(binary, head="probabilities", labels=["no", "yes"])
    odds = told.probabilities(told.logits(images))
    assert torch.allclose(odds[:, 1], pooled_odds(images)[:, 0], atol=1e-5)
    assert torch.allclose(odds.sum(1), torch.ones(2))


def twice(x: Tensor) -> Tensor:
    """Scores of two networks, or of two views or parts of a picture."""
    return torch.stack([x, 2 * x])


# As ensembles, several instances of a picture, hierarchies of classes and careful authors make them.
MADE_OF_PROBABILITIES = {
    "in 16 bits": lambda x: x.softmax(1).bfloat16().float(),
    "kept from zero": lambda x: x.softmax(1) + 1e-5,
    "without the background": lambda x: x.softmax(1)[:, :-1],
    "log_softmax undone": lambda x: x.log_softmax(1).exp()[:, :-1],
    "clamped": lambda x: x.sigmoid().clamp(1e-6, 1 - 1e-6),
    "the other way round": lambda x: 1 - x.sigmoid(),
    "mean of an ensemble": lambda x: twice(x).sigmoid().mean(0),
    "greatest of instances": lambda x: twice(x).sigmoid().amax(0),
    "any of instances": lambda x: 1 - (1 - twice(x).sigmoid()).prod(0),
    "any of instances by logarithms": lambda x: 1 - (-twice(x).sigmoid()).log1p().sum(0).exp(),
    "hierarchy": lambda x: torch.cat([x[:, :1].sigmoid(), x[:, :1].sigmoid() * x[:, 1:].sigmoid()], dim=1),
    "hard": F.hardsigmoid,
}


@pytest.mark.parametrize("kind", MADE_OF_PROBABILITIES)
def test_what_is_made_of_probabilities_is_one(kind, images):
    made, head = MADE_OF_PROBABILITIES[kind], "softmax" if "softmax" in kind else "sigmoid"
    classifier = classifier_of(Then(after=made), head=head)
    with pytest.warns(PhospheneWarning, match=r"Then returns probabilities.*head='probabilities'"):
        logits = forward(classifier, images)
    expected = made(classifier_of(pooled()).logits(images))
    assert torch.allclose(prepare(classifier).probabilities(logits), expected, atol=1e-5)


def test_logarithms_of_probabilities_are_no_scores_of_a_sigmoid(images):
    for after in (
        F.logsigmoid,
        lambda x: x.log_softmax(1),
        lambda x: F.logsigmoid(x)[:, :4],
        lambda x: (x.sigmoid() + 1e-8).log(),
        lambda x: torch.log1p(-x.sigmoid()),
    ):
        with pytest.raises(ModelError, match=r"logarithms of probabilities.*head='softmax'"):
            forward(classifier_of(Then(after=after), head="sigmoid"), images)


def pooled_odds(images: Tensor) -> Tensor:
    return classifier_of(pooled()).logits(images).sigmoid()


def test_what_only_looks_like_probabilities_is_left_alone(images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module, head in (
            (pooled(), "softmax"),
            (Then(after=lambda x: x.log_softmax(1)), "softmax"),
            (Then(after=torch.sigmoid), "score"),
            (Then(after=softmaxed), "score"),
            (linear(), "softmax"),
            (Then(after=lambda x: 0.1 * x * x.mean(1, keepdim=True).sigmoid() + 0.5), "softmax"),  # scores at a gate
            (Then(after=lambda x: 0.5 + 0.1 * F.linear(x.sigmoid(), torch.eye(5))), "sigmoid"),
        ):
            forward(classifier_of(module, head=head), images)


def test_a_head_of_probabilities_that_are_none_is_refused(images):
    with pytest.raises(ModelError, match=r"head='probabilities'.*between 0 and 1"):
        forward(classifier_of(pooled(), head="probabilities"), images)
    with pytest.raises(OptionError, match="choose softmax, sigmoid, probabilities, score"):
        classifier_of(pooled(), head="odds")


class Forced(nn.Module):
    """Dropout that trains whatever it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = pooled(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        self.dropout.training = True
        return self.inner[-1](self.dropout(self.inner[:-1](x)))


NOISY = {
    "forced": Forced,
    "functional": lambda: Then(lambda x: F.dropout(x, 0.5, training=True)),
    "two dimensions": lambda: Then(lambda x: F.dropout2d(x, 0.5, training=True)),
    "noise": lambda: Then(lambda x: x + 0.1 * torch.randn_like(x)),
    "rarely": lambda: Then(after=lambda x: x * (torch.rand(()) > 1e-6)),
}


class OfBytes(nn.Module):
    """Divides pictures by 255 itself."""

    def __init__(self) -> None:
        super().__init__()
        self.network = pooled()

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x / 255 - 0.45) / 0.22)


def test_pictures_that_are_divided_twice_are_told(images):
    fed = classifier_of(pooled()).preprocess
    twice = Classifier(OfBytes(), Preprocess(fed.size))
    with pytest.warns(PhospheneWarning, match=r"OfBytes scales pictures down .* say scale=255"):
        forward(twice, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward(Classifier(OfBytes(), Preprocess(fed.size, scale=255.0)), images)


class Partial(nn.Module):
    """Weighs the border of its first map by how many pixels a window holds there, which a mask of ones tells."""

    def __init__(self) -> None:
        super().__init__()
        self.network = pooled()

    def forward(self, x: Tensor) -> Tensor:
        inside = F.conv2d(torch.ones_like(x[:, :1]), x.new_ones(1, 1, 3, 3), padding=1)
        return self.network[1:](self.network[0](x) * 9 / inside)


def test_a_mask_is_no_picture_that_is_dark(images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward(classifier_of(Partial()), images)


@pytest.mark.parametrize("kind", NOISY)
def test_a_network_that_draws_random_numbers_says_so(kind, images):
    classifier = classifier_of(NOISY[kind]())
    state = torch.get_rng_state()
    with pytest.warns(PhospheneWarning, match=r"draws random numbers.*dropout") as said:
        prepare(classifier).check_images(images)
    assert len(said) == 1
    assert torch.equal(state, torch.get_rng_state())
    notes = explain(classifier, images, "saliency", target=3).notes
    assert any("draws random numbers" in note for note in notes)


def test_dropout_in_eval_mode_is_quiet(images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward(classifier_of(pooled().train()), images)


def quantized() -> nn.Module:
    from torch.ao import quantization

    module = nn.Sequential(
        quantization.QuantStub(),
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
        quantization.DeQuantStub(),
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
        ready = quantization.prepare(module)
        ready(torch.rand(4, 3, 16, 16))
        return quantization.convert(ready)


def dynamic() -> nn.Module:
    from torch.ao import quantization

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return quantization.quantize_dynamic(pooled(), {nn.Linear}, dtype=torch.qint8)


class Int8(nn.Module):
    """A linear layer whose weights are int8, multiplied as integers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = pooled()
        self.register_buffer("weight", torch.randint(-127, 128, (5, 8), dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner[:-1](x)
        return ((x * 16).round().int() @ self.weight.int().t()).float() / 1e4


GRADIENTS = ("saliency", "grad_cam", "guided_backprop", "smoothgrad:samples=2", "integrated_gradients:steps=2")


@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning", "ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize(("make", "named"), [(quantized, "quantized"), (dynamic, "quantized"), (Int8, "Int8")])
def test_integers_have_no_gradient(make, named, images):
    classifier = classifier_of(make())
    for method in GRADIENTS:
        with pytest.raises(ModelError, match=rf"(?s){named}.*occlusion or rise") as caught:
            explain(classifier, images, method, target=3)
        assert "\n" not in str(caught.value)
    for method in ("occlusion:window=8,stride=8", "rise:masks=20,cells=4"):
        result = explain(classifier, images, method, target=3)
        assert result.problems == (None, None)


def int8_that_passes() -> nn.Module:
    class Passes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = pooled()
            self.register_buffer("whole", torch.randint(-127, 128, (5, 8), dtype=torch.int8))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner[:-1](x) @ (self.whole.float() / 100).t()

    return Passes()


def test_integer_weights_that_are_made_floats_have_gradients(images):
    assert explain(classifier_of(int8_that_passes()), images, "saliency", target=3).problems == (None, None)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool, all_of_it: bool = False) -> None:
        super().__init__()
        self.inner = pooled()
        self.reentrant, self.all_of_it = reentrant, all_of_it

    def forward(self, x: Tensor) -> Tensor:
        if self.all_of_it:
            return checkpoint(self.inner, x, use_reentrant=self.reentrant)
        x = self.inner[:4](x)
        x = checkpoint(self.inner[4:7], x, use_reentrant=self.reentrant)
        return self.inner[7:](x)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("all_of_it", [True, False])
def test_checkpoints_are_passed_or_refused(reentrant, all_of_it, images):
    strange, plain = classifier_of(Checkpointed(reentrant, all_of_it)), classifier_of(pooled())
    assert map_error(saliency(strange, images, TARGET).maps, saliency(plain, images, TARGET).maps) < 1e-5
    assert (
        map_error(occlusion(strange, images, TARGET, **WINDOW).maps, occlusion(plain, images, TARGET, **WINDOW).maps)
        < 1e-5
    )
    for layer in ("0", "3", "4", "5", "6"):
        try:
            found = grad_cam(strange, images, TARGET, layer=f"inner.{layer}").maps
        except ModelError as error:
            assert "checkpoint" in str(error)
            assert "\n" not in str(error)
        else:
            assert map_error(found, grad_cam(plain, images, TARGET, layer=layer).maps) < 1e-5
    for method in ("guided_backprop", "deconvnet", "integrated_gradients:steps=3", "input_x_gradient"):
        try:
            found = explain(strange, images, method, target=3).maps
        except ModelError as error:
            assert "checkpoint" in str(error) or "ReLU" in str(error)
        else:
            assert map_error(found, explain(plain, images, method, target=3).maps) < 1e-4


def test_errors_are_of_our_kinds():
    assert issubclass(PhospheneWarning, UserWarning)
    assert not issubclass(PhospheneWarning, PhospheneError)
    assert Classifier(pooled(), Preprocess((16, 16)), head="probabilities").head == "probabilities"
