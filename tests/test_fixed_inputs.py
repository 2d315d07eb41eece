"""Networks of several inputs: the maps are those of the same network with the others built in, by every method."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea, coffee
from torch import Tensor, nn

from phosphene import Classifier, ModelError, OptionError, Preprocess, ScoreFunction, Target, Unit, attribute, explain
from phosphene.registry import entries
from phosphene.runtime import forward, prepare
from phosphene.zoo.choice import weights_hash
from tests.cli.running import phosphene as command
from tests.contract import checks
from tests.networks import classifier_of

AGE = torch.tensor([[0.3, -1.2]])


class Aged(nn.Module):
    """Features of a picture, scaled by what two numbers say, and the numbers themselves: all goes into the scores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
        )
        self.gate, self.head = nn.Linear(2, 8), nn.Linear(10, 5)

    def forward(self, image: Tensor, age: Tensor) -> Tensor:
        pooled = self.features(image).mean(dim=(2, 3)) * self.gate(age)
        return self.head(torch.cat([pooled, age], dim=1))


class Sum(Aged):
    """The same without a product, which relevance has no rule for."""

    def forward(self, image: Tensor, age: Tensor) -> Tensor:
        return self.head(torch.cat([self.features(image).mean(dim=(2, 3)), age], dim=1))


class Pair(nn.Module):
    """Two pictures that go through different layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.one, self.other = (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(12, 4)

    def forward(self, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
        parts = [self.one(left).mean(dim=(2, 3)), self.other(right).mean(dim=(2, 3))]
        return scale * self.head(torch.cat(parts, dim=1))


class BuiltIn(nn.Module):
    """A network of several inputs with the others as constants: the oracle, and what had to be written before."""

    def __init__(self, inner: nn.Module, explained: str, **fixed: object) -> None:
        super().__init__()
        self.inner, self.explained, self.fixed = inner, explained, fixed

    def forward(self, images: Tensor) -> Tensor:
        fixed = {
            name: value.repeat(images.shape[0], *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value
            for name, value in self.fixed.items()
        }
        return self.inner(**{self.explained: images}, **fixed)


@pytest.mark.parametrize("method", sorted(entries("attribution")))
def test_every_method_gives_the_map_of_the_network_with_the_others_built_in(method):
    net = (Sum if method in ("lrp", "attn_lrp") else Aged)().eval()
    images, spec = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)), checks.quick_spec(method)
    ours, oracle = classifier_of(net, inputs={"age": AGE}), classifier_of(BuiltIn(net, "image", age=AGE).eval())
    outcomes = []
    for one in (ours, oracle):
        try:
            outcomes.append(checks.explain(spec, one, images, Target.of([1, 2])))
        except ModelError as error:
            outcomes.append(str(error).partition(": ")[0][:40])
    found, expected = outcomes
    if isinstance(expected, str):
        assert isinstance(found, str), (method, expected)
        return
    assert torch.allclose(found.score, expected.score, atol=1e-5)
    assert torch.allclose(found.heat, expected.heat, atol=2e-4 * float(expected.heat.abs().max())), method
    assert "inner." not in str(found.layer)


def test_either_of_two_pictures_is_explained():
    net, shots = Pair().eval(), torch.rand(2, 3, 12, 12)
    left, right = shots[:1], shots[1:]
    for picture, other, name, fixed in ((left, right, "left", "right"), (right, left, "right", "left")):
        for explained in (None, name):
            classifier = Classifier(net, inputs={fixed: other, "scale": 2.0}, explained=explained)
            for method in ("saliency", "grad_cam", "occlusion:window=4,stride=4", "integrated_gradients:steps=8"):
                found = attribute(classifier, picture, 3, method)
                assert found.layer in (None, "one" if name == "left" else "other")
                oracle = Classifier(BuiltIn(net, name, scale=2.0, **{fixed: other}))
                layer = {"layer": f"inner.{found.layer}"} if found.layer else {}
                expected = attribute(oracle, picture, 3, method, **layer)
                assert torch.allclose(found.maps, expected.maps, atol=1e-4 * float(expected.maps.abs().max()))
    with pytest.raises(ModelError, match=r"layer 'other.1' of Pair is of inputs that are fixed, not of the picture"):
        attribute(Classifier(net, inputs={"right": right}), left, 3, "grad_cam", layer="other.1")
    with pytest.raises(ModelError, match=r"layer 'one.0' of Pair is of inputs that are fixed, not of the picture"):
        explain(Classifier(net, inputs={"left": left}), right, "occlusion", target=Unit("one.0", 2))


def test_values_that_are_no_row_are_handed_over_as_they_are():
    class Words(nn.Module):
        """Likeness to K texts: a table (K, D) that is no row for each image; works in place on it."""

        def forward(self, image: Tensor, words: Tensor, mode: str, indices: Tensor) -> Tensor:
            assert mode == "cosine"
            assert indices.dtype == torch.int64
            words += 0.0
            return image.mean(dim=(2, 3)) @ words.add_(1).T

    table, images = np.arange(12, dtype=np.float64).reshape(4, 3), torch.rand(5, 3, 8, 8)
    classifier = Classifier(Words(), inputs={"words": table, "mode": "cosine", "indices": torch.arange(4)})
    expected = images.mean(dim=(2, 3)) @ (torch.from_numpy(table).float() + 1).T
    for _ in range(2):
        assert torch.allclose(forward(classifier, images), expected, atol=1e-5)
    assert table[0, 0] == 0


def test_given_values_share_what_was_prepared_and_are_never_stale():
    net, images = Aged().eval(), torch.rand(3, 3, 16, 16)
    classifier = classifier_of(net, inputs={"age": AGE})
    first = prepare(classifier)
    others = [classifier.given(age=torch.tensor([[float(row), 1.0]])) for row in range(3)]
    for row, one in enumerate(others):
        expected = net(classifier.preprocess.normalize(images), torch.tensor([[float(row), 1.0]]).expand(3, -1))
        assert torch.allclose(forward(one, images), expected, atol=1e-5)
        assert prepare(one).network is first.network
        assert prepare(one) is prepare(one)
        seen, same = explain(one, images[:1], "saliency"), attribute(one, images[:1], None, "saliency")
        assert torch.allclose(seen.maps, same.maps, atol=1e-6)
    assert torch.allclose(forward(classifier, images), net(classifier.preprocess.normalize(images), AGE.expand(3, -1)))
    again = others[0].given(age=AGE)
    assert torch.equal(forward(again, images), forward(classifier, images))
    with torch.no_grad():
        net.head.bias += 1
    expected = net(classifier.preprocess.normalize(images), torch.tensor([[2.0, 1.0]]).expand(3, -1))
    assert torch.allclose(forward(others[2], images), expected, atol=1e-5)
    assert weights_hash(others[0]) != weights_hash(others[1])
    here = weakref.ref(prepare(classifier).network)
    del classifier, first, others, again, one
    gc.collect()
    assert here() is None


def test_what_makes_no_sense_is_refused_in_one_line():
    net, image = Aged().eval(), torch.rand(1, 3, 16, 16)
    with pytest.raises(ModelError, match=r"Aged takes 'age' besides the pictures; fix .*inputs=\{'age': value\}"):
        attribute(Classifier(net), image, 1, "saliency")
    for facts, kind, said in (
        (
            {"inputs": {"agee": AGE}},
            OptionError,
            "Aged takes no input 'agee' .it takes image, age.; did you mean 'age'",
        ),
        ({"inputs": {"age": AGE}, "explained": "age"}, OptionError, "input 'age' is fixed and explained; choose one"),
        ({"explained": "imag"}, OptionError, "takes no input 'imag'"),
        ({"explained": "age"}, ModelError, "Aged takes 'image' besides the pictures"),
        ({"inputs": [AGE]}, OptionError, "inputs of type list; give a dict"),
        ({"inputs": lambda item: {}, "explained": "imag"}, OptionError, "takes no input 'imag'"),
    ):
        with pytest.raises(kind, match=said) as refusal:
            Classifier(net, **facts)
        assert "\n" not in str(refusal.value)
    told = Classifier(net, inputs=lambda item: {"age": AGE})
    with pytest.raises(ModelError, match=r"takes inputs that are told of each picture.*classifier.given"):
        attribute(told, image, 1, "saliency")
    with pytest.raises(OptionError, match="takes no input 'size'"):
        told.given(size=3)
    assert attribute(told.given(age=AGE), image, 1, "saliency").maps.any()
    with pytest.raises(TypeError, match="inputs"):
        ScoreFunction(len, inputs={"age": AGE})


FACTORY = """
import torch
from phosphene import Classifier, Preprocess
from tests.test_fixed_inputs import Aged

def each(item):
    return {"age": torch.tensor([[float(item.columns["age"]), 1.0]])}

def once():
    return Classifier(Aged().eval(), Preprocess((16, 16)), list("abcde"), inputs={"age": torch.tensor([[0.5, 1.0]])})

def told():
    return Classifier(Aged().eval(), Preprocess((16, 16)), list("abcde"), inputs=each)
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Two photographs, one of them twice with another age, and one whose age is no number."""
    monkeypatch.chdir(tmp_path)
    for name, shot in (("cat", chelsea()), ("cup", coffee())):
        Image.fromarray(shot).resize((64, 64)).save(f"{name}.png")
    Path("net.py").write_text(FACTORY)
    Path("people.csv").write_text("path,age\ncat.png,1.5\ncup.png,-2\ncat.png,3\ncup.png,old\n")


@pytest.mark.usefixtures("table")
def test_inputs_of_a_run_and_of_each_picture_from_a_factory_file():
    outcome = command("explain", "cat.png", "--model", "net.py:once", "--method", "saliency", "--out", "one", "--json")
    assert outcome.code == 0, outcome.err
    common = ("people.csv", "--model", "net.py:told")
    outcome = command("explain", *common, "--class", "b", "--method", "saliency", "--out", "run", "--json")
    assert outcome.code == 1
    rows = outcome.json["images"]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "error"]
    assert "cup.png: what the network takes besides the picture cannot be told (ValueError" in rows[3]["error"]
    classifier = Classifier(Aged().eval(), Preprocess((16, 16)), list("abcde"), inputs={"age": AGE})
    for row, (picture, age) in zip(rows, (("cat", 1.5), ("cup", -2.0), ("cat", 3.0)), strict=False):
        own = explain(classifier.given(age=torch.tensor([[age, 1.0]])), f"{picture}.png", "saliency", target=1)
        assert row["maps"][0]["score"] == pytest.approx(float(own.score), rel=1e-4)
        assert np.allclose(np.load(Path("run") / row["maps"][0]["map"]), own.maps[0].numpy(), atol=1e-6)
    outcome = command("predict", *common, "--out", "guessed", "--json")
    assert [row["status"] for row in outcome.json["images"]] == ["ok", "ok", "ok", "error"]
    method = ("--method", "saliency", "--segment", "threshold")
    outcome = command("locate", *common, "--class", "b", *method, "--out", "found", "--json")
    assert [row["error"] is None for row in outcome.json["images"]][:3] == [True] * 3
    refused = command(
        "impress", "b", "--model", "net.py:told", "--recipe", "class_model", "--steps", "1", "--out", "no"
    )
    assert refused.code == 2
    assert "takes inputs that are told of each picture of a source" in refused.err


@pytest.mark.usefixtures("table")
def test_a_batch_run_tells_each_picture_its_inputs():
    parquet = pytest.importorskip("pyarrow.parquet")
    arguments = ("people.csv", "--model", "net.py:told", "--method", "saliency", "--class", "b", "--workers", "0")
    assert command("batch", "explain", *arguments, "--out", "many").code == 1
    rows = [row for path in sorted(Path("many").rglob("*.parquet")) for row in parquet.read_table(path).to_pylist()]
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "error"]
    assert rows[0]["score"] != pytest.approx(rows[2]["score"], rel=1e-3)


class Placed(Aged):
    """Takes the picture alone."""

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(image, AGE.expand(len(image), -1))


class ByName(Placed):
    """Takes it by its name alone, as networks of transformers do."""

    def forward(self, *, pixel_values: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(pixel_values)


def test_a_picture_taken_by_name_alone_is_given_by_that_name() -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    named, placed = (forward(classifier_of(kind(), 16), images) for kind in (ByName, Placed))
    torch.testing.assert_close(named, placed)
