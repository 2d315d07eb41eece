"""phosphene evaluate faithfulness: does the network's answer hang on what a method marks?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, command, named
from phosphene.cli.evaluate import evaluate
from phosphene.cli.explain import Resume

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions

_FURTHER = ("road_most", "road_least", "road", "aopc")
DEFAULT_METHODS = ("grad_cam", "saliency", "input_x_gradient")

Pictures = Annotated[
    list[str],
    typer.Option(
        "--images", metavar="DIR", help="A folder, a picture, a pattern, a table or list of paths; repeatable."
    ),
]
Methods = Annotated[list[str] | None, typer.Option("--method", metavar="SPEC", help="A method to measure; repeatable.")]
ClassOption = Annotated[str, typer.Option("--class", metavar="CLASS|top1", help="Explained class; or each best one.")]
Limit = Annotated[int, typer.Option(help="How many pictures, taken evenly from all; 0 for all.")]
Masks = Annotated[int | None, typer.Option(help="Masks of the methods that draw masks; default their own.")]


@command(
    evaluate,
    "faithfulness",
    writes="the curves and report.html",
    examples=("--images val/ --limit 20", "--images val/ --method rise:masks=400"),
)
def faithfulness(
    common: CommonOptions,
    images: Pictures,
    method: Methods = None,
    class_: ClassOption = "top1",
    protocol: Annotated[
        Literal["coarse", "rise"], typer.Option(help="Pixels at a time: 1/32 of the image, or RISE's one row's worth.")
    ] = "coarse",
    measure: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further measure: road or pixel_flipping; repeatable; slow."),
    ] = None,
    limit: Limit = 50,
    masks: Masks = None,
    resume: Resume = False,
) -> Answer:
    """Insertion and deletion areas, average drop and increase of methods, beside maps that know nothing."""
    from phosphene.runs.faithfulness import measure_faithfulness

    with cancelled_by_interrupt(common.cancel):
        answer = measure_faithfulness(
            images,
            method or DEFAULT_METHODS,
            common,
            classes=class_,
            protocol=protocol,
            measures=measure or (),
            limit=limit,
            masks=masks,
            resume=resume,
        )
    lines = [f"{'method':32} deletion  insertion  drop    increase  s/image"]
    rows = (*answer["rows"], *answer["baselines"].values())
    for row in rows:
        lines += named(row["method"], 32, _cells(row))
    if measure:
        lines += [
            "",
            f"{'method':32} {'  '.join(f'{name:>10}' for name in _FURTHER if any(name in row for row in rows))}",
        ]
        for row in rows:
            if row["images"]:
                lines += named(row["method"], 32, "  ".join(f"{row[name]:10.3f}" for name in _FURTHER if name in row))
    lines += [f"failed: {row['error']}" for row in answer["errors"]]
    failed = bool(answer["errors"]) or any(row["error"] for row in answer["rows"])
    return Answer(answer, "\n".join(lines), failed)


def _cells(row: Mapping[str, Any]) -> str:
    if not row["images"]:
        return str(row["error"] or "every map was empty")
    drop = "  -   " if row["average_drop"] is None else f"{row['average_drop']:6.1%}"
    increase = "  -   " if row["average_increase"] is None else f"{row['average_increase']:6.1%}"
    return f"{row['deletion']:7.3f}  {row['insertion']:9.3f}  {drop}  {increase}  {row['seconds_per_image']:7.2f}"
