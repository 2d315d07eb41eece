"""Any function of pictures as a classifier: what it is given, what it may return, and what is refused by name."""

from __future__ import annotations

import io
import json
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from torch import nn

from phosphene import (
    Classifier,
    ModelError,
    OptionError,
    PhospheneWarning,
    Preprocess,
    ScoreFunction,
    Target,
    Unit,
    attribute,
    explain,
    impress,
    locate,
)
from phosphene.registry import entries
from phosphene.runtime import prepare
from tests.contract import checks
from tests.networks import MEAN, STD, classifier_of, pooled
from tests.serving import scores_service

SCORES_ALONE = {"occlusion", "rise"} | {
    f"captum:{name}" for name in ("feature_ablation", "kernel_shap", "lime", "shapley_value_sampling")
}


def black_box(net: nn.Module) -> ScoreFunction:
    return ScoreFunction(lambda images: net(images).detach(), Preprocess((16, 16), None, MEAN, STD), name="box")


@pytest.mark.parametrize("method", sorted(entries("attribution")))
def test_every_method_gives_the_networks_own_map_or_refuses_in_one_line(method):
    net, images = pooled().eval(), torch.rand(2, 3, 16, 16)
    spec, target = checks.quick_spec(method), Target.of([1, 2])
    box = black_box(net)
    if method in SCORES_ALONE:
        found, expected = (checks.explain(spec, one, images, target) for one in (box, classifier_of(net)))
        assert torch.allclose(found.heat, expected.heat, atol=2e-4 * float(expected.heat.abs().max()))
        return
    with pytest.raises(ModelError) as refusal:
        checks.explain(spec, box, images, target)
    message = str(refusal.value)
    assert "\n" not in message
    assert message.startswith("box is a function of pictures, which has no "), message
    assert message.endswith("use a method that needs scores alone: occlusion, rise or captum:lime"), message


def test_layers_units_and_syntheses_are_refused_by_name():
    box, images = black_box(pooled().eval()), torch.rand(1, 3, 16, 16)
    with pytest.raises(ModelError, match="layer '3' is asked of is a function of pictures, which has no layers"):
        attribute(box, images, 1, "grad_cam", layer="3")
    with pytest.raises(ModelError, match="layer '3' is asked of is a function of pictures, which has no layers"):
        attribute(box, images, Target(unit=Unit("3", 1)), "occlusion:window=4")
    with pytest.raises(ModelError, match="box is a function of pictures, which has no gradient"):
        impress(box, 1, "class_model", steps=1)


def test_an_explanation_without_a_method_covers_the_picture():
    box = black_box(pooled().eval())
    with pytest.warns(PhospheneWarning, match="occlusion in the place of grad_cam: box is a function of pictures"):
        found = explain(box, torch.rand(3, 16, 16), target=1)
    assert str(found).startswith("Attribution(occlusion")
    with pytest.warns(PhospheneWarning, match="occlusion in the place of layer_saliency: box is a function of"):
        located = locate(box, torch.rand(3, 24, 24), target=1)
    assert len(located) == 1


def test_a_function_is_given_batches_unless_its_answer_changes_with_them():
    net, sizes = pooled().eval(), []

    def apart(images: np.ndarray) -> np.ndarray:
        sizes.append(len(images))
        return net(torch.from_numpy(images)).detach().numpy()

    def mixed(images: np.ndarray) -> np.ndarray:
        return apart(images - images.mean(0, keepdims=True) * (len(images) > 1))

    def asking(images: np.ndarray) -> np.ndarray:
        return apart(images) * (2 if images.min() > 0 else 1)  # as "does any of these hold a dark place?"

    images, kept = torch.rand(1, 3, 16, 16), {}
    for function in (apart, mixed, asking):
        sizes.clear()
        box = ScoreFunction(function, Preprocess((16, 16), None, MEAN, STD), takes="array")
        kept[function] = attribute(box, images, 1, "occlusion:window=4,stride=4"), max(sizes)
    (found, most), (other, trial), (asked, tried) = kept.values()
    assert most > 2
    assert not any("one by one" in note for note in found.notes)
    assert trial == 2
    assert any("one by one" in note for note in other.notes)
    assert torch.allclose(found.maps, other.maps, atol=1e-6)
    assert tried == 2
    assert any("one by one" in note for note in asked.notes)


def seen_by(takes: str, preprocess: Preprocess | None = None) -> list[object]:
    """What a function is given of one picture."""
    given: list[object] = []

    def function(images):
        given.append(images)
        return np.zeros((len(images), 2))

    box = ScoreFunction(function, preprocess, takes=takes)
    box.logits(torch.full((1, 3, 4, 5), 0.5))
    return given


def test_what_a_function_is_given():
    (tensor,) = seen_by("tensor", Preprocess((4, 5), None, MEAN, STD))
    assert torch.allclose(tensor[0, :, 0, 0], (0.5 - torch.tensor(MEAN)) / torch.tensor(STD))
    (array,) = seen_by("array", Preprocess((4, 5), None, MEAN, STD))
    assert array.dtype == np.float32
    assert np.array_equal(array, tensor.numpy())
    (pictures,) = seen_by("pictures")
    assert pictures.dtype == np.uint8
    assert pictures.shape == (1, 4, 5, 3)
    assert (pictures == 128).all()


@pytest.mark.parametrize(
    "returned",
    [
        lambda rows: rows,
        lambda rows: rows.astype(np.float64),
        lambda rows: rows.tolist(),
        lambda rows: list(rows),
        lambda rows: torch.from_numpy(rows),
        lambda rows: [torch.from_numpy(row) for row in rows],
        lambda rows: {"best": rows.argmax(1), "scores": rows},
        lambda rows: (rows, 3),
    ],
)
def test_what_a_function_may_return(returned):
    rows = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    box = ScoreFunction(lambda images: returned(rows[: len(images)]))
    assert torch.allclose(box.logits(torch.rand(3, 3, 4, 4)), torch.from_numpy(rows), atol=1e-6)


def test_what_a_function_gets_wrong_is_told_in_one_line():
    images = torch.rand(2, 3, 8, 8)
    for function, said in {
        lambda given: np.zeros(3): r"returned scores of shape \(3,\)",
        lambda given: np.zeros((2, 3), int): "such as indices of classes",
        lambda given: "cat": "cannot run on images of shape",
        lambda given: 1 / 0: "ZeroDivisionError: division by zero",
    }.items():
        with pytest.raises(ModelError, match=said) as refusal:
            attribute(ScoreFunction(function, name="box"), images, 1, "occlusion:window=4,stride=2")
        assert "\n" not in str(refusal.value)
    with pytest.raises(ModelError, match="is a module, which has layers and gradients; give it to Classifier"):
        ScoreFunction(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="needs a function of a batch of pictures, not a int"):
        ScoreFunction(3)
    with pytest.raises(OptionError, match="takes='image' is unknown"):
        ScoreFunction(len, takes="image")
    with pytest.raises(OptionError, match="which are not normalized"):
        ScoreFunction(len, Preprocess((4, 4), None, MEAN, STD), takes="pictures")


def test_a_function_is_never_copied_and_seldom_asked():
    """It may hold a session or a service: it is asked a few times before the first map, then once for each batch."""

    class Service:
        asked = 0

        def __deepcopy__(self, memo):
            raise AssertionError("copied")

        def __call__(self, images):
            self.asked += 1
            return images.mean(dim=(2, 3)) * 4

    service = Service()
    box, images = ScoreFunction(service), torch.rand(1, 3, 8, 8)
    attribute(box, images, 1, "occlusion:window=4,stride=4")
    assert service.asked < 20
    before = service.asked
    attribute(box, images, 1, "occlusion:window=4,stride=4")
    assert service.asked - before <= 3
    assert prepare(box) is prepare(box)
    assert isinstance(box, Classifier)


def redness(pictures: np.ndarray) -> np.ndarray:
    """Scores (N, 2) of pictures (N, H, W, 3): pale and red."""
    red = 0.2 + 0.6 * pictures[..., 0].mean((1, 2)) / 255  # (never 0, whose logarithm has no end)
    return np.stack([1 - red, red], axis=1)


@pytest.mark.parametrize("method", ["rise:masks=1000", "captum:lime:samples=100", "captum:kernel_shap:samples=400"])
def test_a_service_behind_an_address_is_explained_as_the_function_is(method):
    images = (torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    images[:, 0, :, :8], images[:, 0, :, 8:] = 0.0, 1.0

    with scores_service(redness) as address:

        def asked(pictures):
            content = io.BytesIO()
            np.save(content, pictures)
            with urlopen(Request(address, content.getvalue()), timeout=60) as answer:
                return json.load(answer)["scores"]

        facts = (Preprocess((16, 16)), ["pale", "red"], "probabilities")
        found = attribute(ScoreFunction(asked, *facts, takes="pictures", name="service"), images, "red", method)
        expected = attribute(ScoreFunction(redness, *facts, takes="pictures"), images, "red", method)
        assert torch.allclose(found.maps, expected.maps, atol=1e-5 * float(expected.maps.abs().max()))
        half = found.heat.shape[2] // 2
        assert bool((found.heat[:, :, -half:].mean((1, 2)) > found.heat[:, :, :half].mean((1, 2))).all())
    with pytest.raises(ModelError, match=r"service cannot run on images of shape .*URLError") as refusal:
        attribute(ScoreFunction(asked, *facts, takes="pictures", name="service"), images, "red", method)
    assert "\n" not in str(refusal.value)
