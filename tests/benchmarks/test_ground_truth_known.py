"""The table of GT-known: what is below the centered box is marked, refusals are cells, no cell is measured twice."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.ground_truth_known import (
    Asked,
    Cell,
    Network,
    append_cell,
    chosen,
    fill,
    own_methods,
    read_cells,
    table,
)
from PIL import Image

import phosphene
from benchmarks import ground_truth_known
from phosphene.runtime import prepare
from tests.networks import classifier_of, pooled

NETWORKS = (Network("one", "a.py:one"), Network("two", "a.py:two"))


def cell(network: str, method: str, gt_known: float | None, status: str = "measured", *notes: str) -> Cell:
    interval = None if gt_known is None else (gt_known - 0.1, gt_known + 0.1)
    return Cell(network, method, 4, "graphcut", "boxes.csv", status, gt_known, interval, 0.34, 4, 0, 0.1, notes)


def test_what_is_below_the_centered_box_is_marked_and_refusals_say_why() -> None:
    cells = [
        cell("a.py:one", "cam", 0.6),
        cell("a.py:two", "cam", 0.2),
        cell("a.py:one", "lrp", None, "refused", "no rule for its attention"),
    ]
    text = table(cells, NETWORKS, ["cam", "lrp"])
    assert "| *centered box of half the area* | .340 | .340 |" in text
    assert "| `cam` | .600 (0.50 to 0.70) | .200 (0.10 to 0.30) **below** |" in text
    assert "| `lrp` | refused |  |" in text
    assert "- `lrp` on one: refused: no rule for its attention" in text


def test_cells_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = [cell("a.py:one", "cam", 0.6), cell("a.py:one", "lrp", None, "refused", "why")]
    for one in written:
        append_cell(tmp_path / "cells.jsonl", one)
    assert read_cells(tmp_path / "cells.jsonl") == {one.key: one for one in written}


def test_all_is_every_method_of_ours_and_locate() -> None:
    own = {name for name in phosphene.methods() if ":" not in name}
    assert set(own_methods()) == own | {"locate"}
    assert len(chosen(["all", "cam"])) == len(own) + 1


def test_the_command_again_measures_what_is_missing_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "class_index", "x0", "y0", "x1", "y1"))
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
            rows.writerow((f"{number}.png", number, 4, 4, 40, 36))
    loaded: Counter[str] = Counter()

    def load(spec: str) -> object:
        loaded[spec] += 1
        return prepare(classifier_of(pooled()))

    monkeypatch.setattr(ground_truth_known, "prepare", lambda network: network)
    monkeypatch.setattr(ground_truth_known, "load_classifier", load)
    asked = Asked(str(tmp_path / "pictures"), str(tmp_path / "boxes.csv"), 2)
    methods = ["saliency", "attention_rollout"]
    text = fill(asked, NETWORKS, methods, tmp_path / "out")
    known = read_cells(tmp_path / "out" / "cells.jsonl")
    assert [one.status for one in known.values()] == ["measured"] * 2 + ["refused"] * 2
    assert {one.images for one in known.values() if one.status == "measured"} == {2}
    assert loaded == {"a.py:one": 1, "a.py:two": 1}
    assert (tmp_path / "out" / "ground_truth_known.md").read_text() == text
    assert fill(asked, NETWORKS, methods, tmp_path / "out") == text
    assert loaded == {"a.py:one": 1, "a.py:two": 1}
