"""--model and --weights on the command line."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from phosphene.cli import app
from tests.networks import pooled


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 16), "red").save(tmp_path / "red.png")

    def call(*arguments: str):
        return CliRunner().invoke(app, ["explain", "red.png", "--method", "saliency", "--json", *arguments])

    return call


def test_explain_with_own_code_and_a_weights_file(run, tmp_path):
    torch.save(pooled().state_dict(), tmp_path / "net.pt")
    card = {"size": [16, 16], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "labels": list("abcde")}
    (tmp_path / "net.json").write_text(json.dumps(card))
    result = run("--model", "tests.zoo.models:network", "--weights", "net.pt")
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    (image,) = answer["images"]
    assert {row["label"] for row in image["predicted"]} == set("abcde")
    assert image["maps"][0]["status"] == "ok"


@pytest.mark.filterwarnings("default")
def test_a_note_and_an_error_are_one_line_each(run, tmp_path):
    noted = run("--model", "tests.zoo.models:network")
    assert noted.exit_code == 0
    assert noted.stderr.startswith("phosphene: tests.zoo.models:network does not say how pictures are prepared")
    torch.save({"weight": torch.ones(1)}, tmp_path / "other.pt")
    failed = run("--model", "tests.zoo.models:network", "--weights", "other.pt")
    assert failed.exit_code == 2
    assert failed.stderr.startswith("phosphene: other.pt: these weights are not for this Sequential")
    assert failed.stderr.count("\n") == 1
