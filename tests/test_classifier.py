"""Every kind of head and of output: softmax, sigmoid, plain scores; tensors, tuples, dicts, objects."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from phosphene.attribution.cam import cam
from phosphene.attribution.grad_cam import grad_cam
from phosphene.attribution.occlusion import occlusion
from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import InputError, ModelError, NotFoundError, OptionError, PhospheneWarning
from phosphene.runtime import forward, prepare
from phosphene.score_function import ScoreFunction
from phosphene.targets import Target
from phosphene.tasks.attributions import attribute, explain
from phosphene.tasks.predict import predict
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of, one_channel, pooled

Pair = namedtuple("Pair", "logits features")
Last = namedtuple("Last", "loss embedding logits")


class Returns(nn.Module):
    """The scores of `pooled`, packed by a function."""

    def __init__(self, pack) -> None:
        super().__init__()
        self.inner = pooled()
        self.pack = pack

    def forward(self, x: Tensor):
        return self.pack(self.inner(x), x)


PACKED = {
    "tensor": (lambda scores, x: scores, None),
    "tuple": (lambda scores, x: (scores, x), None),
    "named tuple": (lambda scores, x: Pair(scores, x), None),
    "nested": (lambda scores, x: [(scores, x), x], None),
    "dict": (lambda scores, x: {"features": x, "logits": scores}, None),
    "named last": (lambda scores, x: Last(None, 2 * scores, scores), None),
    "behind none": (lambda scores, x: (None, scores), None),
    "dict in a dict": (lambda scores, x: {"out": {"logits": scores, "epoch": 3}, "loss": None}, None),
    "dict of one": (lambda scores, x: {"anything": scores, "count": 3}, None),
    "object": (lambda scores, x: SimpleNamespace(logits=scores), None),
    "named by key": (lambda scores, x: {"logits": x, "mine": scores}, "mine"),
    "named by place": (lambda scores, x: (x, scores), 1),
    "with places of one": (lambda scores, x: scores[..., None, None], None),
}


@pytest.mark.parametrize("kind", PACKED)
def test_scores_are_found_in_any_output(kind):
    pack, output = PACKED[kind]
    classifier, images, target = (
        classifier_of(Returns(pack), output=output),
        torch.rand(2, 3, 16, 16),
        Target.of([1, 4]),
    )
    plain = classifier_of(pooled())
    assert torch.allclose(forward(classifier, images), forward(plain, images), atol=1e-5)
    for method in (saliency, grad_cam):
        assert map_error(method(classifier, images, target).maps, method(plain, images, target).maps) < 1e-5


@pytest.mark.parametrize(
    ("pack", "output", "message"),
    [
        (
            lambda scores, x: {"a": x, "b": scores},
            None,
            r"several outputs \('a' .*, 'b' \(1, 5\)\); say .*output='b' in",
        ),
        (lambda scores, x: {"a": "x", "b": 3}, None, r"dict without scores \(there is: 'a', 'b'\); name them"),
        (lambda scores, x: {"a": scores}, "b", r"has no 'b' \(there is: 'a' \(1, 5\)\)"),
        (lambda scores, x: (scores,), 3, "has no '3'"),
        (lambda scores, x: x, None, r"returned scores of shape \(1, 3, 16, 16\) for 1 images, not \(1, classes\)"),
    ],
)
def test_what_holds_no_scores_is_named(pack, output, message):
    with pytest.raises(ModelError, match=message):
        classifier_of(Returns(pack), output=output).logits(torch.rand(1, 3, 16, 16))


def test_a_binary_network_of_one_output_has_two_classes():
    classifier = classifier_of(pooled(classes=1), head="sigmoid", labels=["cat", "dog"])
    images = torch.rand(3, 3, 16, 16)
    scores = forward(classifier, images)
    raw = pooled(classes=1)(classifier.preprocess.normalize(images))
    assert torch.allclose(scores, torch.cat([-raw, raw], dim=1), atol=1e-5)
    assert torch.allclose(classifier.probabilities(scores).sum(dim=1), torch.ones(3))
    dog, cat = (saliency(classifier, images, Target.of(index), sign="positive").maps for index in (1, 0))
    assert map_error(dog, saliency(classifier, images, Target.of(0), sign="negative").maps) < 1e-6
    assert not torch.allclose(dog, cat)
    both = [cam(classifier, images, Target.of(index)).maps for index in (0, 1)]
    assert torch.allclose(both[0], -both[1], atol=1e-6)


def test_independent_classes():
    classifier = classifier_of(pooled(), head="sigmoid", labels=list("abcde"))
    scores = forward(classifier, torch.rand(2, 3, 16, 16))
    assert torch.equal(classifier.probabilities(scores), scores.sigmoid())
    best = classifier.predictions(scores, 2)[0]
    assert best[0].probability == pytest.approx(float(scores[0].max().sigmoid()), abs=1e-6)
    assert torch.equal(classifier.score(scores, Target.of(2, score="probability")), scores[:, 2].sigmoid())


def test_a_regression_is_explained_by_its_score():
    classifier, images = classifier_of(pooled(classes=1), head="score"), torch.rand(2, 3, 16, 16)
    scores = forward(classifier, images)
    assert torch.equal(occlusion(classifier, images, Target.of(0), window=(8, 8), stride=(8, 8)).score, scores[:, 0])
    assert saliency(classifier, images, Target.of(0)).maps.shape == (2, 16, 16)
    with pytest.raises(OptionError, match="plain scores: no probability"):
        saliency(classifier, images, Target.of(0, score="probability"))
    with pytest.raises(OptionError, match="at least two classes"):
        saliency(classifier, images, Target.of(0, score="margin"))


def test_one_output_and_softmax_is_refused_aloud():
    """Its probability would be 1 whatever the image, and every map of it zero."""
    with pytest.raises(ModelError, match=r"one output, whose softmax is always 1; use head='sigmoid'"):
        forward(classifier_of(pooled(classes=1)), torch.rand(1, 3, 16, 16))


def test_grey_and_many_channels():
    images = torch.rand(2, 1, 16, 16)
    assert saliency(one_channel(), images, Target.of([0, 1])).maps.shape == (2, 16, 16)
    with pytest.raises(OptionError, match=r"images of shape \(2, 3, 16, 16\); expected a tensor \(N, 1, H, W\)"):
        saliency(one_channel(), torch.rand(2, 3, 16, 16), Target.of(0))
    many = Classifier(
        nn.Sequential(nn.Conv2d(7, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    )
    assert many.preprocess.channels == 7
    assert many.mean_image.shape == (7, 1, 1)
    images = torch.rand(2, 7, 32, 48)
    for method in (saliency, grad_cam, occlusion):
        got = method(many, images, Target.of([0, 1]))
        assert bool(got.heat.any(dim=-1).any())
        assert got.size == (32, 48)
    assert prepare(many).preprocess.channels == 7


def test_a_classifier_is_refused_what_makes_no_sense():
    with pytest.raises(ModelError, match=r"needs a torch\.nn\.Module, not a function"):
        Classifier(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="head 'soft' is unknown"):
        Classifier(pooled(), head="soft")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="2 means but 1 standard deviations"):
        Preprocess(mean=(0, 0), std=(1,))
    with pytest.raises(NotFoundError, match="no class 9; Sequential has 5 classes, 0 to 4"):
        saliency(classifier_of(pooled()), torch.rand(1, 3, 16, 16), Target.of(9))


@pytest.mark.parametrize("size", [(5, 7), (1, 4), (4, 1)])
def test_normalizing_gives_the_same_bits_in_either_layout(size):
    preprocess, images = classifier_of(pooled()).preprocess, torch.rand(3, 3, *size)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = images.clone(memory_format=layout).requires_grad_()
        normalized = preprocess.normalize(leaf)
        normalized.square().sum().backward()
        results.append((normalized.detach(), leaf.grad))
    wanted = torch.stack([(images[:, c] - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    assert torch.allclose(results[0][0], wanted, atol=1e-6)
    assert all(map(torch.equal, *results))


def test_weights_of_the_time_of_caffe_see_bytes_in_bgr():
    preprocess = Preprocess((16, 16), mean=(104, 117, 123), std=(1, 2, 3), scale=255, order="BGR")
    images = torch.rand(2, 3, 16, 16)
    red, green, blue = (255 * images).unbind(dim=1)
    expected = torch.stack([blue - 104, (green - 117) / 2, (red - 123) / 3], dim=1)
    torch.testing.assert_close(preprocess.normalize(images), expected)
    classifier = Classifier(pooled(), preprocess)
    torch.testing.assert_close(classifier.mean_image.flatten(), torch.tensor([123, 117, 104]) / 255)
    filled = classifier.mean_image.expand(1, -1, 16, 16)
    torch.testing.assert_close(preprocess.normalize(filled), torch.zeros(1, 3, 16, 16), rtol=0, atol=1e-4)
    with pytest.raises(OptionError, match="say scale=255"):
        Preprocess(mean=(104, 117, 123), std=(1, 1, 1))
    with pytest.raises(OptionError, match="BGR for three channels"):
        Preprocess(mean=(0.5,), std=(1,), order="BGR")
    with pytest.raises(OptionError, match="scale=0"):
        Preprocess(scale=0)


def test_a_mean_image_is_taken_off_pixel_by_pixel():
    means = np.random.default_rng(0).uniform(90, 140, (3, 16, 16)).astype(np.float32)
    preprocess = Preprocess((16, 16), mean=means, scale=255, order="BGR")
    assert preprocess == Preprocess((16, 16), mean=means, scale=255, order="BGR")
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(preprocess.normalize(images), 255 * images.flip(1) - torch.from_numpy(means))
    classifier = Classifier(pooled(), preprocess)
    zero = preprocess.normalize(classifier.mean_picture((16, 16))[None])
    torch.testing.assert_close(zero, torch.zeros_like(zero), rtol=0, atol=1e-4)
    assert preprocess.normalize(torch.rand(1, 3, 24, 32)).shape == (1, 3, 24, 32)
    found = occlusion(classifier, images, Target.of(0), window=(4, 4), stride=(4, 4))
    assert "the mean is a picture" in found.notes[0]
    covered = images.clone()
    covered[:, :, :4, :4] = classifier.mean_image
    expected = forward(classifier, covered).softmax(dim=1)[:, 0]
    torch.testing.assert_close(found.maps[:, 0, 0], expected)
    with pytest.raises(OptionError, match="mean picture of shape"):
        Preprocess(mean=np.full((3, 2, 2), np.nan))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda images: images.to_sparse(), "sparse"),
        (lambda images: images.to(torch.complex64), "complex"),
    ],
)
def test_images_that_are_no_dense_real_numbers_are_refused(make, what):
    with pytest.raises(OptionError, match=f"images as a {what} tensor; give a dense one"):
        grad_cam(classifier_of(pooled()), make(torch.rand(1, 3, 16, 16)), Target.of(1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_layers_may_be_named_as_the_wrapped_network_has_them():
    module, images = pooled(), torch.rand(1, 3, 16, 16)
    for wrapped, name in ((nn.DataParallel(module), "module.3"), (torch.compile(module), "_orig_mod.3")):
        assert name in dict(wrapped.named_modules())
        assert grad_cam(classifier_of(wrapped), images, Target.of(1), layer=name).layer == "3"
    with pytest.raises(NotFoundError, match="the layer is the whole network; name one inside of it"):
        grad_cam(classifier_of(module), images, Target.of(1), layer=module)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.bool])
def test_images_of_whole_numbers_are_refused(kind):
    images = torch.ones(1, 3, 16, 16, dtype=kind)
    with pytest.raises(OptionError, match=r"images of whole numbers .*give values in \[0, 1\], as images.float"):
        attribute(classifier_of(pooled()), images, 1, "saliency")
    with pytest.raises(OptionError, match="images of type ndarray; expected a tensor"):
        attribute(classifier_of(pooled()), images.numpy(), 1, "saliency")


def test_a_classifier_that_was_not_told_how_pictures_are_prepared_says_so_of_pictures() -> None:
    picture = Image.new("RGB", (16, 12))
    for told in (Classifier(pooled()), Classifier.of(pooled())):
        with pytest.warns(PhospheneWarning, match="was not told how pictures are prepared for it, so it sees them in"):
            explain(told, picture, "saliency", target=1)
        explain(told, torch.rand(3, 12, 16), "saliency", target=1)  # (values in [0, 1] are what it sees)
        explain(told, picture, "saliency", target=1)  # (once is enough)
    stated = Preprocess(None, None, (0.0,) * 3, (1.0,) * 3)
    explain(Classifier(pooled(), stated), picture, "saliency", target=1)
    later = Classifier(pooled())
    assert later.preprocess == stated
    later.preprocess = replace(later.preprocess, size=(12, 16))
    explain(later, picture, "saliency", target=1)
    whole = ScoreFunction(lambda pictures: pictures.mean(axis=(1, 2)), labels=list("abc"), takes="pictures")
    explain(whole, picture, "rise:masks=2", target=1)


def test_a_network_of_one_channel_says_what_its_preprocess_lacks():
    gray = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    words = "its Preprocess makes 3 channels of a picture.* give Preprocess.size, mean=..., std=.... .*with 1 each"
    with pytest.raises(ModelError, match=words):
        predict(Classifier(gray, Preprocess((16, 16))), np.zeros((16, 16)))


def test_tensors_that_are_normalized_are_told_where_they_belong():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    classifier, batch = Classifier(network, Preprocess((16, 16))), torch.randn(2, 3, 16, 16)
    # (A classifier that normalizes by itself would do it a second time there.)
    words = r"normalised tensors go to phosphene\.attribute with the bare network, or Classifier\.of\(network\)"
    with pytest.raises(InputError, match=words):
        explain(classifier, batch, "saliency")
    with pytest.raises(InputError, match="item 1 is a list; of a DataLoader pass the pictures of a batch alone"):
        explain(classifier, iter([[batch, torch.tensor([0, 1])]]), "saliency")
