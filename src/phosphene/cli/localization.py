"""phosphene evaluate localization: boxes from maps against boxes from people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, command, named
from phosphene.cli.evaluate import evaluate
from phosphene.cli.explain import Resume
from phosphene.types import counted

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(
    evaluate,
    "localization",
    writes="the table in report.html",
    examples=("--images val/ --boxes boxes.csv", "--images val/ --boxes coco.json --method cam"),
)
def localization(
    common: CommonOptions,
    images: Annotated[str, typer.Option("--images", metavar="DIR", help="Folder of pictures.")],
    boxes: Annotated[
        str, typer.Option("--boxes", metavar="FILE", help="CSV, folder of ILSVRC XML, or COCO JSON; original pixels.")
    ],
    method: Annotated[
        list[str] | None, typer.Option(metavar="SPEC", help="Maps instead of the presets', e.g. cam; one row each.")
    ] = None,
    segment: Annotated[
        list[str] | None, typer.Option(help="graphcut, threshold; repeatable; default the preset's way.")
    ] = None,
    preset: Annotated[list[str] | None, typer.Option(help="best, paper; repeatable.")] = None,
    tolerance: Annotated[float, typer.Option(help="Of the pointing game, in pixels; published games allow 15.")] = 0.0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pictures.")] = None,
    resume: Resume = False,
) -> Answer:
    """Measure localization: GT-known accuracy, top-1 and top-5 error, pointing game; one row per method."""
    from phosphene.runs.localization import evaluate_localization

    with cancelled_by_interrupt(common.cancel):
        answer = evaluate_localization(
            images,
            boxes,
            common,
            methods=method or (),
            segments=segment or (),
            presets=preset or ("best",),
            tolerance=tolerance,
            limit=limit,
            resume=resume,
        )
    return Answer(answer, "\n".join(_lines(answer)), bool(answer["failed"]))


def _lines(answer: Mapping[str, Any]) -> list[str]:
    above = f"{'':44} top-1 top-5"
    head = f"{'':24} GT-known  {'95 %':^9} error error point IoU .3   .5   .7  s/img"
    lines = [
        f"{counted(answer['images'], 'picture')}; the class is first in {answer['class_top1']:.3f}"
        # Of five classes or fewer it is always among five.
        + f", among five in {answer['class_top5']:.3f}" * (answer["classes"] is None or answer["classes"] > 5),
        above,
        head,
    ]
    for row in answer["rows"]:
        lines += named(f"{row['preset']} {row['method']}, {row['segment']}", 24, _cells(row))
    for name, row in answer["baselines"].items():
        lines += named(name, 24, _cells(row))
    lines += [f"note: {row['preset']} {row['method']}: {note}" for row in answer["rows"] for note in row["notes"]]
    lines += [f"note: {note}" for note in answer["notes"]]
    lines += [f"failed: {item['error']}" for item in answer["failed"]]
    return lines


def _cells(row: Mapping[str, Any]) -> str:
    low, high = row["gt_known_ci"]
    accuracies = " ".join(f"{value:.2f}" for value in row["box_accuracy"].values())
    return (
        f"{row['gt_known']:8.3f}  {low:.2f}-{high:.2f} {row['top1_error']:5.3f} {row['top5_error']:5.3f} "
        f"{row['pointing_game']:5.3f}     {accuracies} {row['seconds_per_image']:6.2f}"
    )
