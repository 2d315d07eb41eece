"""Wrong input is answered with exit 2 and one line, before any time is spent, and leaves no run folder."""

from __future__ import annotations

import sys

import pytest
from PIL import Image
from skimage.data import chelsea

from tests.cli.running import phosphene


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "none.jpg"], "none.jpg: no such file"),
        (["explain", "none/"], "none/: no such file or folder"),
        (["explain", "empty"], "empty: holds no picture file"),
        (["explain", "none-*.jpg"], "no picture fits this pattern"),
        (["predict", "none.jpg", "gone.jpg"], "none.jpg: no such file"),
        (["locate", "none.jpg"], "none.jpg: no such file"),
        (["activations", "none.jpg"], "none.jpg: no such file"),
        (["features", "none/"], "none/: no such file or folder"),
        (["features", "empty"], "empty: holds no picture file"),
        (["head", "none/"], "none"),
        (["evaluate", "faithfulness", "--images", "none/"], "none: no such file or folder"),
        (["evaluate", "sanity", "--images", "empty"], "empty: holds no picture file"),
        (["evaluate", "localization", "--images", "none/", "--boxes", "b.csv"], "none: no such folder"),
        (["explain", "none.jpg", "--model", "net.py"], "net.py: no such file"),
        (["explain", "none.jpg", "--model", "resnet50"], "did you mean torchvision:resnet50"),
        (["explain", "none.jpg", "--model", "none.pt"], "none.pt: no such file"),
        (
            ["explain", "none.jpg", "--unit", "blocks.10"],
            "--unit blocks.10: which channel of it? give blocks.10=CHANNEL",
        ),
        (["explain", "none.jpg", "--target", "tabby"], "--target 'tabby' is not KIND:VALUE with a KIND of class, "),
        (["explain", "none.jpg", "--target", "class:"], "--target 'class:' is not KIND:VALUE"),
        (["explain", "none.jpg", "--target", "unit:a=1", "--unit", "a=2"], "--unit and --target: give one of them"),
        (["explain", "none.jpg", "--target", "class:a", "--class", "b"], "and a class besides: give one of them"),
        (["explain", "none.jpg", "--target", "unit:blocks.10"], "--target unit:blocks.10: which channel of it? give"),
        (["explain", "none.jpg", "--target", "unit:a=b"], "--target unit:a=b: is not LAYER=CHANNEL"),
        (["explain", "none.jpg", "--target", "region:dog@1"], "--target region:dog@1: write CLASS@ and"),
        (["explain", "none.jpg", "--region", "dog@5,5,2,9"], "--region dog@5,5,2,9: box (5"),
        (
            ["evaluate", "concepts", "--images", "a", "--class", "zebra", "--concept", "empty", "--random", "none/"],
            "empty: holds no picture file",
        ),
        (["report", "empty"], "empty: is no run folder"),
    ],
)
def test_wrong_input(tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    outcome = phosphene(*arguments)
    assert outcome.code == 2, outcome.err
    assert message in outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_what_is_there_beside_what_is_missing_is_done(tmp_path):
    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "cat.png")
    outcome = phosphene("predict", "cat.png", "none.jpg", "--json")
    assert outcome.code == 1
    assert [row["status"] for row in outcome.json["images"]] == ["ok", "error"]


def test_own_output_is_no_input(tmp_path):
    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "cat.png")
    first = phosphene("predict", ".", "--json")
    assert [row["path"] for row in first.json["images"]] == ["cat.png"]
    explained = phosphene("explain", ".", "--method", "saliency", "--json")
    assert len(explained.json["images"]) == 1
    again = phosphene("predict", ".", "--json")
    assert [row["path"] for row in again.json["images"]] == ["cat.png"]
    for pattern in ("**/*.png", "**/*.jpg"):
        found = phosphene("predict", pattern, "--json")
        assert found.code == (0 if pattern == "**/*.png" else 2), pattern
        assert [row["path"] for row in found.json.get("images", [])] in (["cat.png"], [])
    measured = phosphene("evaluate", "faithfulness", "--images", ".", "--method", "saliency", "--json")
    assert measured.json["images"] == 1


def test_a_package_that_is_missing_is_told_with_the_command_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.data", None)
    outcome = phosphene("explain", "none.jpg", "--model", "timm:resnet18")
    assert outcome.code == 2
    assert "-m pip install 'timm>=1.0'" in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [["--class", "tabby", "--class", "281,lynx"], ["--class", "tabby, lynx"]])
def test_several_classes_are_all_explained(tmp_path, how):
    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "cat.png")
    outcome = phosphene("explain", "cat.png", *how, "--method", "cam", "--report", "none", "--json")
    assert outcome.code == 0
    assert [shown["target"]["label"] for shown in outcome.json["images"][0]["maps"]] == ["tabby", "lynx"]
    refused = phosphene("explain", "cat.png", "--class", "tabby", "--class", "top2")
    assert refused.code == 2
    assert "--class top2 is the best classes of each picture; give it alone" in refused.err


def test_an_evaluation_that_is_stopped_leaves_no_empty_run(tmp_path, monkeypatch):
    from phosphene.runs import faithfulness

    def stopped(*_arguments, **_options):
        raise KeyboardInterrupt

    Image.fromarray(chelsea()[:96, :96]).save(tmp_path / "cat.png")
    monkeypatch.setattr(faithfulness, "faithfulness", stopped)
    outcome = phosphene("evaluate", "faithfulness", "--images", "cat.png")
    assert outcome.code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
