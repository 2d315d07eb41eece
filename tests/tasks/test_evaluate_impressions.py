"""evaluate impressions: the table is the mean of what is read, image by image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from phosphene.classifier import Classifier, Preprocess
from phosphene.errors import NotFoundError, OptionError
from phosphene.evaluation.impressions import measure_impressions
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.impressions import evaluate_impressions
from phosphene.runtime import prepare
from phosphene.targets import Target, Unit
from phosphene.tasks.impressions import Job
from phosphene.tasks.read_impressions import judge_impressions
from phosphene.types import Impression
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


def test_each_judge_has_its_row_and_the_first_is_the_one_of_old() -> None:
    classifier, other = prepare(tiny()), tiny(classes=4)
    other.name = "other"
    jobs = [Job(Target.of(index)) for index in (0, 2)]
    found = measure_impressions(classifier, jobs, "class_model:steps=4", [other, tiny(classes=4)])
    row = found.row()
    first, second = row["judges"]  # type: ignore[misc]
    assert (row["judge"], first["model"], len(found.judged[0])) == ("other", "other", 2)
    assert second["model"] != "other"
    assert (row["judge_probability"], row["judge_top1"]) == (first["probability"], first["top1"])
    read = [one.coverage for one in found.read(0)]
    assert all(one is not None and 0 <= one <= 1 for one in read)
    assert first["coverage"] == pytest.approx(sum(read) / 2)  # type: ignore[arg-type]
    assert row["photograph_distance"] > 0  # type: ignore[operator]


def test_a_map_of_one_spot_is_one_object_and_two_are_two() -> None:
    judge = Classifier(
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)),
        Preprocess((64, 64), mean=(0.0,) * 3, std=(1.0,) * 3),
    )
    with torch.no_grad():
        for values in judge.module.parameters():
            values.zero_()
        judge.module[0].weight[0] = 1.0  # type: ignore[index,union-attr,operator]
        judge.module[3].weight[1, 0] = 1.0  # type: ignore[index,union-attr,operator]
    for places in ([(20, 20)], [(14, 14), (48, 48)]):
        image = torch.zeros(3, 64, 64)
        for row, column in places:
            image[:, row - 4 : row + 4, column - 4 : column + 4] = 1.0
        made = Impression(image, Target.of(1), "sci", "best", 0, 1)
        read = judge_impressions(judge, [made], judge, objects=True)[0]
        assert read is not None
        assert read.object_count == len(places)
        assert read.coverage == pytest.approx(len(places) * 64 / 64**2, rel=0.01)
        assert judge_impressions(judge, [made], judge)[0].coverage is None  # type: ignore[union-attr]


def test_units_are_measured_without_a_judge() -> None:
    found = measure_impressions(prepare(tiny()), [Job(Target(unit=Unit("2", 1)))], "sci:steps=4", tiny())
    row = found.row()
    assert (row["probability"], row["judge_top1"], row["single_object_index"]) == (None, None, None)


def test_the_run_writes_a_sheet_per_recipe_and_a_table(tmp_path: Path) -> None:
    common = CommonOptions(model=tiny(), out=str(tmp_path / "run"))
    with pytest.raises(OptionError, match="--count=0 must be a whole number, at least 1"):
        evaluate_impressions(["0"], ["sci:steps=4"], common, count=0)
    answer = evaluate_impressions(
        ["0", "1"], ["sci:steps=4", "class_model:steps=3"], common, count=2, judge=["none", "auto"]
    )
    json.dumps(answer)
    assert (answer["rows"][0]["judges"], answer["rows"][0]["judge"]) == ([], None)
    assert [row["recipe"] for row in answer["rows"]] == ["sci:steps=4", "class_model:steps=3"]
    assert all(len(row["impressions"]) == 4 for row in answer["rows"])
    with Image.open(answer["rows"][0]["sheet"]) as sheet:
        assert sheet.width > 4 * 160
    text = Path(answer["report"]).read_text()
    assert "class_model:steps=3" in text


def test_the_report_has_a_line_for_each_judge(tmp_path: Path) -> None:
    judges = [tiny(classes=4), tiny(classes=4)]
    for judge, name in zip(judges, ("Ada", "Bea"), strict=True):
        judge.name = name
    answer = evaluate_impressions(
        ["0"], ["class_model:steps=2"], CommonOptions(model=tiny(), out=str(tmp_path / "run")), judge=judges
    )
    assert [one["model"] for one in answer["rows"][0]["judges"]] == ["Ada", "Bea"]
    text = Path(answer["report"]).read_text()
    assert "Ada, Bea took no part in making them and read them" in text
    assert text.count("<td>Ada</td>") == text.count("<td>Bea</td>") == 1


def test_an_unknown_class_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no class"):
        evaluate_impressions(["ladybird"], ["sci"], CommonOptions(model=tiny(), out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
