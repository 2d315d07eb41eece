"""phosphene evaluate impressions: does a network that took no part read what a classifier remembers?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phosphene.cli.app import Answer, command
from phosphene.cli.evaluate import evaluate
from phosphene.cli.impress import Judge

if TYPE_CHECKING:
    from phosphene.runs.common import Common


@command(evaluate, "impressions")
def impressions(
    common: Common,
    classes: Annotated[
        list[str], typer.Option("--classes", metavar="CLASS", help="Repeatable; or several with commas between.")
    ],
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", metavar="SPEC", help="e.g. sci:preset=paper; repeatable.")
    ] = None,
    count: Annotated[int, typer.Option(help="Images per class, with one seed after another.")] = 1,
    judge: Judge = "auto",
) -> Answer:
    """Measure impressions: the class's probability, a judge's reading, single-object index, object count, time."""
    from phosphene.runs.impressions import evaluate_impressions

    names = [name.strip() for text in classes for name in text.split(",") if name.strip()]
    answer = evaluate_impressions(names, recipe or ["sci"], common, count=count, judge=judge)
    head = f"{'recipe':40} images    own  judge   top1  index  weakest  one object  ms/step"
    lines = [head, *(_line(row) for row in answer["rows"])]
    return Answer(answer, "\n".join(lines))


def _line(row: Mapping[str, Any]) -> str:
    keys = (
        "probability",
        "judge_probability",
        "judge_top1",
        "single_object_index",
        "weakest_class_index",
        "one_object",
    )
    cells = ["   - " if row[key] is None else f"{row[key]:5.2f}" for key in keys]
    own, judge, top1, index, weakest, one = cells
    return (
        f"{row['recipe']:40} {row['images']:6}  {own}  {judge}  {top1}  {index}    {weakest}       {one}  "
        f"{row['ms_per_step']:7.1f}"
    )
