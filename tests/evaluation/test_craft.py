"""CRAFT on networks whose concepts are known, against the formulas written out, and beside the authors' code."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from scipy.optimize import nnls
from torch import Tensor, nn

from phosphene import Classifier, Preprocess, Unit, prepare
from phosphene.errors import InputError, ModelError, OptionError
from phosphene.evaluation.craft import amounts_of, craft, factorized, random_crops, sobol_masks, total_indices
from tests.cli.running import keys, phosphene

SIDE = 24


class Colors(nn.Module):
    """A layer with a channel of red, of green and of blue patches of 4 pixels; class 0 is red, not blue."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 3, 4, 4, bias=False)
        self.parts = nn.ReLU()
        self.scores = nn.Linear(3, 2)
        with torch.no_grad():
            self.patches.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4) / 16)
            self.scores.weight.copy_(torch.tensor([[4.0, 0.2, -1.0], [0.0, 2.0, 0.0]]))
            self.scores.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.parts(self.patches(x)))

    def behind(self, parts: Tensor) -> Tensor:
        """The rest of the network, bent so that concepts work together."""
        means = parts.mean(dim=(2, 3))
        return self.scores(means) + 3 * means[:, :1] * means[:, 1:2]


def colors() -> Classifier:
    return prepare(Classifier(Colors(), Preprocess((SIDE, SIDE)), labels=("red", "green")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures wider than high, each with a red, a green and a blue patch somewhere."""
    place = tmp_path_factory.mktemp("colors")
    generator = np.random.default_rng(0)
    for number in range(8):
        picture = np.zeros((2 * SIDE, 3 * SIDE, 3), np.uint8)
        for channel in range(3):
            top, left = generator.integers(0, 2 * SIDE - 12), generator.integers(12, 3 * SIDE - 24)
            picture[top : top + 12, left : left + 12, channel] = generator.integers(120, 255)
        Image.fromarray(picture).save(place / f"{number}.png")
    return place


def found_in(folder, **options):
    return craft(colors(), sorted(folder.iterdir()), **{"target": "red", "concepts": 3, "crops": 12} | options)


def test_the_concepts_are_those_that_are_there(folder):
    found = found_in(folder, size=0.25, designs=64)
    assert found.layer == "parts"
    assert found.left_over < 0.02
    assert found.crop_count == 96
    assert found.unmoved == 0
    assert abs(found.rebuilt - found.score) < 0.01 * abs(found.score)
    assert found.notes == []
    (note,) = replace(found, rebuilt=0.1 * found.score).notes
    assert "say little" in note
    red, *others = found.concepts
    assert [one.number for one in found.concepts] == [1, 2, 3]
    assert red.importance > 0.6
    assert all(one.importance < 0.3 for one in others)
    assert np.abs(found.vectors[0] - [1, 0, 0]).max() < 0.1
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert found.vectors.min() >= 0
    assert red.drop > 0
    (blue,) = [one for one in found.concepts if found.vectors[one.number - 1].argmax() == 2]
    assert blue.drop < 0
    # What a concept is shown by: of each picture one crop, the best first; and where it is in the whole picture.
    assert len({crop.image for crop in red.crops}) == len(red.crops)
    assert [crop.amount for crop in red.crops] == sorted((crop.amount for crop in red.crops), reverse=True)
    for crop in red.crops[:3]:
        shown = found._cut(crop)
        assert shown[0].mean() > 2 * shown[1:].mean()
    expected = nn.functional.avg_pool2d(found.pictures[:, 0], 4)
    ours = found.maps[:, 0]
    assert np.corrcoef(ours.flatten(), expected.flatten())[0, 1] > 0.98


def test_the_importance_is_jansens_formula(folder):
    """Everything by hand behind the two samples: crops, amounts at places, scores, sums."""
    classifier, designs, count = colors(), 32, 3
    found = found_in(folder, seed=4, designs=designs)
    net = Colors()
    generator = np.random.default_rng(4)
    rows = []
    for image in found.pictures:
        cut, _ = random_crops(image, 12, 1 / 3, generator)
        rows.append(net.parts(net.patches(cut)).mean(dim=(2, 3)).detach().double().numpy())
    rows = np.concatenate(rows)
    amounts, vectors = factorized(rows, count, 4)
    assert found.left_over == pytest.approx(np.linalg.norm(rows - amounts @ vectors) / np.linalg.norm(rows), rel=1e-3)
    masks = sobol_masks(count, designs, 4)
    one, other = masks[:designs], masks[designs : 2 * designs]
    indices, drops = np.zeros((len(found.pictures), count)), np.zeros((len(found.pictures), count))
    for number, image in enumerate(found.pictures):
        parts = net.parts(net.patches(image[None])).detach()
        places = parts[0].flatten(1).T.double().numpy()
        own = np.stack([nnls(vectors.T, row)[0] for row in places])  # (36, K)

        def score(mask, own=own, parts=parts):
            rebuilt = torch.from_numpy((own * mask) @ vectors).float().T.reshape(parts.shape)
            return float(net.behind(rebuilt)[0, 0].detach())

        values = np.array([score(mask) for mask in one]), np.array([score(mask) for mask in other])
        variance = np.concatenate(values).var()
        for concept in range(count):
            total = 0.0
            for row in range(designs):
                mixed = one[row].copy()
                mixed[concept] = other[row, concept]
                total += (values[0][row] - score(mixed)) ** 2
            indices[number, concept] = total / (2 * designs) / variance
            drops[number, concept] = score(np.ones(count)) - score(np.arange(count) != concept)
    order = np.argsort(-indices.mean(axis=0))
    ours = [(one.importance, one.spread, one.drop) for one in found.concepts]
    expected = np.stack([indices.mean(axis=0), indices.std(axis=0), drops.mean(axis=0)], axis=1)[order]
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-4)
    assert classifier.labels[0] == found.target


def test_indices_of_functions_that_are_known():
    """Of a sum the shares of the squares; of the Ishigami function those of its closed form."""
    masks = sobol_masks(3, 4096)[:-4]
    weights = np.array([3.0, 2.0, 1.0])
    np.testing.assert_allclose(total_indices((masks @ weights)[None], 4096)[0], weights**2 / 14, atol=0.01)
    x = np.pi * (2 * masks - 1)
    scores = np.sin(x[:, 0]) + 7 * np.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * np.sin(x[:, 0])
    np.testing.assert_allclose(total_indices(scores[None], 4096)[0], [0.5576, 0.4424, 0.2437], atol=0.02)
    both = total_indices(np.stack([masks @ weights, np.ones(len(masks))]), 4096)
    assert both[1].tolist() == [0, 0, 0]


def test_the_factors_are_not_negative_and_give_the_rows_back():
    generator = np.random.default_rng(0)
    amounts, vectors = generator.gamma(0.4, size=(60, 4)), generator.gamma(0.4, size=(4, 20))
    rows = amounts @ vectors
    ours, parts = factorized(rows, 4, seed=2**62)
    assert min(ours.min(), parts.min()) >= 0
    assert np.linalg.norm(rows - ours @ parts) < 0.02 * np.linalg.norm(rows)
    noisy = rows + generator.normal(size=rows.shape).clip(0)
    np.testing.assert_allclose(amounts_of(noisy, parts), [nnls(parts.T, row)[0] for row in noisy], atol=2e-3)


class Tokens(nn.Module):
    """Tokens with a class token in front, behind a ReLU; the score is read from all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.mlp, self.head = (
            nn.Conv2d(3, 8, 4, 4),
            nn.Sequential(nn.Linear(8, 12), nn.ReLU()),
            nn.Linear(12, 2),
        )
        self.token = nn.Parameter(torch.rand(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        return self.head(self.mlp(tokens).square().mean(dim=1))


def test_tokens_are_taken_apart_too(folder):
    net = prepare(Classifier(Tokens().eval(), Preprocess((SIDE, SIDE))))
    found = craft(net, sorted(folder.iterdir()), target=1, layer="mlp.1", concepts=4, crops=6)
    assert found.maps.shape == (8, 4, 6, 6)
    assert found.vectors.shape == (4, 12)
    assert abs(found.rebuilt - found.score) < 0.2 * abs(found.score)


def test_pictures_whose_score_nothing_changes_do_not_count(folder):
    """A score behind a threshold: of pictures below it no index is defined, and the mean is over the others."""

    middle = float(Colors()(found_in(folder).pictures)[:, 0].median().detach())

    class Threshold(Colors):
        def behind(self, parts: Tensor) -> Tensor:
            return (super().behind(parts) - 0.9 * middle).relu()

    files = sorted(folder.iterdir())
    net = prepare(Classifier(Threshold(), Preprocess((SIDE, SIDE))))
    found = craft(net, files, target=0, layer="parts", concepts=3, crops=12)
    assert 0 < found.unmoved < len(files)
    assert sum(one.importance for one in found.concepts) > 0.9


class Bent(nn.Module):
    """Nothing but outputs below zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.bend, self.pool, self.last = (
            nn.Conv2d(3, 4, 3),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.bend(self.first(x))).flatten(1))


def test_the_layer_of_the_scores_is_no_default(folder):
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    found = craft(prepare(Classifier(net, Preprocess((SIDE, SIDE)))), sorted(folder.iterdir()), target=0, concepts=2)
    assert found.layer == "1"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"concepts": 1}, OptionError, "concepts=1; give at least 2"),
        ({"concepts": 4}, OptionError, "4 concepts in 96 crops and 3 channels"),
        ({"crops": 0}, OptionError, "crops=0"),
        ({"size": 0.0}, OptionError, "size=0.0 of a crop"),
        ({"size": 1.5}, OptionError, "at most 1"),
        ({"designs": 48}, OptionError, "designs=48 is no power of two"),
        ({"target": None}, OptionError, "name one class"),
        ({"layer": "scores"}, ModelError, "no places"),
        ({"target": Unit("patches", 0), "layer": "parts"}, OptionError, "does not depend on layer parts"),
    ],
)
def test_what_cannot_be_done_is_refused(folder, options, error, message):
    with pytest.raises(error) as raised:
        found_in(folder, **options)
    assert message in str(raised.value)


def test_outputs_below_zero_are_refused(folder):
    net, files = prepare(Classifier(Bent().eval(), Preprocess((SIDE, SIDE)))), sorted(folder.iterdir())
    with pytest.raises(ModelError, match="layer first has numbers below zero"):
        craft(net, files, target=0, layer="first", concepts=2)
    with pytest.raises(ModelError, match="no layer with places whose output is nowhere below zero"):
        craft(net, files, target=0, concepts=2)
    with pytest.raises(InputError, match="no picture could be read"):
        craft(net, [folder / "none.png"], target=0, concepts=2)


FACTORY = "from tests.evaluation.test_craft import colors\n"


def height(path):
    with Image.open(path) as picture:
        return picture.height


def test_the_command(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    given = ["evaluate", "craft", "--images", folder, "--images", "broken.jpg", "--model", "net.py:colors"]
    outcome = phosphene(*given, "--class", "red", "--concepts", 3, "--crops", 6, "--out", "run", "--json")
    assert outcome.code == 1, outcome.err
    answer = outcome.json
    keys(answer, ["run", "report", "images", "target", "layer", "crops", "left_over", "score", "rebuilt_score", "rows"])
    keys(answer, ["errors", "charts", "vectors"])
    assert (answer["images"], answer["crops"], answer["target"], answer["layer"]) == (8, 48, "red", "parts")
    assert "broken.jpg" in answer["errors"][0]["error"]
    for row in answer["rows"]:
        keys(row, ["concept", "importance", "spread", "drop", "crops", "pictures"])
        assert height(row["pictures"]["crops"]) > 100
        for crop in row["crops"]:
            x0, y0, x1, y1 = crop["box"]
            assert 0 <= x0 < x1 <= 3 * SIDE
            assert 0 <= y0 < y1 <= 2 * SIDE
    x0, y0, x1, y1 = (round(value) for value in answer["rows"][0]["crops"][0]["box"])
    with Image.open(answer["rows"][0]["crops"][0]["path"]) as picture:
        cut = np.asarray(picture)[y0:y1, x0:x1]
    assert cut[..., 0].mean() > 20
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert page.count("data:image/jpeg") == 6
    assert "Concept 3" in page
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    assert manifest["rows"][0]["pictures"]["maps"] == "concept-1-maps.jpg"
    assert set(load_file(answer["vectors"])) == {"1", "2", "3"}
    again = phosphene("report", "run")
    assert again.code == 0, again.err
    asked = ["explain", folder / "0.png", "--model", "net.py:colors", "--method", "input_x_gradient", "--json"]
    told = phosphene(*asked, "--target", f"direction:parts={answer['vectors']}@1", "--out", "explained")
    assert told.code == 0, told.err
    red = np.load(told.json["images"][0]["maps"][0]["map"])
    assert red.max() > 0
    plain = phosphene(*given[:4], "--model", "net.py:colors", "--unit", "scores=0", "--concepts", 3, "--out", "unit")
    assert plain.code == 0, plain.err
    assert "score without it" in plain.out
    neither = phosphene(*given[:4], "--model", "net.py:colors", "--out", "neither")
    assert neither.code == 2
    assert "0 classes or targets" in neither.err


def test_it_shows_itself(folder, tmp_path):
    found = found_in(folder)
    found.save(tmp_path / "sheet.png")
    assert height(tmp_path / "sheet.png") > 700
    found.save(tmp_path / "sheet.html")
    assert "concept 1: importance" in (tmp_path / "sheet.html").read_text("utf-8")
    assert repr(found).startswith("FoundConcepts(red at parts: 1.00, 0.")


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor", "ignore:Maximum number of iterations")
def test_beside_the_authors_code(folder, monkeypatch):
    """On their crops the same factors and amounts; importances by their own sampler, as near as both are sure."""
    if importlib.util.find_spec("tensorflow") is None:  # (named by one of its files, for what is not asked here)
        monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))
    peers = pytest.importorskip("craft.craft_torch", reason="craft-xai is not installed", exc_type=ImportError)
    net = Colors().eval()
    pictures = found_in(folder).pictures
    theirs = peers.Craft(
        input_to_latent=lambda x: net.parts(net.patches(x)).detach(),
        latent_to_logit=lambda parts: net.behind(parts).detach(),
        number_of_concepts=3,
        patch_size=8,
        batch_size=64,
        device="cpu",
    )
    crops, amounts, vectors = theirs.fit(pictures)
    resized = nn.functional.interpolate(crops, (SIDE, SIDE), mode="bilinear")
    rows = net.parts(net.patches(resized)).mean(dim=(2, 3)).detach().double().numpy()
    ours, parts = factorized(rows, 3)
    np.testing.assert_allclose(ours @ parts, amounts @ vectors, atol=5e-3)
    places = net.parts(net.patches(pictures)).detach().movedim(1, -1)
    own = amounts_of(places.reshape(-1, 3).double().numpy(), vectors.astype(np.float64))
    np.testing.assert_allclose(own, theirs.transform(pictures).reshape(-1, 3), atol=5e-3)
    expected = theirs.estimate_importance(pictures, class_id=0, nb_design=512)
    masks = sobol_masks(3, 512)[:-4]
    scores = []
    for amounts_here in own.reshape(len(pictures), 36, 3):
        rebuilt = torch.from_numpy((amounts_here * masks[:, None]) @ vectors).float()
        rebuilt = rebuilt.movedim(-1, 1).reshape(len(masks), 3, 6, 6)
        scores.append(net.behind(rebuilt)[:, 0].detach().double().numpy())
    found = total_indices(np.stack(scores), 512).mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=0.05)
