"""phosphene evaluate impressions: does a network that took no part read what a classifier remembers?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, command, named
from phosphene.cli.evaluate import evaluate
from phosphene.cli.explain import Resume

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(
    evaluate,
    "impressions",
    writes="contact sheets and report.html",
    examples=("--classes ladybug,zebra", "--classes ladybug --recipe class_model"),
)
def impressions(
    common: CommonOptions,
    classes: Annotated[
        list[str], typer.Option("--classes", metavar="CLASS", help="Repeatable; or several with commas between.")
    ],
    recipe: Annotated[
        list[str] | None, typer.Option("--recipe", metavar="SPEC", help="e.g. sci:preset=paper; repeatable.")
    ] = None,
    count: Annotated[int, typer.Option(help="Images per class, with one seed after another.")] = 1,
    judge: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="A network that took no part; auto (default), none or a model. Repeatable."),
    ] = None,
    resume: Resume = False,
) -> Answer:
    """Measure impressions: what judges read and how many objects, single-object index, photographs' likeness, time."""
    from phosphene.runs.impressions import evaluate_impressions

    names = [name.strip() for text in classes for name in text.split(",") if name.strip()]
    with cancelled_by_interrupt(common.cancel):
        answer = evaluate_impressions(
            names, recipe or ["sci"], common, count=count, judge=judge or ["auto"], resume=resume
        )
    lines = [f"{'recipe':16} images    own  judge   top1  index  weakest  one object  ms/step"]
    for row in answer["rows"]:
        lines += named(row["recipe"], 16, _cells(row))
    judged = [(row["recipe"], one) for row in answer["rows"] for one in row["judges"]]
    if judged:
        lines += ["", f"{'recipe, judge':32} prob.   top1   top5  coverage  one object"]
        for recipe, one in judged:
            lines += named(f"{recipe}, {one['model'] or '-'}", 32, _judge_cells(one))
    return Answer(answer, "\n".join(lines))


def _judge_cells(judge: Mapping[str, Any]) -> str:
    probability, top1, top5, coverage, one = (
        _cell(judge[key]) for key in ("probability", "top1", "top5", "coverage", "one_object")
    )
    return f"{probability}  {top1}  {top5}     {coverage}       {one}"


def _cell(value: float | None) -> str:
    return "   - " if value is None else f"{value:5.2f}"


def _cells(row: Mapping[str, Any]) -> str:
    keys = (
        "probability",
        "judge_probability",
        "judge_top1",
        "single_object_index",
        "weakest_class_index",
        "one_object",
    )
    own, judge, top1, index, weakest, one = (_cell(row[key]) for key in keys)
    return f"{row['images']:6}  {own}  {judge}  {top1}  {index}    {weakest}       {one}  {row['ms_per_step']:7.1f}"
