"""phosphene batch: what it prints, how it exits, how it goes on."""

from __future__ import annotations

import pytest

from phosphene.store import locked
from tests.batch.small import SPEC, photos
from tests.cli.running import keys, partial_files, phosphene

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def folder(tmp_path):
    return photos(tmp_path / "photos", 6, broken=(2,))


def batch(task, *arguments):
    return phosphene("batch", task, *arguments, "--model", SPEC, "--workers", 0)


def test_explain(tmp_path, folder):
    arguments = [folder, "--out", tmp_path / "run", "--method", "saliency", "--shard-size", 4, "--json"]
    outcome = batch("explain", *arguments)
    assert outcome.code == 1  # one picture failed
    answer = outcome.json
    keys(answer, ["run", "rows", "ok", "failed", "shards", "seconds", "pictures_per_second"])
    assert (answer["rows"], answer["ok"], answer["failed"], answer["shards"]) == (6, 5, 1, 2)
    assert "1 failed 6/6" in outcome.err
    assert not partial_files(tmp_path / "run")
    table = parquet.read_table([str(path) for path in sorted((tmp_path / "run").glob("*.parquet"))])
    assert table.num_rows == 6
    again = batch("explain", *arguments)
    assert (again.code, again.json["rows"]) == (1, 6)
    other = batch("explain", *arguments, "--class", "dog")
    assert other.code == 2
    assert "made with another classes" in other.err
    assert batch("explain", *arguments, "--class", "dog", "--overwrite").code == 1


def test_a_target_of_another_kind_however_it_is_asked_for(tmp_path, folder):
    rows = []
    for name, question in (("old", ["--unit", "layers.3=1"]), ("new", ["--target", "unit:layers.3=1"])):
        out = tmp_path / name
        assert batch("explain", folder, "--out", out, "--method", "saliency", "--maps", "float32", *question).code == 1
        table = parquet.read_table([str(path) for path in sorted(out.glob("*.parquet"))]).to_pylist()
        rows.append([{key: value for key, value in row.items() if key != "seconds"} for row in table])
    assert rows[0] == rows[1]
    assert "layers.3=1" in str(rows[0])


def test_predict_locate_status_and_report(tmp_path, folder):
    (folder / "0002.png").unlink()
    predicted = batch("predict", folder, "--out", tmp_path / "predict", "--count", 3, "--limit", 4)
    assert predicted.code == 0
    assert predicted.out.startswith("4 pictures, 4 rows in 1 shard, 0 failed; ")
    located = batch("locate", folder, "--out", tmp_path / "locate", "--method", "grad_cam", "--segment", "threshold")
    assert located.code in (0, 1)
    outcome = phosphene("batch", "status", tmp_path / "predict", "--json")
    assert outcome.code == 0
    keys(outcome.json, ["run", "complete", "pictures", "planned", "rows", "failed", "shards", "planned_shards"])
    assert outcome.json["state"] == "complete"
    assert "4 of 4 pictures in 1 of 1 shard, complete" in phosphene("batch", "status", tmp_path / "predict").out
    report = phosphene("report", tmp_path / "predict", "--json")
    assert report.json["report"] == str(tmp_path / "predict" / "report.html")
    made = batch("predict", folder, "--out", tmp_path / "shown", "--report", "pages", "--json")
    assert made.json["report"] == str(tmp_path / "shown" / "report.html")


def test_the_status_says_whether_a_run_is_under_way(tmp_path, folder):
    out = tmp_path / "run"
    batch("predict", folder, "--out", out, "--shard-size", 4)
    (out / "part-00000.parquet").unlink()
    stopped = phosphene("batch", "status", out)
    assert "2 of 6 pictures in 1 of 2 shards, stopped; the command that began it goes on with it" in stopped.out
    with locked(str(out)):
        for _ in range(2):  # to look takes nothing away
            assert "2 of 6 pictures in 1 of 2 shards, under way\n" in phosphene("batch", "status", out).out
        answer = phosphene("batch", "status", out, "--json").json
        assert (answer["state"], answer["complete"]) == ("under way", False)
        assert batch("predict", folder, "--out", out, "--shard-size", 4).code == 1
    assert phosphene("batch", "status", out, "--json").json["state"] == "stopped"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out is missing"),
        (["--out", "run", "--resume", "--overwrite"], "drop one of them"),
        (["--out", "run", "--masks", "nowhere"], "neither a folder, nor a column"),
        (["--out", "run", "--maps", "int8"], "int8"),
        (["--out", "run", "--path-column", "x"], "takes no path_column"),
    ],
)
def test_usage(tmp_path, folder, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = batch("explain", folder, *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_source_that_is_not_there(tmp_path):
    outcome = batch("predict", tmp_path / "none", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "no such file or folder" in outcome.err
