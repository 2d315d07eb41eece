"""The report of a run in shards: what its numbers say, what its files hold, and that it needs no model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import phosphene
from phosphene.errors import InputError, OptionError
from phosphene.report import write_report
from phosphene.report.summary import seen_of, summary
from phosphene.store import shard_records
from phosphene.tasks import LocateConfig
from tests.batch.small import LABELS, make, photos
from tests.batch.test_batch import masked, run

pytest.importorskip("pyarrow")

COUNT = 30


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """A run with labels, masks, a broken picture, and columns of its own."""
    place = tmp_path_factory.mktemp("audit")
    photos(place / "photos", COUNT, broken=(4,))
    masked(place / "masks", COUNT - 5)
    lines = ["path,label,mask,camera,</script>"]
    lines += [
        f"photos/{n:04d}.png,{LABELS[n % 5]},{f'masks/{n:04d}.png' if n < 25 else ''},left,<b>" for n in range(COUNT)
    ]
    (place / "all.csv").write_text("\n".join(lines) + "\n")
    run(place / "all.csv", place / "run", masks="mask", method=["saliency", "grad_cam"], shard_size=7)
    write_report(place / "run")
    return place / "run"


def called(place, name):
    """The arguments that a script of the report calls the page with."""
    text = (place / "report" / name).read_text()
    (inside,) = re.findall(r"^phosphene\.\w+\((.*)\);\n$", text, re.DOTALL)
    assert "</" not in text
    return json.loads(f"[{inside}]")


def rows_of(place):
    files = sorted(path.name for path in (place / "report").glob("rows-*.js"))
    found = []
    for number, name in enumerate(files):
        index, rows = called(place, name)
        assert index == number
        found += rows
    return found


def test_rows_hold_each_picture_once_with_its_maps(audited):
    rows = rows_of(audited)
    assert [row["key"] for row in rows] == [f"photos/{n:04d}.png" for n in range(COUNT)]
    for number, row in enumerate(rows):
        if number == 4:
            assert "not an image" in row["error"]
            assert (row["picture"], row["maps"]) == (None, [])
            continue
        assert row["picture"]
        assert Path(row["original"]).is_file()
        assert row["label"] == LABELS[number % 5]
        assert row["columns"]["camera"] == "left"
        assert [shown["method"] for shown in row["maps"]] == ["saliency", "grad_cam"]
        for shown in row["maps"]:
            assert len(shown["place"]) == 4
            assert (shown["inside"] is None) == (number >= 25)


def test_columns_are_those_of_the_shards(audited):
    (columns,) = called(audited, "columns.js")
    names = columns["names"]
    rows = rows_of(audited)
    letters = {True: "r", False: "w", None: "f"}
    for number, row in enumerate(rows):
        assert columns["outcomes"][number] == letters[row["correct"]]
        assert names[columns["true"][number]] == row["label"]
        if row["predicted"]:
            assert names[columns["best"][number]] == row["predicted"][0][0]
            assert columns["values"]["probability"][number] == pytest.approx(row["predicted"][0][1], rel=1e-3)
    assert set(columns["values"]) >= {"score (saliency)", "score (grad_cam)", "evidence inside (grad_cam)"}


def test_the_page_tells_the_numbers(audited):
    page = (audited / "report.html").read_text()
    rows = rows_of(audited)
    right = sum(row["correct"] is True for row in rows)
    assert f"<b>{100 * right / (COUNT - 1):.1f}\u00a0%</b><span>right, of {COUNT - 1} with a label" in page
    assert "<b>30</b><span>pictures" in page
    assert "Where the evidence lies" in page
    assert "What is taken for what" in page
    # (By its own color: the ink is dark on a light page and light on a dark one.)
    assert '<span class="key"></span> Pictures that were taken for something else.' in page
    assert "http" not in re.sub(r"http://www\.w3\.org\S*", "", page)


def test_the_summary_is_counted_by_hand(audited):
    records = [record for number in range(5) for record in shard_records(str(audited), f"part-{number:05d}.parquet")]
    groups: dict[str, list] = {}
    for record in records:
        groups.setdefault(record["key"], []).append(record)
    seen = [seen_of(group, []) for group in groups.values()]
    names = dict(enumerate(LABELS))
    found = summary(seen, names)
    first = [group[0] for group in groups.values()]
    labeled = [record for record in first if record["correct"] is not None]
    assert found.accuracy == sum(record["correct"] for record in labeled) / len(labeled)
    assert found.top5 == 1.0  # of five classes all are told
    assert dict(found.outcomes)["failed"] == 1
    for row in found.classes:
        own = [record for record in first if record["label"] == row.name]
        judged = [record["correct"] for record in own if record["correct"] is not None]
        assert row.count == len(own)
        assert row.right == sum(judged) / len(judged)
        inside = [
            record["evidence_inside"]
            for record in records
            if record["label"] == row.name and record["method"] == "grad_cam" and record["evidence_inside"] is not None
        ]
        assert row.audits["grad_cam"][0] == pytest.approx(np.mean(inside))
    pairs = {(true, taken): times for true, taken, times in found.confusions}
    assert sum(pairs.values()) == sum(not record["correct"] for record in labeled)
    for histogram in found.histograms:
        assert sum(histogram.counts) == sum(histogram.name in one.values for one in seen)
    assert len(found.matrix[1]) == len(found.matrix[0])


def test_a_report_needs_neither_model_nor_pictures(audited, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(audited, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["folder"], manifest["source"] = str(tmp_path), {"spec": ["gone.csv"]}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code = (
        "import sys; from phosphene.report import write_report; write_report(sys.argv[1]); "
        "print([name for name in sys.modules if name.startswith(('phosphene.runtime', 'phosphene.zoo', "
        "'phosphene.attribution', 'phosphene.classifier'))])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(copy)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    rows = rows_of(copy)
    assert len(rows) == COUNT
    assert all(row["picture"] is None for row in rows)
    assert rows[0]["maps"][0]["values"]


def test_killed_runs_and_runs_of_other_tasks_have_reports(tmp_path):
    folder = photos(tmp_path / "photos", 9)
    run(folder, tmp_path / "predict", task="predict")
    (tmp_path / "predict" / "part-00001.parquet").unlink()
    page = write_report(tmp_path / "predict").read_text()
    assert "4 are not done yet" in page
    assert [row["key"] for row in rows_of(tmp_path / "predict")] == [f"{n:04d}.png" for n in (0, 1, 2, 3, 8)]
    config = LocateConfig.of(["grad_cam"], segment="threshold")
    run(folder, tmp_path / "locate", task=config)
    write_report(tmp_path / "locate")
    thing = next(row for row in rows_of(tmp_path / "locate") if row["objects"])
    left, top, width, height = thing["objects"][0]["box"]
    assert 0 <= left < left + width <= 1.0001
    assert 0 <= top < top + height <= 1.0001
    assert [shown["display"] for shown in thing["maps"] if "display" in shown][-1] == "mask"
    run(folder, tmp_path / "overlays", overlays=True, maps="none")
    shutil.rmtree(folder)
    write_report(tmp_path / "overlays")
    assert all(row["picture"] for row in rows_of(tmp_path / "overlays"))


def test_what_a_report_refuses(audited, tmp_path):
    with pytest.raises(OptionError, match="is not one file"):
        write_report(audited, "single")
    assert write_report(audited, "none") is None
    folder = photos(tmp_path / "photos", 1)
    place = "memory://reports/run"
    phosphene.batch(make(), folder, place, task="predict")
    with pytest.raises(InputError, match="copy the run first"):
        write_report(place)


def test_files_of_a_longer_run_before_are_gone(tmp_path):
    folder = photos(tmp_path / "photos", 2)
    run(folder, tmp_path / "run")
    (tmp_path / "run" / "report").mkdir()
    (tmp_path / "run" / "report" / "rows-00007.js").write_text("phosphene.rows(7,[]);\n")
    write_report(tmp_path / "run")
    assert [path.name for path in sorted((tmp_path / "run" / "report").iterdir())] == ["columns.js", "rows-00000.js"]
