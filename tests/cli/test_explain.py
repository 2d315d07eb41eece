from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import chelsea

from tests.cli.running import keys, partial_files, phosphene
from tests.pictures import HOSTILE, turned


@pytest.fixture
def cat(tmp_path):
    path = tmp_path / "cat.jpg"
    Image.fromarray(chelsea()).save(path, quality=90)
    return path


def explain(*arguments):
    return phosphene("explain", *arguments)


def test_json_has_the_documented_keys(tmp_path, cat):
    run = tmp_path / "run"
    outcome = explain(
        cat, "--method", "saliency", "--method", "grad_cam", "--class", "top2", "--out", run, "--json", "--seed", 3
    )
    assert outcome.code == 0
    begun, found, *methods = outcome.err.splitlines()  # (for each picture, of a command that is piped)
    assert begun == "cat.jpg 0/1"
    assert re.fullmatch(r"cat\.jpg: tiger cat \d+ %", found)
    assert [line.rpartition(",")[0] for line in methods] == ["cat.jpg: saliency", "cat.jpg: grad_cam"]
    answer = outcome.json
    keys(answer, ["run", "images"])
    assert Path(answer["run"]) == run
    (image,) = answer["images"]
    keys(image, ["path", "status", "error", "predicted", "maps"])
    assert (image["path"], image["status"], image["error"]) == (str(cat), "ok", None)
    assert len(image["predicted"]) == 5
    for line in image["predicted"]:
        keys(line, ["index", "label", "probability"])
    probabilities = [line["probability"] for line in image["predicted"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(image["maps"]) == 4
    for shown in image["maps"]:
        keys(shown, ["method", "layer", "target", "status", "error", "score", "map", "overlay", "seconds"])
        keys(shown["target"], ["index", "label"])
        assert shown["status"] == "ok"
        values = np.load(shown["map"])
        assert values.ndim == 2
        assert values.dtype == np.float32
        with Image.open(shown["overlay"]) as overlay:
            assert overlay.size == (451, 300)
    assert [shown["target"]["index"] for shown in image["maps"]] == [p["index"] for p in image["predicted"][:2]] * 2
    assert image["maps"][2]["layer"] == "head"
    assert len({shown["map"] for shown in image["maps"]}) == 4
    assert (run / "report.html").is_file()
    assert not partial_files(run)


def test_manifest_says_how_it_was_made(tmp_path, cat):
    run = tmp_path / "run"
    assert explain(cat, "--method", "saliency", "--class", "tabby", "--out", run, "--seed", 5).code == 0
    manifest = json.loads((run / "manifest.json").read_text())
    keys(manifest, ["schema", "phosphene", "command", "versions", "model", "options", "seed", "threads", "images"])
    keys(manifest["versions"], ["python", "torch", "numpy"])
    assert len(manifest["model"]["sha256"]) == 64
    assert manifest["seed"] == 5
    # The files of a run are named relative to it, so that it can be moved.
    shown = manifest["images"][0]["maps"][0]
    assert (run / shown["map"]).is_file()
    assert not Path(shown["map"]).is_absolute()
    assert shown["target"]["index"] == 281


def test_same_command_same_maps(tmp_path, cat):
    maps = []
    for name in ("one", "two"):
        answer = explain(cat, "--method", "rise:masks=4", "--out", tmp_path / name, "--json").json
        maps.append(np.load(answer["images"][0]["maps"][0]["map"]))
    assert np.array_equal(*maps)


def test_hostile_inputs_are_rows_and_the_others_are_done(tmp_path, cat):
    (tmp_path / "bad").mkdir()
    bad = [make(tmp_path / "bad" / name) for name, (make, _) in HOSTILE.items()]
    run = tmp_path / "run"
    outcome = explain(bad[0], cat, *bad[1:], "--method", "saliency", "--out", run, "--json")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err + outcome.out
    rows = {row["path"]: row for row in outcome.json["images"]}
    assert len(rows) == len(bad) + 1
    assert rows[str(cat)]["status"] == "ok"
    assert Path(rows[str(cat)]["maps"][0]["overlay"]).is_file()
    for path in bad:
        row = rows[str(path)]
        assert row["status"] == "error", path
        assert row["maps"] == []
        assert "\n" not in row["error"]
        assert path.name.replace("\n", "\\n") in row["error"]
    assert not partial_files(run)
    report = (run / "report.html").read_text()
    assert "truncated.jpg" in report


def test_errors_are_printed_for_people_too(tmp_path, cat):
    missing = tmp_path / "missing.jpg"
    outcome = explain(missing, cat, "--method", "saliency", "--out", tmp_path / "run")
    assert outcome.code == 1
    assert f"{missing}\n  failed: no such file" in outcome.out
    assert "tabby" in outcome.out or "cat" in outcome.out


@pytest.mark.parametrize(
    "name", ["x" * 300 + ".jpg", "sub/" * 2000 + "a.jpg", "caf\udce9.jpg", "\x1b[31mred.jpg", "<b>&.jpg"]
)
def test_odd_names(tmp_path, name):
    """Too long, not UTF-8, escape sequences, HTML: for a missing and for a good file."""
    path = tmp_path / name
    good = len(name) < 100
    if good:
        Image.fromarray(chelsea()[:64, :64]).save(path, "JPEG")
    outcome = explain(path, "--method", "saliency", "--out", tmp_path / "run", "--json")
    assert outcome.code == (0 if good else 2)
    if not good:
        assert "cannot be opened" in outcome.json["error"]
        assert not (tmp_path / "run").exists()
        return
    (row,) = outcome.json["images"]
    assert row["status"] == "ok"
    assert "<b>&.jpg" not in (tmp_path / "run" / "report.html").read_text()
    human = explain(path, "--method", "saliency", "--out", tmp_path / "run2")
    assert "\x1b[31m" not in human.out


def test_folders_are_the_pictures_in_them(tmp_path, cat):
    (tmp_path / "many" / "deep").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("many/a.png", "many/deep/b.png"):
        Image.fromarray(chelsea()[:80, :80]).save(tmp_path / name)
    outcome = explain(
        tmp_path / "many", tmp_path / "empty", cat, "--method", "saliency", "--out", tmp_path / "run", "--json"
    )
    assert outcome.code == 1
    assert [row["status"] for row in outcome.json["images"]] == ["ok", "ok", "error", "ok"]


def test_an_existing_run_is_refused_without_overwrite(tmp_path, cat):
    run = tmp_path / "run"
    assert explain(cat, "--method", "saliency", "--out", run).code == 0
    before = sorted(path.name for path in run.rglob("*"))
    again = explain(cat, "--method", "grad_cam", "--out", run)
    assert again.code == 2
    assert again.err.count("\n") == 1
    assert "--overwrite" in again.err
    assert sorted(path.name for path in run.rglob("*")) == before
    assert explain(cat, "--method", "grad_cam", "--out", run, "--overwrite").code == 0
    names = [path.name for path in run.rglob("*")]
    assert any("grad_cam" in name for name in names)
    assert not any("saliency" in name for name in names)


def test_a_file_in_the_way_and_a_folder_of_other_things(tmp_path, cat):
    (tmp_path / "file").write_text("precious")
    for out, code in ((tmp_path / "file", 2), (tmp_path / "file" / "below", 1)):
        outcome = explain(cat, "--out", out)
        assert outcome.code == code
        assert outcome.err.count("\n") == 1
        assert str(out) in outcome.err
    assert (tmp_path / "file").read_text() == "precious"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary.txt").write_text("precious")
    outcome = explain(cat, "--out", tmp_path / "other", "--overwrite")
    assert outcome.code == 2
    assert (tmp_path / "other" / "diary.txt").read_text() == "precious"


def test_overwrite_never_deletes_the_picture_it_is_to_explain(tmp_path):
    run = tmp_path / "run"
    picture = run / "mine.png"
    run.mkdir()
    Image.fromarray(chelsea()).save(tmp_path / "cat.png")
    assert explain(tmp_path / "cat.png", "--method", "saliency", "--out", run).code == 0
    Image.fromarray(chelsea()).save(picture)
    outcome = explain(picture, "--method", "saliency", "--out", run, "--overwrite")
    assert outcome.code != 0
    assert picture.is_file()


@contextmanager
def files_of_at_most(size):
    """Writing more into any file fails, as on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="file size limits are POSIX")
@pytest.mark.parametrize("size", [2_000, 100_000])
def test_a_full_disk_is_one_line_and_leaves_no_half_written_file(tmp_path, cat, size):
    """Writing fails half-way: at the first picture, at an overlay or at the report."""
    run = tmp_path / "run"
    with files_of_at_most(size):
        outcome = explain(cat, "--method", "saliency", "--out", run, "--json")
    assert outcome.code == 1, outcome.err
    assert outcome.err.count("phosphene: ") == 1
    assert outcome.err.splitlines()[-1].startswith("phosphene: ")
    assert str(run) in outcome.err
    assert "cannot be written" in outcome.err
    assert "error" in outcome.json
    assert not partial_files(run)
    for path in run.rglob("*.*"):
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                image.load()
        if path.suffix == ".npy":
            np.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "salency"], "did you mean 'saliency'"),
        (["--method", "occlusion:windw=3"], "did you mean 'window'"),
        (["--method", "occlusion:window=0"], "at least 1"),
        (["--class", "tabbi"], "did you mean"),
        (["--class", "retriever"], "fits several"),
        (["--class", "1000"], "no class 1000"),
        (["--class", "top0"], "top1"),
        (["--class", "top²"], "no class"),
        (["--class", ""], "without a name"),
        (["--versus", "nothing at all"], "no class"),
        (["--class", "tabby", "--versus", "n02123045"], "is the class itself"),
        (["--layer", "blocks.99"], "no layer 'blocks.99'"),
        (["--unit", "nolayer=3"], "no layer 'nolayer'"),
        (["--unit", "blocks.3=x"], "LAYER=CHANNEL"),
        (["--unit", "blocks.3=3", "--versus", "tabby"], "drop --versus"),
        (["--model", "embeded"], "did you mean 'embedded'"),
        (["--model", "embedded:lite9"], "no embedded classifier 'lite9'"),
        (["--device", "nonsense"], "device 'nonsense'"),
        (["--score", "loss"], "loss"),
        (["--precision", "half"], "half"),
        (["--seed", str(2**63)], "whole number from 0 to"),
        (["--seed", "-1"], "whole number from 0 to"),
    ],
)
def test_usage_errors_are_clear(tmp_path, cat, arguments, message):
    outcome = explain(cat, *arguments, "--out", tmp_path / "run", "--json")
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_versus_unit_view_score_and_shared_scale(tmp_path, cat):
    Image.fromarray(chelsea()[:, ::-1]).save(tmp_path / "mirrored.png")
    outcome = explain(
        *(cat, tmp_path / "mirrored.png", "--class", "tabby", "--versus", "tiger cat", "--view", "whole"),
        *("--scale", "shared", "--method", "grad_cam", "--method", "saliency", "--layer", "blocks.10"),
        *("--out", tmp_path / "run", "--json"),
    )
    assert outcome.code == 0
    images = outcome.json["images"]
    for shown in images[0]["maps"]:
        assert shown["target"]["versus"]["index"] == 282
    assert images[0]["maps"][0]["layer"] == "blocks.10"
    scales = [
        [part["scale"]["text"] for shown in image["maps"] for part in (shown, *shown["beside"])] for image in images
    ]
    assert scales[0] == scales[1]
    assert len(scales[0]) == 6
    assert len(set(scales[0])) == 2  # one for each method
    unit = explain(cat, "--unit", "blocks.8=3", "--method", "saliency", "--out", tmp_path / "unit", "--json")
    assert unit.json["images"][0]["maps"][0]["target"] == {"index": None, "label": "blocks.8=3"}


def test_a_class_and_another_stand_side_by_side(tmp_path, cat):
    run = tmp_path / "run"
    outcome = explain(cat, "--class", "top2", "--versus", "lynx", "--method", "cam", "--out", run, "--json")
    assert outcome.code == 0
    best = [line["index"] for line in outcome.json["images"][0]["predicted"]]
    other = explain(cat, "--class", "top2", "--versus", best[0], "--method", "cam", "--out", tmp_path / "2", "--json")
    assert [shown["target"]["index"] for shown in other.json["images"][0]["maps"]] == best[1:3]
    for shown in outcome.json["images"][0]["maps"]:
        one, other = shown["beside"]
        assert other["target"] == {"index": 287, "label": "lynx"}
        maps = [np.load(part["map"]) for part in (one, other, shown)]
        assert np.abs(maps[0] - maps[1] - maps[2]).max() < 1e-4 * np.abs(maps[0]).max()
        assert {part["scale"]["text"] for part in (one, other, shown)} == {shown["scale"]["text"]}
        assert "one scale for the three maps" in shown["scale"]["text"]
        with Image.open(shown["contrast"]) as sheet:
            assert sheet.width > 3 * sheet.height
    page = (run / "report.html").read_text()
    assert "one scale for the three" in page
    assert ", not lynx" in page
    assert page.count("Class activation map: lynx") == 2


def test_maps_by_themselves(tmp_path, cat):
    run = tmp_path / "run"
    outcome = explain(cat, "--method", "cam", "--render", "both", "--out", run, "--json")
    (shown,) = outcome.json["images"][0]["maps"]
    for name in ("overlay", "opaque"):
        with Image.open(shown[name]) as picture:
            assert picture.size == (451, 300)
    assert "the map by itself" in (run / "report.html").read_text()
    alone = explain(cat, "--method", "cam", "--render", "map", "--out", tmp_path / "alone")
    assert alone.code == 0
    assert "-map.png" in alone.out
    page = (tmp_path / "alone" / "report.html").read_text()
    assert "the map by itself" in page
    assert 'class="heat"' not in page
    assert 'type="range"' not in page
    assert list((tmp_path / "alone").rglob("*-heat.png")) == []


def test_what_comes_back_is_in_the_report(tmp_path, cat):
    outcome = explain(cat, "--method", "guided_backprop", "--out", tmp_path / "run", "--json")
    (shown,) = outcome.json["images"][0]["maps"]
    with Image.open(shown["reconstruction"]) as picture:
        assert picture.size == (451, 300)
    assert "Guided back-propagation, in color" in (tmp_path / "run" / "report.html").read_text()


def test_exif_rotated_photograph_lies_right(tmp_path):
    """Predictions and the size of the overlay are those of the upright picture."""
    upright = explain(turned(tmp_path / "1.jpg", 1), "--method", "saliency", "--out", tmp_path / "a", "--json").json
    rotated = explain(turned(tmp_path / "6.jpg", 6), "--method", "saliency", "--out", tmp_path / "b", "--json").json
    one, two = upright["images"][0], rotated["images"][0]
    assert one["predicted"][0]["index"] == two["predicted"][0]["index"]
    with Image.open(one["maps"][0]["overlay"]) as a, Image.open(two["maps"][0]["overlay"]) as b:
        assert a.size == b.size == (8 * 36, 8 * 24)


def test_default_folder_is_new_each_time(tmp_path, cat, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [explain(cat, "--method", "saliency", "--json").json["run"] for _ in range(2)]
    assert runs[0] != runs[1]
    assert all(Path(run).parent == tmp_path / "phosphene-runs" for run in runs)


def test_report_opens_from_disk_alone(tmp_path, cat):
    """No address of any server, no file beside it; and it can be written again, or says why not."""
    run = tmp_path / "run"
    explain(cat, "--method", "saliency", "--out", run)
    page = (run / "report.html").read_text()
    for forbidden in ('src="http', 'href="http', "@import", "url(http", 'src="/', "<script src"):
        assert forbidden not in page
    assert page.count("data:image/") >= 3
    (run / "report.html").unlink()
    assert phosphene("report", run, "--json").json["report"] == str(run / "report.html")
    assert (run / "report.html").is_file()
    next(run.rglob("*-heat.png")).unlink()
    broken = phosphene("report", run)
    assert broken.code == 2
    assert broken.err.count("\n") == 1
    for content in (
        "{",
        "[]",
        "{}",
        '{"schema": 1}',
        '{"schema": 99, "command": "explain"}',
        '{"schema": 1, "command": "explain"}',
        '{"schema": 1, "command": "../x"}',
    ):
        (run / "manifest.json").write_text(content)
        broken = phosphene("report", run)
        assert broken.code == 2, content
        assert broken.err.count("\n") == 1, content
        assert str(run) in broken.err
