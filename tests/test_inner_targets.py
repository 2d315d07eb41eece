"""Tokens and directions: against plain autograd, against units, from files, in every command that asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from skimage.data import chelsea
from torch import Tensor, nn

from phosphene import (
    Direction,
    InputError,
    ModelError,
    NotFoundError,
    OptionError,
    Token,
    Unit,
    attribute,
    impress,
    prepare,
)  # fmt: skip
from phosphene.targets import kinds
from tests.batch.small import photos
from tests.cli.running import phosphene as command
from tests.networks import MEAN, STD, classifier_of, pooled
from tests.transformers import VisionTransformer

BLOCK = "blocks.1"  # (N, 17, 12): a class token and 4 x 4 patches


def vit():
    return classifier_of(VisionTransformer())


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def by_hand(net, layer, images, score):
    """(score (N,), input x gradient (N, H, W)) of a function of a layer's output."""
    kept = []
    hook = dict(net.named_modules())[layer].register_forward_hook(lambda *given: kept.append(given[2]))
    leaf = images.clone().requires_grad_()
    net((leaf - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1))
    hook.remove()
    value = score(kept[0])
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), (gradient * images).sum(dim=1)


def same(found, expected):
    score, maps = expected
    torch.testing.assert_close(found.score, score, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.maps, maps, atol=1e-4 * float(maps.abs().max()), rtol=1e-3)


@pytest.mark.parametrize(
    ("target", "score"),
    [
        (Token(BLOCK, 0, 3), lambda x: x[:, 0, 3]),
        (Token(BLOCK, 16, 3), lambda x: x[:, 16, 3]),
        (Token(BLOCK, 0), lambda x: 0.5 * x[:, 0].square().sum(dim=1)),
        (Direction(BLOCK, range(12)), lambda x: x[:, 1:].mean(dim=1) @ torch.arange(12.0)),
        (Direction(BLOCK, channels=(2, 7)), lambda x: x[:, 1:, [2, 7]].mean(dim=(1, 2))),
        (Direction(BLOCK, np.arange(204) / 50), lambda x: x.flatten(1) @ torch.arange(204.0).div(50)),
    ],
    ids=["class token", "patch", "whole token", "channels' vector", "set", "whole vector"],
)
def test_scores_and_gradients_are_those_of_the_formula(target, score, images):
    classifier = vit()
    same(attribute(classifier, images, target, "input_x_gradient"), by_hand(classifier.module, BLOCK, images, score))


def test_the_class_token_is_at_no_place_but_those_of_patches_are():
    network = prepare(vit())
    placed = [Token(BLOCK, token).placed_in(network) for token in (0, 1, 16)]
    assert placed == [False, True, True]


def test_a_direction_in_a_convolution_is_the_weighted_sum_of_its_units(images):
    classifier = classifier_of(pooled())
    vector = torch.linspace(-1, 1, 8)
    found = attribute(classifier, images, Direction("4", vector), "input_x_gradient")
    units = [attribute(classifier, images, Unit("4", channel), "input_x_gradient") for channel in range(8)]
    expected = sum(weight * one.maps for weight, one in zip(vector, units, strict=True))
    torch.testing.assert_close(found.maps, expected, atol=1e-5, rtol=1e-4)
    pair = attribute(classifier, images, Direction("4", channels=(1, 5)), "grad_cam")
    alone = attribute(classifier, images, Direction("4", channels=(1,)), "grad_cam")
    unit = attribute(classifier, images, Unit("4", 1), "grad_cam")
    assert pair.layer == unit.layer == "3"  # what both are computed from
    torch.testing.assert_close(alone.maps, unit.maps)
    assert not torch.allclose(pair.maps, unit.maps)


def test_a_patch_is_a_token_and_a_unit_with_a_place(images):
    token = attribute(vit(), images, Token(BLOCK, 1 + 4 * 2 + 3, 5), "saliency")
    unit = attribute(vit(), images, Unit(BLOCK, 5, (2, 3)), "saliency")
    torch.testing.assert_close(token.maps, unit.maps)


class ChannelsFirst(nn.Module):
    """Tokens as (N, C, T) within."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.mix, self.head = nn.Conv2d(3, 6, 4, 4), nn.Conv1d(6, 6, 1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.patches(x).flatten(2)).relu().mean(dim=2))


def test_tokens_may_come_last(images):
    classifier = classifier_of(ChannelsFirst().eval())
    found = attribute(classifier, images, Token("mix", 9, 4), "input_x_gradient")
    same(found, by_hand(classifier.module, "mix", images, lambda x: x[:, 4, 9]))


@pytest.mark.parametrize(
    ("net", "target", "error", "message"),
    [
        (pooled, Token("4", 0, 1), ModelError, "layer 4 has no tokens: its output is (2, 8, 8, 8)"),
        (VisionTransformer, Token(BLOCK, 17, 1), NotFoundError, "has 17 tokens of 12 channels"),
        (VisionTransformer, Token(BLOCK, 0, 12), NotFoundError, "no token blocks.1=12@0"),
        (VisionTransformer, Token("blocks.9", 0, 1), NotFoundError, "blocks.9"),
        (pooled, Direction("4", (1.0, 2.0)), OptionError, "has 2 values; the output of 4 for one image is (8, 8, 8): "),
        (pooled, Direction("4", channels=(1, 8)), NotFoundError, "no channel 8 in 4: it has 8"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_in_one_line(net, target, error, message, images):
    with pytest.raises(error) as raised:
        attribute(classifier_of(net()), images, target, "saliency")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_target_is_refused():
    for given, message in (
        ({"vector": (0.0, 0.0)}, "points nowhere"),
        ({"vector": (1.0, float("nan"))}, "points nowhere"),
        ({"vector": torch.ones(2, 2)}, "is no vector"),
        ({"vector": "abc"}, "is no vector"),
        ({}, "give a vector, or channels, and not both"),
        ({"vector": (1.0,), "channels": (1,)}, "and not both"),
        ({"channels": (1, 1)}, "name each once"),
        ({"channels": (-1,)}, "from 0"),
    ):
        with pytest.raises(OptionError, match=message):
            Direction("4", **given)
    for given in ((4, 0, 1), ("4", -1, 1), ("4", 0, 1.5), ("4", "class", 1)):
        with pytest.raises(OptionError, match="whole numbers from 0"):
            Token(*given)
    assert {"token", "direction"} <= set(kinds())
    for kind, texts in ((Token, ("4", "4=1", "4=1@", "4=x@2", "4=1@-2", "=1@2")), (Direction, ("4", "4=", "=1,2"))):
        for text in texts:
            with pytest.raises(OptionError, match=f"--{kind.kind} '{text}' is not LAYER="):
                kind.parse(text)


def test_directions_are_read_from_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("one.npy", np.float32([1, 2]))
    np.save("rows.npy", np.float64([[1, 2], [3, 4]]))
    np.save("cube.npy", np.zeros((2, 2, 2)))
    save_file({"snow": np.float32([5, 6]), "fur": np.float16([7, 8])}, "named.safetensors")
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "at@home.npy").write_bytes((tmp_path / "one.npy").read_bytes())
    assert Direction.parse("a.b=one.npy").vector == (1, 2)
    assert Direction.parse("a.b=rows.npy@1").vector == (3, 4)
    assert Direction.parse("a.b=named.safetensors@fur") == Direction(
        "a.b", (7, 8), path="named.safetensors", name="fur"
    )
    assert Direction.parse("a.b=at@home.npy").vector == (1, 2)
    assert Direction.parse("a.b=3,1") == Direction("a.b", channels=(3, 1))
    assert str(Direction.parse("a.b=named.safetensors@fur")) == "a.b=named.safetensors@fur"
    assert str(Direction("a", (1.0, 2.0))) != str(Direction("a", (1.0, 3.0)))
    for text, error, message in (
        ("none.npy", InputError, "none.npy: no such file"),
        ("text.npy", InputError, "is no .npy or .safetensors file"),
        ("cube.npy", InputError, r"holds no directions but \(2, 2, 2\)"),
        ("rows.npy", OptionError, "holds 2 directions; name one, such as rows.npy@0"),
        ("rows.npy@2", NotFoundError, "holds no direction '2'"),
        ("named.safetensors@snw", NotFoundError, "did you mean 'snow'"),
    ):
        with pytest.raises(error, match=message):
            Direction.parse(f"a.b={text}")


def test_they_can_be_drawn():
    classifier = classifier_of(pooled())
    for target in (Direction("4", torch.linspace(-1, 1, 8)), Direction("4", channels=(1, 2))):
        (made,) = impress(classifier, target, "class_model", steps=6, seed=1)
        assert made.image.isfinite().all()
        assert made.label == target.label(())
        start, end = (
            float(attribute(classifier, image[None], target, "saliency").score)
            for image in (torch.full((3, 16, 16), 0.5), made.image.reshape(3, 16, 16))
        )
        assert end > start
    (token,) = impress(vit(), Token(BLOCK, 0, 3), "class_model", steps=4)
    assert token.label == "token blocks.1=3@0"


FACTORY = """
from tests.networks import classifier_of, pooled
from tests.transformers import VisionTransformer
def vit(): return classifier_of(VisionTransformer())
def cnn(): return classifier_of(pooled())
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(FACTORY)
    Image.fromarray(chelsea()).save("photo.jpg")
    np.save("rows.npy", np.eye(8, dtype=np.float32))
    return tmp_path


@pytest.mark.parametrize(
    ("net", "old", "new"),
    [
        ("vit", ["--token", "blocks.1=3@0"], "token:blocks.1=3@0"),
        ("cnn", ["--unit", "4=2"], "direction:4=rows.npy@2"),
        ("cnn", ["--direction", "4=1,5"], "direction:4=1,5"),
    ],
)
def test_explain_asks_for_them(place, net, old, new):
    maps = []
    for number, question in enumerate((old, ["--target", new])):
        given = ["explain", "photo.jpg", "--model", f"nets.py:{net}", *question, "--method", "saliency"]
        outcome = command(*given, "--out", f"run{number}", "--json")
        assert outcome.code == 0, outcome.err
        (row,) = outcome.json["images"][0]["maps"]
        assert row["target"]["index"] is None
        assert row["target"]["label"].endswith((old[1], new.partition(":")[2]))
        maps.append(np.load(row["map"]))
    np.testing.assert_allclose(maps[0], maps[1], atol=1e-6)


def test_impress_asks_for_them(place):
    given = ["impress", "--model", "nets.py:cnn", "--recipe", "class_model", "--steps", "3", "--out", "drawn", "--json"]
    outcome = command(*given, "--direction", "4=rows.npy@2")
    assert outcome.code == 0, outcome.err
    assert outcome.json["impressions"][0]["unit"] == "4=rows.npy@2"


def test_batch_asks_for_them(place):
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = photos(place / "photos", 2)
    given = ["batch", "explain", folder, "--model", "nets.py:cnn", "--workers", 0, "--method", "saliency"]
    outcome = command(*given, "--target", "direction:4=rows.npy@2", "--out", "batched")
    assert outcome.code == 0, outcome.err
    rows = parquet.read_table([str(path) for path in (place / "batched").glob("*.parquet")]).to_pylist()
    assert {row["target_label"] for row in rows} == {"direction 4=rows.npy@2"}


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (["--direction", "4=none.npy"], "none.npy: no such file"),
        (["--direction", "4=rows.npy"], "holds 8 directions"),
        (["--target", "direction:far=1,2"], "far"),
        (["--token", "4=1"], "is not LAYER=CHANNEL@TOKEN"),
        (["--token", "4=1@0", "--direction", "4=1"], "give one of them"),
        (["--direction", "4=1,2", "--versus", "1"], "--direction has no class to be told apart from"),
    ],
)
def test_the_command_refuses_in_one_line(place, question, message):
    outcome = command("explain", "photo.jpg", "--model", "nets.py:cnn", "--method", "saliency", *question)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
