"""Deep and odd pictures in the commands: explained, or one line for that picture while the others go on."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.data import chelsea

from tests.cli.running import phosphene


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photograph in 8 and in 16 bits and as floats, and three files that cannot be used."""
    place = tmp_path_factory.mktemp("pictures")
    cat = chelsea()
    Image.fromarray(cat).save(place / "a_eight.png")
    deep = (cat.astype(np.uint16) << 8) + np.arange(cat.shape[1], dtype=np.uint16)[:, None] % 250
    tifffile.imwrite(place / "b_deep.tif", deep, photometric="rgb")
    tifffile.imwrite(place / "c_float.tif", (cat / 255).astype(np.float32), photometric="rgb")
    six = np.concatenate([deep, deep], -1)
    tifffile.imwrite(place / "x_six.tif", six, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(place / "y_signed.tif", deep[..., 0].astype(np.int16))
    tifffile.imwrite(place / "z_nan.tif", np.full((20, 20), np.nan, np.float32))
    return place


REASONS = {"x_six.tif": "6 bands for a network of 3", "y_signed.tif": "signed", "z_nan.tif": "NaN"}


def test_explain(folder, tmp_path):
    outcome = phosphene(
        "explain", folder, "--method", "grad_cam", "--class", "281", "--json", "--out", tmp_path / "run"
    )
    assert outcome.code == 1
    rows = {row["path"].rpartition("/")[2]: row for row in outcome.json["images"]}
    maps = {}
    for name, row in rows.items():
        if name in REASONS:
            assert row["status"] == "error"
            assert REASONS[name] in row["error"]
            assert name in row["error"]
        else:
            maps[name] = np.load(tmp_path / "run" / row["maps"][0]["map"])
            assert (tmp_path / "run" / row["maps"][0]["overlay"]).is_file()
    assert len(maps) == 3
    assert np.array_equal(maps["a_eight.png"], maps["c_float.tif"])
    scale = np.abs(maps["a_eight.png"]).max()
    assert 0 < np.abs(maps["a_eight.png"] - maps["b_deep.tif"]).max() < 0.2 * scale


def test_locate_and_activations(folder, tmp_path):
    files = [folder / name for name in ("b_deep.tif", "x_six.tif")]
    simple = ("--method", "cam", "--segment", "threshold")
    outcome = phosphene("locate", *files, "--class", "281", *simple, "--json", "--out", tmp_path / "run")
    assert outcome.code == 1
    deep, six = outcome.json["images"]
    assert (deep["status"], six["status"]) == ("ok", "error")
    assert deep["objects"]
    outcome = phosphene("activations", folder / "b_deep.tif", "--json", "--out", tmp_path / "two")
    assert outcome.code == 0
    outcome = phosphene("activations", folder / "x_six.tif", "--json", "--out", tmp_path / "three")
    assert outcome.code != 0
    assert "6 bands for a network of 3" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_folder_goes_on_where_one_picture_does_not_fit(folder, tmp_path):
    (tmp_path / "small.py").write_text(
        "from tests.networks import classifier_of, pooled\n\ndef make():\n    return classifier_of(pooled())\n"
    )
    outcome = phosphene(
        *("evaluate", "faithfulness", "--images", folder, "--model", f"{tmp_path / 'small.py'}:make"),
        *("--method", "grad_cam", "--json", "--out", tmp_path / "run"),
    )
    assert outcome.code in (0, 1)
    assert outcome.json["images"] == 3
    assert all(why in json.dumps(outcome.json["errors"]) for why in REASONS.values())


def test_pictures_are_shown_as_the_network_saw_them(tmp_path):
    """Signed values have a scale only by --black and --white: without it there is nothing to show."""
    cat = chelsea().astype(np.int16) * 16 - 1000
    for index in range(20):
        (tmp_path / "in" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
        place = tmp_path / "in" / "ab"[index % 2] / f"{index:02d}.tif"
        tifffile.imwrite(place, np.roll(cat, 20 * index, 1), photometric="rgb")
    scale = ("--black", "-1000", "--white", "3080")

    assert phosphene("batch", "predict", tmp_path / "in", *scale, "--out", tmp_path / "batch").code == 0
    assert phosphene("report", tmp_path / "batch").code == 0
    rows = (tmp_path / "batch" / "report" / "rows-00000.js").read_text()
    shown = re.findall(r'"picture":"([^"]+)"', rows)
    assert len(shown) == 20
    assert _mean(io.BytesIO(base64.b64decode(shown[0]))) == pytest.approx(chelsea().mean(), abs=8)

    assert phosphene("head", tmp_path / "in", *scale, "--out", tmp_path / "head").code == 0
    mistakes = list((tmp_path / "head" / "mistakes").iterdir())
    assert mistakes  # (the two folders hold the same cat)
    assert all(_mean(file) == pytest.approx(chelsea().mean(), abs=8) for file in mistakes)

    few = ("--layer", "stem", "--facets", "1", "--exemplars", "2", "--steps", "1")
    assert phosphene("features", tmp_path / "in", *few, *scale, "--out", tmp_path / "features").code == 0


@pytest.mark.filterwarnings("always::phosphene.errors.PhospheneWarning")
def test_what_all_pictures_of_a_folder_have_is_told_once_in_one_line(tmp_path, capfd):
    rng = np.random.default_rng(0)
    (tmp_path / "dark").mkdir()
    for index in range(8):
        Image.fromarray(rng.integers(0, 3000, (32, 32), np.uint16)).save(tmp_path / "dark" / f"{index}.png")
    for command in (("predict",), ("batch", "predict", "--out", tmp_path / "run")):
        outcome = phosphene(*command, tmp_path / "dark")
        assert outcome.code == 0, outcome.err
        told = outcome.err + capfd.readouterr().err  # (a worker writes by itself)
        assert told.count("16 bits") == 1
        assert "PhospheneWarning" not in told


def _mean(file):
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")).mean()
