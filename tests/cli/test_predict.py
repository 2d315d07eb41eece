from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from skimage.data import chelsea

import phosphene as library
from tests.cli.running import keys, phosphene


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        Image.fromarray(np.roll(chelsea(), 20 * index, axis=1)).save(pictures / f"{index}.png")
    (pictures / "3.png").write_text("no picture")
    return pictures


def test_the_best_classes_of_each_picture(folder, tmp_path):
    outcome = phosphene("predict", folder, "--count", 3, "--out", tmp_path / "run", "--json")
    assert outcome.code == 1  # one of the four failed
    rows = outcome.json["images"]
    for row in rows:
        keys(row, ["path", "status", "error", "predicted", "size", "seconds"] if row["status"] == "ok" else ["error"])
    assert [len(row["predicted"]) for row in rows] == [3, 3, 3, 0]
    assert "cat" in rows[0]["predicted"][0]["label"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert rows[0]["predicted"][0]["label"] in page
    assert "3.png" in page
    human = phosphene("predict", folder / "0.png", "--out", tmp_path / "human")
    assert human.code == 0
    assert rows[0]["predicted"][0]["label"] in human.out


@pytest.mark.parametrize("command", [["predict"], ["locate", "--method", "cam", "--segment", "threshold"]])
def test_gone_on_with(folder, tmp_path, command):
    run = tmp_path / "run"
    name, *options = command
    first = phosphene(name, folder, *options, "--out", run, "--json").json
    lines = (run / "rows.jsonl").read_text().splitlines(keepends=True)
    (run / "rows.jsonl").write_text("".join(lines[:1]) + lines[1][:40])  # cut off in the second row
    opened = library.open_run(run)
    assert opened.done == {"0.png"}
    assert opened.missing == ("1.png", "2.png", "3.png")
    again = phosphene(name, folder, *options, "--out", run, "--resume", "--json").json
    for row in (*first["images"], *again["images"]):
        row.pop("seconds", None)
    assert again["images"] == first["images"]
    assert library.open_run(run).is_complete


def test_plain_scores_are_told_as_they_are(folder, tmp_path):
    (tmp_path / "ages.py").write_text(
        "import torch\nfrom torch import nn\nfrom phosphene import Classifier, Preprocess\n\n"
        "def model():\n"
        "    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    nn.init.zeros_(net[0].weight)\n"
        "    net[0].bias.data = torch.tensor([-11.0, 37.0, 0.5])\n"
        "    return Classifier(net, Preprocess((32, 32)), ['change', 'age', 'size'], head='score')\n"
    )
    run = tmp_path / "run"
    outcome = phosphene("predict", folder / "0.png", "--model", f"{tmp_path / 'ages.py'}:model", "--out", run)
    assert "    37  age" in outcome.out
    assert "   -11  change" in outcome.out
    assert "   0.5  size" in outcome.out
    page = (run / "report.html").read_text()
    assert ">37<" in page
    assert "size 0.5" in page
    assert "change -11" in page
    assert "%" not in page[page.index("<table") : page.index("</table")]
