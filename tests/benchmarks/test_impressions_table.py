"""The table of impressions: shares are of pictures, a judge's maps count once, seeds are averaged."""

from __future__ import annotations

import torch
from benchmarks.impressions_table import figures, over_seeds, table

from phosphene.evaluation.impressions import ImpressionScores
from phosphene.targets import Target
from phosphene.tasks.impressions import Job
from phosphene.tasks.read_impressions import Judgement, OwnReading
from phosphene.types import Impression, Prediction


def reading(model: str, shares: list[float], first: bool, coverage: float | None, count: int | None) -> Judgement:
    classes = tuple(Prediction(index, f"class {index}", share) for index, share in enumerate(shares))
    return Judgement(model, classes, classes, first, all(shares), max(shares), coverage, count)


def scores(recipe: str, rows: list[tuple[list[float], list[Judgement]]]) -> ImpressionScores:
    found = ImpressionScores(recipe)
    for own, judged in rows:
        target = Target.of(list(range(len(own))))
        shares = tuple(Prediction(index, f"class {index}", share) for index, share in enumerate(own))
        made = Impression(image=torch.zeros(3, 4, 4), target=target, spec=recipe, preset="best", seed=0, steps=1)
        found.add(Job(target), made, OwnReading(shares, None, None, None), list(judged))
    return found


def test_shares_are_of_pictures_and_the_maps_of_one_judge() -> None:
    found = scores(
        "sci",
        [
            ([0.9], [reading("A", [0.8], True, 0.9, 5), reading("B", [0.5], True, 0.3, 1)]),
            ([0.9], [reading("A", [0.2], False, 0.9, 5), reading("B", [0.1], False, 0.8, 2)]),
            ([0.9], [reading("A", [0.5], True, 0.9, 5), reading("B", [0.6], False, 0.7, 1)]),
        ],
    )
    row = figures(found, "B")
    assert row["judges"]["A"] == {"probability": 0.5, "top1": 2 / 3, "top5": 1.0}
    assert (row["natural"], row["one"], row["even"]) == (2 / 3, 2 / 3, 0.0)


def test_fused_pictures_show_whether_both_are_there_and_even() -> None:
    pairs = [
        ([0.5, 0.4], [reading("A", [0.6, 0.0], True, None, None)]),
        ([0.7, 0.2], [reading("A", [0.2, 0.1], True, None, None)]),
    ]
    row = {"source": "x", "recipe": "fuse", "seed": 0, "fused": True, **figures(scores("fuse", pairs), "A")}
    assert row["natural"] is None
    line = table([row]).splitlines()[-1]
    assert "| 0.50 / 0.40 |" in line  # both among the first five in one of two; the mean of the larger shares
    assert "| 0.50 |" in line  # no class above .6 in one of two


def test_seeds_are_averaged_and_the_makers_own_column_is_said() -> None:
    def row(source: str, seed: int, top1: float, judge: str) -> dict[str, object]:
        read = {judge: {"probability": top1, "top1": top1, "top5": 1.0}}
        return {"source": source, "recipe": "sci", "seed": seed, "fused": False, "images": 24, "judges": read,
                "even": 0.0, "natural": 1.0, "one": top1, "seconds": 2.0}  # fmt: skip

    rows = [row("A", 0, 0.5, "B"), row("A", 1, 1.0, "B"), row("B", 0, 0.25, "A")]
    first, second = over_seeds(rows)
    assert (first["seed"], first["images"], first["judges"]["B"]["top1"]) == ("0, 1", 48, 0.75)
    assert second["judges"]["A"]["top1"] == 0.25
    assert "its maker" in table(rows).splitlines()[2]
