"""What networks return: a row of scores for each image, or a refusal that says what came and what is expected."""

from __future__ import annotations

import re
from collections import namedtuple
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from phosphene.attribution.occlusion import occlusion
from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.runtime import forward
from phosphene.targets import Target
from phosphene.tasks.attributions import explain
from phosphene.zoo import load_classifier
from tests.cli.running import phosphene as command
from tests.comparing import map_error
from tests.networks import classifier_of, pooled
from tests.test_classifier import Returns

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))

# What is done to the scores (N, 5) of images, and of which counts of images it is read rightly.
KEPT = {
    "squeezed": (lambda scores, x: scores.squeeze(), (1, 2)),
    "squeezed after pooling": (lambda scores, x: scores[..., None, None].squeeze(), (1, 2)),
    "one row taken": (lambda scores, x: scores[0], (1,)),
    "in a tuple": (lambda scores, x: (scores.squeeze(), x), (1, 2)),
    "in a dict": (lambda scores, x: {"logits": scores.squeeze(0)}, (1, 2)),
    "in a tuple of dicts": (lambda scores, x: ({"logits": scores}, {"aux": x}), (1, 2)),
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_lost_batch_axis_is_found_again(kind):
    pack, counts = KEPT[kind]
    strange, plain = classifier_of(Returns(pack)), classifier_of(pooled())
    for count in counts:
        images = IMAGES[:count]
        assert torch.allclose(forward(strange, images), forward(plain, images), atol=1e-5)
        assert torch.allclose(strange.logits(images), plain.logits(images), atol=1e-5)
        target = Target.of(4)
        assert map_error(saliency(strange, images, target).maps, saliency(plain, images, target).maps) < 1e-5
    if kind == "one row taken":  # of several windows it is none for each
        return
    window = {"window": (8, 8), "stride": (8, 8)}
    found, expected = (occlusion(one, IMAGES[:1], Target.of(4), **window) for one in (strange, plain))
    assert map_error(found.maps, expected.maps) < 1e-5


class Squeezed(nn.Module):
    """One score for each image, the axis of scores squeezed away, and with it that of a lone image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = pooled(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).squeeze()


@pytest.mark.parametrize("facts", [{"head": "score"}, {"head": "sigmoid", "labels": ["no", "yes"]}])
def test_one_score_for_each_image(facts):
    strange, plain = classifier_of(Squeezed(), **facts), classifier_of(pooled(1), **facts)
    for count in (1, 3):
        assert torch.allclose(forward(strange, IMAGES[:count]), forward(plain, IMAGES[:count]), atol=1e-6)


def detections(scores: Tensor, x: Tensor) -> list[dict[str, Tensor]]:
    return [{"boxes": x[0, 0, :5, :4], "labels": torch.arange(5), "scores": row} for row in scores]


REFUSED = {
    "detections": (detections, r"list of dicts \(boxes, labels, scores\).*one row of scores for each image"),
    "one dict of detections": (lambda scores, x: detections(scores, x)[0], "boxes, labels, scores"),
    "no detections": (lambda scores, x: [], "list without scores"),
    "windows": (lambda scores, x: scores.repeat(4, 1), r"\(8, 5\) for 2 images.*\(2, classes\)"),
    "patches": (lambda scores, x: scores[:, None].expand(-1, 7, -1).flatten(0, 1), r"\(14, 5\) for 2 images"),
    "fewer rows": (lambda scores, x: scores[:1], r"\(1, 5\) for 2 images"),
    "the other way round": (lambda scores, x: scores.t(), r"\(5, 2\) for 2 images"),
    "the mean of the batch": (lambda scores, x: scores.mean(0), r"\(5,\) for 2 images"),
    "a number": (lambda scores, x: scores.sum(), r"\(\) for 2 images"),
    "a map": (lambda scores, x: x, r"\(2, 3, 16, 16\)"),
    "no class at all": (lambda scores, x: scores[:, :0], r"\(2, 0\)"),
    "indices": (lambda scores, x: scores.argmax(1), "int64.*scores"),
    "indices in rows": (lambda scores, x: scores.argsort(1), "int64.*scores"),
    "booleans": (lambda scores, x: scores > 0, "bool.*scores"),
    "complex numbers": (lambda scores, x: scores * 1j, "complex64.*scores"),
    "an array": (lambda scores, x: scores.detach().numpy(), "ndarray without scores"),
    "nothing": (lambda scores, x: None, "NoneType without scores"),
    "text": (lambda scores, x: ["cat", "dog"], "list without scores"),
    "a sequence of texts": (lambda scores, x: "cat", "str without scores"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("method", [None, "saliency", "grad_cam", "occlusion:window=8,stride=8", "cam"])
def test_what_is_no_row_for_each_image_is_refused(kind, method):
    pack, message = REFUSED[kind]
    classifier, images = classifier_of(Returns(pack)), IMAGES[:2]
    message = message if method in (None, "saliency") else "."
    asked = (
        partial(classifier.logits, images) if method is None else partial(explain, classifier, images, method, target=0)
    )
    with pytest.raises(ModelError, match=message) as caught:
        asked()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["windows", "patches", "the other way round", "detections"])
def test_of_one_image_too(kind):
    with pytest.raises(ModelError):
        forward(classifier_of(Returns(REFUSED[kind][0])), IMAGES[:1])


class Heads(nn.Module):
    """Two questions about a picture, in a dict or a tuple."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = pooled(), kind

    def forward(self, x: Tensor):
        color, shape = self.inner(x)[:, :3], 2 * self.inner(1 - x)
        return {"color": color, "shape": shape} if self.kind == "dict" else (color, shape)


HEADS = {"dict": ("color", "shape"), "tuple": (0, 1)}


@pytest.mark.parametrize("kind", HEADS)
def test_of_several_outputs_one_is_named(kind):
    net = Heads(kind).eval()
    for key, columns in zip(HEADS[kind], (3, 5), strict=True):
        classifier = classifier_of(net, output=key)
        assert forward(classifier, IMAGES).shape == (4, columns)
        alone = classifier_of(Picked(net, key).eval())
        for method in ("saliency", "grad_cam", "occlusion:window=8,stride=8", "rise:masks=8"):
            found, expected = (explain(one, IMAGES[:2], method, target=2) for one in (classifier, alone))
            assert map_error(found.heat, expected.heat) < 1e-4
    shown = ", ".join(f"{key!r} (2, {columns})" for key, columns in zip(HEADS[kind], (3, 5), strict=True))
    for method in ("saliency", "cam", "occlusion:window=8,stride=8"):
        with pytest.raises(
            ModelError, match=f"several outputs {re.escape(f'({shown})')}; say which.*output="
        ) as caught:
            explain(classifier_of(net), IMAGES[:2], method, target=2)
        assert "\n" not in str(caught.value)


class Picked(nn.Module):
    """One output of a network by itself."""

    def __init__(self, inner: nn.Module, key: str | int) -> None:
        super().__init__()
        self.inner, self.key = inner, key

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[self.key]


def test_labels_tell_the_first_of_several_outputs():
    """An embedding beside the scores is no score: it has not as many columns as there are labels."""
    both = classifier_of(Returns(lambda scores, x: (scores, x.mean(dim=(2, 3)))), labels=list("abcde"))
    assert torch.allclose(forward(both, IMAGES), forward(classifier_of(pooled()), IMAGES), atol=1e-5)
    with pytest.raises(ModelError, match=r"several outputs \(0 \(4, 5\), 1 \(4, 3\)\)"):
        forward(classifier_of(both.module), IMAGES)
    with pytest.raises(ModelError, match="several outputs"):
        forward(classifier_of(Heads("tuple").eval(), labels=list("abcde")), IMAGES)


@pytest.mark.parametrize(
    "before",
    [lambda x: x[:, :2], lambda x: x.mean(dim=(1, 2, 3)), lambda x: x.flatten(2)],
    ids=["maps", "numbers", "tokens"],
)
def test_what_stands_before_the_scores_is_not_read_as_them(before):
    """Numbers, one for each image, were; of features nothing said which output to name."""
    both = Returns(lambda scores, x: (before(x), scores))
    with pytest.raises(ModelError, match=r"returns several outputs \(0 .*, 1 \(4, 5\)\); say .*output=1"):
        forward(classifier_of(both), IMAGES)
    named = forward(classifier_of(both, output=1), IMAGES)
    assert torch.allclose(named, forward(classifier_of(pooled()), IMAGES), atol=1e-5)


Named = namedtuple("Named", "logits aux")


def test_a_field_named_after_the_scores_is_no_guess():
    """As networks with a second classifier return them while they are trained."""
    both = classifier_of(Returns(lambda scores, x: Named(scores, scores.flip(1))))
    assert torch.allclose(forward(both, IMAGES), forward(classifier_of(pooled()), IMAGES), atol=1e-5)


FACTORY = """
import phosphene
from tests.test_outputs import Heads

def make():
    return phosphene.Classifier(Heads("dict").eval(), phosphene.Preprocess((16, 16)))
"""


def test_commands_name_an_output_behind_the_model_or_in_the_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(FACTORY)
    Image.fromarray((IMAGES[0] * 255).byte().permute(1, 2, 0).numpy()).save("photo.png")
    common = ("photo.png", "--method", "saliency", "--json")
    refused = command("explain", *common, "--model", "net.py:make", "--out", "no")
    assert refused.code != 0
    assert "several outputs ('color' (1, 3), 'shape' (1, 5)); say which" in refused.out + refused.err
    runs = [
        command("explain", *common, "--out", str(place), *arguments).json
        for place, arguments in enumerate(
            [
                ("--model", "net.py:make@shape", "--class", "4"),
                ("--model", "net.py:make", "--target", "output:shape=4"),
                ("--model", "net.py:make", "--target", "output:color"),
            ]
        )
    ]
    first, second, third = (run["images"][0] for run in runs)
    assert first["maps"][0]["score"] == second["maps"][0]["score"]
    assert first["maps"][0]["target"]["index"] == 4
    assert (len(second["predicted"]), len(third["predicted"])) == (5, 3)
    assert command("predict", "photo.png", "--model", "net.py:make@color", "--out", "guess").code == 0
    wrong = command("explain", *common, "--model", "net.py:make@size", "--out", "wrong")
    assert "has no 'size' (there is: 'color' (1, 3), 'shape' (1, 5))" in wrong.out + wrong.err
    for typed in ("output:=3", "output:"):
        assert command("explain", *common, "--model", "net.py:make", "--target", typed).code == 2
    assert load_classifier("net.py:make@shape").output == "shape"


def test_a_key_that_holds_no_scores_is_refused():
    classifier = classifier_of(Returns(lambda scores, x: {"a": scores, "b": "text"}), output="b")
    with pytest.raises(ModelError, match="str"):
        classifier.logits(IMAGES)


def test_a_classifier_is_still_made_by_hand():
    assert Classifier(pooled()).read(torch.rand(2, 5)).shape == (2, 5)
