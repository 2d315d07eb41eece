from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.running import keys, partial_files, phosphene
from tests.tasks.test_features import folder_of


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder_of(folder, (3, 4))


def test_features(tmp_path, pictures):
    run = tmp_path / "run"
    command = ("features", pictures, "--layer", "blocks.5", "--facets", 2, "--exemplars", 2, "--top-k", 7)
    outcome = phosphene(*command, "--terms", "full", "--steps", 2, "--out", run, "--json")
    assert outcome.code == 0
    (layer,) = outcome.json["layers"]
    keys(layer, ["layer", "previous", "facets", "map", "seconds"])
    assert (layer["layer"], layer["previous"], layer["shape"]) == ("blocks.5", "blocks.4", [80, 14, 14])
    assert len(layer["facets"]) == 2
    for facet in layer["facets"]:
        keys(facet, ["image", "exemplars", "channels", "target_cosine", "losses"])
        assert [len(facet["losses"][name]) for name in ("distance", "dot", "previous")] == [2, 2, 2]
        assert len(facet["channels"]) == 7
        assert all(Path(item["path"]).parent == pictures for item in facet["exemplars"])
        with Image.open(facet["spokes"]) as picture:
            picture.load()
    assert partial_files(run) == []
    pinned = phosphene(
        "features", "--pin", run, "--layer", "blocks.2", "--steps", 2, "--out", tmp_path / "pin", "--json"
    )
    assert pinned.code == 0
    (other,) = pinned.json["layers"]
    for facet, expected in zip(other["facets"], layer["facets"], strict=True):
        known = [(item["path"], pytest.approx(item["weight"])) for item in expected["exemplars"]]
        assert [(item["path"], item["weight"]) for item in facet["exemplars"]] == known
    assert phosphene(*command, "--steps", 2, "--out", run).code == 2


def test_wrong_wishes_are_one_line_and_exit_2(tmp_path, pictures):
    wrong = {
        ("--layer", "blocks.99"): "no layer 'blocks.99'",
        ("--exemplars", 10): "7 readable images are too few",
        ("--facets", 0, "--exemplars", 2): "give at least 1 of each",
        ("--recipe", "sci", "--exemplars", 2): "needs no pictures",
        ("--recipe", "minds_eye:rat=1", "--exemplars", 2): "no option 'rat'",
    }
    for options, message in wrong.items():
        outcome = phosphene("features", pictures, *options, "--out", tmp_path / "run")
        assert outcome.code == 2, options
        assert message in outcome.err
        assert outcome.err.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_its_recipe_draws_no_classes(tmp_path):
    outcome = phosphene("impress", "tench", "--recipe", "minds_eye", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "use features" in outcome.err
