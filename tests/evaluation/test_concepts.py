"""Concept tests on small networks whose slopes are known, against the formula written out, and beside captum."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import t as student
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from torch import nn

from phosphene import Classifier, Preprocess, Unit, prepare
from phosphene.errors import InputError, ModelError, OptionError
from phosphene.evaluation.concepts import ConceptTest, concept_sets, concept_vector, tcav, told_apart
from tests.cli.running import keys, phosphene


class Bent(nn.Module):
    """Its score for class 0 rises with red and falls with blue, by slopes of the picture's own."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
        self.end = nn.Identity()

    def forward(self, x):
        red, green, blue = self.inner(x).mean((2, 3)).unbind(1)
        bent = torch.stack([red * (1 + green) - blue * (1 + red).square(), green], dim=1)
        return self.end(bent)


def bent():
    return prepare(Classifier(Bent(), Preprocess((8, 8)), labels=("red", "green")))


def paint(folder, color, count, seed):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for index in range(count):
        noise = generator.integers(60, 160, (8, 8, 3)) + generator.integers(-20, 20, 3) + np.array(color)
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{index:02d}.png")


@pytest.fixture
def folders(tmp_path):
    paint(tmp_path / "reddish", (90, 0, 0), 12, 1)
    paint(tmp_path / "bluish", (0, 0, 90), 12, 2)
    paint(tmp_path / "plain", (0, 0, 0), 12, 3)
    paint(tmp_path / "random", (0, 0, 0), 240, 4)
    paint(tmp_path / "pictures", (0, 0, 0), 9, 5)
    return tmp_path


def found_in(folders, concepts, **options):
    pictures = sorted((folders / "pictures").iterdir())
    given = {"target": "red", "layers": ["inner"], "sets": 6} | options
    return tcav(bent(), pictures, [folders / name for name in concepts], [folders / "random"], **given)


def test_what_raises_the_score_speaks_for_it_and_what_lowers_it_against_it(folders):
    found = found_in(folders, ["reddish", "bluish"], sets=20)
    red, blue = found.tests
    assert (red.concept, blue.concept, red.layer, red.tests) == ("reddish", "bluish", "inner", 2)
    assert red.score == 1
    assert blue.score == 0
    assert min(red.accuracy, blue.accuracy) > 0.9
    assert red.significant
    assert red.verdict.startswith("speaks for it")
    assert blue.significant
    assert blue.verdict.startswith("speaks against it")
    assert found.images == 9
    assert found.sets == {"reddish": 12, "bluish": 12} | {f"random {n}": 12 for n in range(1, 21)}


def test_a_concept_that_means_nothing_is_not_told_from_random_sets(folders):
    (plain,) = found_in(folders, ["plain"]).tests
    assert not plain.significant
    assert plain.verdict.startswith("not told from random sets")


def test_the_share_is_that_of_the_formula(folders):
    """Slopes of the network by hand, the vectors by the same fit: every single score."""
    found = found_in(folders, ["reddish"])
    groups = concept_sets([folders / "reddish"], [folders / "random"], 6, 0)
    inputs = {name: np.stack([plane(path) for path in paths]).reshape(12, -1) for name, paths in groups.items()}
    pictures = [plane(path) for path in sorted((folders / "pictures").iterdir())]
    names = [name for name in groups if name != "reddish"]
    by_hand = []
    for one, other in [*(("reddish", name) for name in names), *zip(names, [*names[1:], names[0]], strict=True)]:
        vector, _ = concept_vector(inputs[one], inputs[other], 0)
        rising = 0
        for picture in pictures:
            red, green, blue = picture.mean(axis=(1, 2))
            slope = [1 + green - 2 * blue * (1 + red), red, -((1 + red) ** 2)]  # d score / d mean of each channel
            gradient = np.repeat(slope, 64) / 64
            rising += float(gradient @ vector) > 0
        by_hand.append(rising / len(pictures))
    (test,) = found.tests
    assert [*test.scores, *test.chance] == by_hand


def plane(path):
    return np.asarray(Image.open(path), np.float32).transpose(2, 0, 1) / 255


def test_the_vector_is_that_of_the_fit_to_all_values():
    """The authors' fit as it stands, without our way through the span of the rows."""
    generator = np.random.default_rng(0)
    concept, others = generator.normal(0.3, 1, (30, 400)), generator.normal(0, 1, (30, 400))
    rows, truth = np.concatenate([concept, others]), np.repeat([1, 0], 30)
    fitted, held, told, asked = train_test_split(rows, truth, test_size=1 / 3, random_state=2, stratify=truth)
    model = SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=2).fit(fitted, told)
    vector, accuracy = concept_vector(concept, others, 2**62 + 2)
    np.testing.assert_allclose(vector, model.coef_[0] / np.linalg.norm(model.coef_[0]), atol=1e-6)
    assert accuracy == model.score(held, asked)


def test_the_statistic_is_welchs():
    first, second = [0.9, 0.8, 1.0, 0.7], [0.5, 0.1, 0.8, 0.4]
    parts = [np.var(values, ddof=1) / 4 for values in (first, second)]
    t = (np.mean(first) - np.mean(second)) / sum(parts) ** 0.5
    freedom = sum(parts) ** 2 / sum(part**2 / 3 for part in parts)
    assert told_apart(first, second) == pytest.approx((t, 2 * student.sf(abs(t), freedom)))


def test_probabilities_are_corrected_for_all_tests_of_the_call(folders):
    for one in found_in(folders, ["reddish", "bluish", "plain"]).tests:
        assert one.tests == 3
        assert one.p_corrected == min(1, 3 * one.p)
    assert not ConceptTest("a", "b", (1.0,), (0.5,), 1.0, t=3.0, p=0.02, tests=4).significant
    assert "no test" in ConceptTest("a", "b", (1.0,), (0.5,), 1.0, None, None).verdict


def test_a_unit_can_be_asked_instead_of_a_class(folders):
    unit = found_in(folders, ["reddish"], target=Unit("end", 0)).tests[0]
    assert unit.scores == found_in(folders, ["reddish"]).tests[0].scores


def test_the_same_seed_gives_the_same_and_the_order_of_concepts_does_not_matter(folders):
    one, other = (found_in(folders, names, seed=3).tests for names in (["reddish", "plain"], ["plain", "reddish"]))
    assert {test.concept: test.scores for test in one} == {test.concept: test.scores for test in other}


def test_a_layer_behind_which_all_is_linear_is_refused(folders):
    with pytest.raises(OptionError, match="at layer end the gradient is the same for all pictures"):
        found_in(folders, ["reddish"], layers=["end"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": None}, "name one class"),
        ({"target": ["red", "green"]}, "name one class"),
        ({"sets": 2}, "2 random sets; at least 3 are needed"),
        ({"level": 1.0}, "level=1.0 must lie between 0 and 1"),
        ({"layers": ["none"]}, "no layer 'none'"),
        ({"layers": []}, "no layer that concepts are looked for in by default"),
    ],
)
def test_refused(folders, options, message):
    with pytest.raises(OptionError, match=message):
        found_in(folders, ["reddish"], **options)


def test_sets_that_are_too_small_are_refused(folders):
    paint(folders / "few", (0, 0, 0), 4, 6)
    with pytest.raises(InputError, match="few: 4 pictures in a set"):
        found_in(folders, ["few"])
    with pytest.raises(InputError, match="random, cut into 40 random sets: 6 pictures in a set"):
        found_in(folders, ["reddish"], sets=40)
    with pytest.raises(OptionError, match="two concepts are called 'reddish'"):
        found_in(folders, ["reddish", "reddish"])


def test_several_folders_are_a_set_each(folders):
    for number in range(3):
        paint(folders / f"set{number}", (0, 0, 0), 20, 10 + number)
    groups = concept_sets([folders / "reddish"], [folders / f"set{number}" for number in range(3)], 10, 0)
    assert {name: len(paths) for name, paths in groups.items()} == {"reddish": 12} | {
        f"random {n}": 12 for n in (1, 2, 3)
    }
    assert all(path.parent.name == f"set{number}" for number in range(3) for path in groups[f"random {number + 1}"])


def test_a_picture_that_cannot_be_read_is_named_and_the_others_count(folders):
    (folders / "reddish" / "00.png").write_bytes(b"no picture")
    found = found_in(folders, ["reddish", "bluish"])
    assert found.sets["reddish"] == 11
    assert [record.path.rpartition("/")[2] for record in found.broken] == ["00.png"]


def test_outputs_that_are_all_the_same_have_no_concept():
    with pytest.raises(ModelError, match="the same for all pictures"):
        concept_vector(np.zeros((12, 3), np.float32), np.zeros((12, 3), np.float32))


def test_the_scores_are_captums_for_the_same_vectors(folders, tmp_path):
    """captum's TCAV, given our fit of the vectors: the same share of the same pictures."""
    concept = pytest.importorskip("captum.concept", reason="captum is not installed")
    from torch.utils.data import DataLoader

    groups = concept_sets([folders / "reddish"], [folders / "random"], 6, 0)
    rows = {name: torch.stack([torch.from_numpy(plane(path)) for path in paths]) for name, paths in groups.items()}

    class Ours(concept.Classifier):
        def __init__(self):
            self.vector = None

        def train_and_eval(self, dataloader, **_):
            parts = list(dataloader)
            values = torch.cat([values for values, _ in parts]).numpy()
            labels = torch.cat([labels for _, labels in parts]).numpy()
            self.labels = sorted(set(labels.tolist()))
            first, second = (values[labels == label] for label in self.labels)
            self.vector = concept_vector(first, second, 0)[0]
            return {}

        def weights(self):
            return torch.tensor(np.stack([self.vector, -self.vector]))

        def classes(self):
            return self.labels

    made = {
        name: concept.Concept(index, name.replace(" ", "_"), DataLoader(values, batch_size=12))
        for index, (name, values) in enumerate(rows.items())
    }
    pictures = torch.stack([torch.from_numpy(plane(path)) for path in sorted((folders / "pictures").iterdir())])
    theirs = concept.TCAV(Bent(), ["inner"], classifier=Ours(), save_path=str(tmp_path / "cav"))
    pairs = [[made["reddish"], made[f"random {number}"]] for number in range(1, 7)]
    found = theirs.interpret(pictures, pairs, target=0)
    (ours,) = found_in(folders, ["reddish"]).tests
    shares = [float(found[f"0-{number}"]["inner"]["sign_count"][0]) for number in range(1, 7)]
    assert ours.scores == pytest.approx(shares, abs=1e-6)


NETWORK = """
import torch, phosphene

def make():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU()]
    end = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 2)]
    preprocess = phosphene.Preprocess((8, 8))
    return phosphene.Classifier(torch.nn.Sequential(*layers, *end), preprocess, labels=("red", "green"))
"""


def test_the_command(folders, monkeypatch):
    monkeypatch.chdir(folders)
    (folders / "net.py").write_text(NETWORK)
    given = ["evaluate", "concepts", "--model", "net.py:make", "--images", "pictures", "--concept", "reddish"]
    given += ["--random", "random", "--layer", "0", "--sets", "6"]
    outcome = phosphene(*given, "--class", "red", "--out", "run", "--json")
    assert outcome.code == 0, outcome.err
    keys(outcome.json, ["run", "report", "images", "target", "sets", "rows", "errors", "charts"])
    (row,) = outcome.json["rows"]
    keys(row, ["concept", "layer", "score", "random_score", "scores", "random_scores", "accuracy", "t", "p"])
    keys(row, ["p_corrected", "significant", "verdict"])
    assert len(row["scores"]) == len(row["random_scores"]) == 6
    assert "Which concepts speak for red?" in (folders / "run" / "report.html").read_text("utf-8")
    assert json.loads((folders / "run" / "manifest.json").read_text("utf-8"))["rows"][0]["concept"] == "reddish"
    told = phosphene(*given, "--unit", "2=3", "--out", "unit")
    assert told.code == 0
    assert "reddish" in told.out
    both = phosphene(*given, "--unit", "2=3", "--class", "red", "--out", "both")
    neither = phosphene(*given, "--out", "neither")
    assert both.code == neither.code == 2
    assert "--unit 2=3 and a class besides: give one of them" in both.err
    assert "0 classes or targets" in neither.err
    assert not (folders / "both").exists()
