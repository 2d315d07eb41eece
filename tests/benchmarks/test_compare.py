"""The harness on works that need no network and no peer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from benchmarks.compare import as_json, compare, map_error, rank_correlation
from benchmarks.merge import merged
from benchmarks.tables import markdown
from benchmarks.work import Work

from benchmarks import compare as harness


class Clockwork:
    """A side that takes as long as it is told to: the peer 10 ms + 8 / batch a unit, ours 2 ms, fast 1 ms."""

    peak_mb = 5.0

    def __init__(self, work: str, side: str) -> None:
        self.work, self.side = work, side

    def __enter__(self) -> Clockwork:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(self, setting: str | int, count: int) -> tuple[float, np.ndarray]:
        result = np.arange(12.0).reshape(2, 6) + 1
        if isinstance(setting, int):
            return count * (10 + 8 / setting) / 1e3, result
        return count * {"exact": 2, "fast": 1}[setting] / 1e3, result * (1 if setting == "exact" else 1.01)


def _work(**changed: object) -> Work:
    facts: dict[str, object] = {
        **{"name": "w", "network": "n", "peer": "p", "count": 64, "probe": 8},
        **{"ours": lambda *_: None, "theirs": lambda *_: None},
    }
    return Work(**{**facts, **changed})  # type: ignore[arg-type]


def test_rows_hold_times_per_unit_ratios_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "Side", Clockwork)
    batches: dict[str, int] = {}
    exact, fast = (as_json(row) for row in compare(_work(), 3, batches, lambda line: None))
    assert (exact["peer_batch"], batches) == (32, {"w": 32})
    assert exact["peer_ms"] == pytest.approx(10.25)
    assert (exact["ours_ms"], fast["ours_ms"]) == (2, 1)
    assert exact["ratio"] == exact["ratio_min"] == exact["ratio_max"] == pytest.approx(5.125)
    assert (exact["max_error"], fast["max_error"]) == (0, pytest.approx(0.01))
    assert fast["spearman"] == pytest.approx(1)
    keys = "work network precision peer peer_batch ours_ms peer_ms ratio ratio_min ratio_max max_error spearman peak_mb"
    assert set(keys.split()) <= set(json.loads(json.dumps(exact)))


def test_what_cannot_be_subtracted_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "Side", Clockwork)
    (row,) = compare(_work(compared=False, precisions=("exact",)), 1, {}, lambda line: None)
    assert (row.max_error, row.spearman) == (None, None)


def test_a_batch_that_is_not_of_images_is_tried_on_the_probe_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    class Counting(Clockwork):
        def run(self, setting: str | int, count: int) -> tuple[float, np.ndarray]:
            counts.append(count)
            return super().run(setting, count)

    monkeypatch.setattr(harness, "Side", Counting)
    compare(_work(of_images=False, probe=1, count=1, rounds=1), 5, {}, lambda line: None)
    assert set(counts) == {1}


def test_errors_are_the_largest_over_the_images() -> None:
    wanted = np.array([[[1.0, -2.0]], [[4.0, 0.0]]])
    got = wanted + np.array([[[0.0, 0.1]], [[0.1, 0.0]]])
    assert map_error(got, wanted) == pytest.approx(0.05)
    assert rank_correlation(np.array([[1.0, 2, 3], [1, 2, 3]]), np.array([[1.0, 2, 3], [3, 2, 1]])) == -1


def test_the_page_has_a_line_per_row() -> None:
    page = markdown({"machine": {"cores": 2}, "rows": [{"work": "w", "ratio": 2.0, "max_error": None}]})
    assert "| w | 2 |  |" in page


def test_a_work_measured_alone_joins_the_others_of_its_machine() -> None:
    def run(machine: str, *names: str, **more: object) -> dict[str, object]:
        rows = [{"work": name, "ours_ms": machine} for name in names]
        return {"machine": {"processor": machine}, "rows": rows, **more}

    old = run("a", "first", "third", roofline={"copy": 1}, failed={"second": "no", "fourth": "no"})
    new = run("a", "third", "second", curves={"images": 2})
    found = merged(old, new, ["first", "second", "third"])
    assert [row["work"] for row in found["rows"]] == ["first", "second", "third"]
    assert (found["roofline"], found["curves"], found["failed"]) == ({"copy": 1}, {"images": 2}, {"fourth": "no"})
    assert merged(old, run("b", "first"), ["first"]) == run("b", "first")
    assert merged(None, old, ["first"]) == old
