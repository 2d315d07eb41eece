"""What a user's process is in while the library is called: modes, default types, functions of PyTorch exchanged."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

import phosphene
from phosphene.attribution.saliency import saliency
from phosphene.errors import InputError, OptionError
from phosphene.targets import Target
from tests.comparing import map_error
from tests.networks import classifier_of
from tests.robustness.strange import SIZE, Body
from tests.robustness.test_as_written import pictures
from tests.robustness.test_further_networks import default_type
from tests.robustness.test_never_stale_further import MOST, made


class Attending(nn.Module):
    """Patches that look at each other, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x, x, x)[0]).mean(1))


def attending() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Attending().eval()


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", ["cam", "attention_rollout", "attention_relevance"])
def test_another_default_type_changes_no_map(method: str, kind: torch.dtype) -> None:
    images, network = pictures(), made(Body) if method == "cam" else attending()
    wanted = phosphene.attribute(network, images, 1, method).maps
    with default_type(kind):  # (and a new classifier, of which nothing is known)
        found = phosphene.attribute(network, images, 1, method).maps
    assert map_error(found, wanted) <= 1e-5


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_a_direction_under_another_default_type(kind: torch.dtype) -> None:
    images, network, vector = pictures(), made(Body), torch.linspace(-1, 1, 8)
    wanted = phosphene.attribute(network, images, phosphene.Direction("second", vector), "saliency").maps
    with default_type(kind):
        target = phosphene.Direction("second", vector)
        assert map_error(phosphene.attribute(network, images, target, "saliency").maps, wanted) <= 1e-5
    halves = phosphene.Direction("second", vector.bfloat16())  # (NumPy knows no such numbers)
    assert map_error(phosphene.attribute(network, images, halves, "saliency").maps, wanted) <= 0.05


def draws_a_class(classifier: phosphene.Classifier, _folder: Path) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (of companions that are drawn once)
        return phosphene.impress(classifier, 1, "class_impression:steps=2")[0].image


def draws_facets(classifier: phosphene.Classifier, folder: Path) -> Tensor:
    for index in range(6):
        values = torch.rand(20, 20, 3, generator=torch.Generator().manual_seed(index)) * 255
        Image.fromarray(values.byte().numpy()).save(folder / f"{index}.png")
    return phosphene.features(classifier, folder, "second", facets=2, recipe="minds_eye:steps=2")[0].facets[0].image


@pytest.mark.parametrize("draw", [draws_a_class, draws_facets])
def test_drawing_inside_of_inference_mode(
    draw: Callable[[phosphene.Classifier, Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOSPHENE_CACHE", str(tmp_path / "cache"))
    network = made(Body)
    wanted = draw(classifier_of(network, SIZE), tmp_path)
    with torch.inference_mode():
        found = draw(classifier_of(network, SIZE), tmp_path)
    assert torch.equal(torch.as_tensor(found), torch.as_tensor(wanted))


def test_a_function_of_pytorch_that_is_exchanged_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = made(Body)
    classifier, linear, convolved, relu = classifier_of(network, SIZE), F.linear, nn.Conv2d._conv_forward, torch.relu

    def error() -> float:
        leaf = pictures().requires_grad_()
        score = network(classifier.preprocess.normalize(leaf))[:, 1].sum()
        wanted = torch.autograd.grad(score, leaf)[0].abs().amax(1)
        return map_error(saliency(classifier, pictures(), Target.of(1)).maps, wanted)

    assert error() <= MOST
    monkeypatch.setattr(F, "linear", lambda x, weight, bias=None: linear(x, weight.sign() * weight.abs().sqrt(), bias))
    assert error() <= MOST
    monkeypatch.setattr(nn.Conv2d, "_conv_forward", lambda self, x, w, b: convolved(self, x, w - w.mean(), b))
    assert error() <= MOST
    monkeypatch.undo()
    assert error() <= MOST
    monkeypatch.setattr(Body, "above", lambda self, x: self.head(torch.relu(x).mean((2, 3))))
    assert error() <= MOST
    monkeypatch.setattr(torch, "relu", lambda x: relu(x).square())
    assert error() <= MOST


def test_what_has_no_values_is_refused() -> None:
    network = made(Body)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(OptionError, match="outside of the transformation"):
        phosphene.attribute(network, pictures(), 1, "saliency")
    nested = torch.nested.nested_tensor(list(pictures()), layout=torch.jagged)
    with pytest.raises(OptionError, match="nested"):
        phosphene.attribute(network, nested, 1, "saliency")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (of PyTorch, which finds this layout old)
        strided = torch.nested.nested_tensor(list(pictures()), layout=torch.strided)
    for given in (nested, strided, [strided]):
        with pytest.raises(InputError, match=r"pictures as a nested tensor; pass a list of them"):
            phosphene.explain(classifier_of(network, SIZE), given, "saliency", target=1)
    with pytest.raises(OptionError, match="a target that cannot be read"):
        phosphene.attribute(network, pictures(), torch.zeros(3, dtype=torch.long, device="meta"), "saliency")
    with pytest.raises(OptionError, match="a target of no classes"):
        phosphene.attribute(network, pictures(), [], "saliency")
    with pytest.raises(OptionError, match=r"expected a tensor \(N, 3, H, W\) with values in \[0, 1\]$"):
        phosphene.attribute(network, pictures()[:0], 1, "saliency")
    with pytest.raises(InputError, match="has no pixels, 0 x 5"):
        phosphene.explain(classifier_of(network, SIZE), Image.new("RGB", (5, 0)), "saliency", target=1)
