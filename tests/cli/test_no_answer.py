"""One picture that the network has no number for, or a name like a number, never loses or misleads a whole run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.running import phosphene

MODEL = """
from phosphene.classifier import Classifier, Preprocess
from tests.networks import NotANumber

def make():
    return Classifier(NotANumber(), Preprocess((16, 16), None, (0.5,) * 3, (0.5,) * 3), ["1", "10", "2", "top2", "x"])
"""


@pytest.fixture
def folder(tmp_path):
    """Dark pictures, which the network takes, and a bright one, whose scores are NaN."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    generator = np.random.default_rng(0)
    for index in range(12):
        values = generator.integers(0, 100, (20, 20, 3)) + (150 if index == 5 else 0)
        Image.fromarray(values.astype(np.uint8)).save(pictures / f"{index:02d}.png")
    (tmp_path / "net.py").write_text(MODEL)
    return tmp_path


def run(folder, *arguments):
    return phosphene(*arguments, "--model", f"{folder / 'net.py'}:make", "--out", folder / "out", "--json")


@pytest.mark.parametrize("scale", ["image", "shared"])
@pytest.mark.parametrize("more", [[], ["--class", "x"], ["--class", "x", "--versus", "2"], ["--unit", "conv=1"]])
def test_a_report_without_that_picture(folder, scale, more):
    files = [folder / "pictures" / f"0{index}.png" for index in (4, 5, 6)]
    outcome = run(folder, "explain", *files, "--scale", scale, "--method", "saliency", "--method", "grad_cam", *more)
    assert outcome.code == 1
    rows = outcome.json["images"]
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert "NaN or infinite" in rows[1]["error"]
    assert all(len(row["maps"]) == 2 for row in (rows[0], rows[2]))
    assert (folder / "out" / "report.html").is_file()


def test_objects_without_that_picture(folder):
    files = [folder / "pictures" / f"0{index}.png" for index in (5, 6)]
    outcome = run(folder, "locate", *files)
    assert "NaN or infinite" in outcome.json["images"][0]["error"]
    assert "NaN or infinite" not in str(outcome.json["images"][1])
    assert (folder / "out" / "report.html").is_file()


def test_activations_of_that_picture(folder):
    outcome = run(folder, "activations", folder / "pictures" / "05.png", "--layer", "conv")
    assert outcome.code == 0
    assert (folder / "out" / "report.html").is_file()


@pytest.mark.parametrize("kind", ["faithfulness", "sanity"])
def test_evaluations_without_that_picture(folder, kind):
    outcome = run(folder, "evaluate", kind, "--images", folder / "pictures", "--method", "saliency")
    assert outcome.json["images"] == 11
    assert "NaN or infinite" in str(outcome.json["errors"])


def test_a_localization_without_that_picture(folder):
    boxes = {f"{index:02d}.png": [[2, 2, 12, 12]] for index in range(12)}
    lines = ["file,class,x0,y0,x1,y1", *(f"{name},x,2,2,12,12" for name in boxes)]
    (folder / "boxes.csv").write_text("\n".join(lines))
    outcome = run(
        folder, "evaluate", "localization", "--images", folder / "pictures", "--boxes", folder / "boxes.csv",
        "--method", "saliency", "--segment", "threshold",
    )  # fmt: skip
    assert outcome.json["images"] == 11, outcome.err


def test_features_without_that_picture(folder):
    outcome = run(
        folder, "features", folder / "pictures", "--layer", "fc", "--facets", "1", "--top-k", "2", "--steps", "1"
    )
    assert "NaN or infinite" in json.dumps(outcome.json)


@pytest.mark.parametrize(
    ("name", "indices"),
    [("1", [0]), ("10", [1]), ("2", [2]), ("top2", [3]), ("x", [4]), ("top1", None), ("top3", None)],
)
def test_a_class_is_first_what_it_is_called(folder, name, indices):
    outcome = run(folder, "explain", folder / "pictures" / "00.png", "--class", name, "--method", "saliency")
    found = [row["target"]["index"] for row in outcome.json["images"][0]["maps"]]
    assert found == indices if indices else len(found) == int(name[-1])


@pytest.mark.parametrize("name", ["7", "0", "-1", "11"])
def test_a_number_that_is_no_name_is_refused_where_names_are_numbers(folder, name):
    outcome = run(folder, "explain", folder / "pictures" / "00.png", f"--class={name}", "--method", "saliency")
    assert outcome.code == 2
    assert "names of this classifier are numbers" in outcome.err
