"""evaluate impressions: the table is the mean of what is read, image by image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from phosphene.errors import NotFoundError
from phosphene.evaluation.impressions import measure_impressions
from phosphene.pipeline.impress import Job
from phosphene.runs.impressions import evaluate_impressions
from phosphene.runs.session import Common
from phosphene.runtime import prepare
from phosphene.targets import Target, Unit
from tests.synthesis.test_ascent import tiny


def test_the_row_is_the_mean_over_images_and_the_weakest_class_its_minimum() -> None:
    classifier = prepare(tiny())
    jobs = [Job(Target.of(index), seed) for index in (0, 2) for seed in (0, 1)]
    found = measure_impressions(classifier, jobs, "sci:steps=5", tiny(classes=4))
    row = found.row()
    own = [one.classes[0].probability for one in found.own]
    indices = [one.single_object_index for one in found.own]
    assert row["images"] == 4
    assert row["probability"] == pytest.approx(sum(own) / 4)
    assert row["single_object_index"] == pytest.approx(sum(indices) / 4)  # type: ignore[arg-type]
    pairs = {"class 0": (indices[0] + indices[1]) / 2, "class 2": (indices[2] + indices[3]) / 2}  # type: ignore[operator]
    assert row["weakest_class_index"] == pytest.approx(min(pairs.values()))
    assert pairs[row["weakest_class"]] == pytest.approx(min(pairs.values()))  # type: ignore[index]
    assert row["judge_probability"] == pytest.approx(row["probability"], abs=1e-5)
    assert row["steps"] == 5


def test_units_are_measured_without_a_judge() -> None:
    found = measure_impressions(prepare(tiny()), [Job(Target(unit=Unit("2", 1)))], "sci:steps=4", tiny())
    row = found.row()
    assert (row["probability"], row["judge_top1"], row["single_object_index"]) == (None, None, None)


def test_the_run_writes_a_sheet_per_recipe_and_a_table(tmp_path: Path) -> None:
    common = Common(model=tiny(), out=str(tmp_path / "run"))
    answer = evaluate_impressions(["0", "1"], ["sci:steps=4", "class_model:steps=3"], common, count=2)
    json.dumps(answer)
    assert [row["recipe"] for row in answer["rows"]] == ["sci:steps=4", "class_model:steps=3"]
    assert all(len(row["impressions"]) == 4 for row in answer["rows"])
    with Image.open(answer["rows"][0]["sheet"]) as sheet:
        assert sheet.width > 4 * 160
    text = Path(answer["report"]).read_text()
    assert "class_model:steps=3" in text


def test_an_unknown_class_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no class"):
        evaluate_impressions(["ladybird"], ["sci"], Common(model=tiny(), out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
