"""phosphene evaluate sanity: does a method notice that the network has forgotten everything?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, command
from phosphene.cli.evaluate import evaluate
from phosphene.cli.explain import Resume
from phosphene.cli.faithfulness import DEFAULT_METHODS, ClassOption, Limit, Masks, Methods, Pictures

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(
    evaluate,
    "sanity",
    writes="charts, maps along the cascade and report.html",
    examples=("--images val/ --limit 5", "--images val/ --method guided_backprop"),
)
def sanity(
    common: CommonOptions,
    images: Pictures,
    method: Methods = None,
    mode: Annotated[
        Literal["both", "cascading", "independent"],
        typer.Option(help="Randomize from the head down, or each stage alone."),
    ] = "both",
    protocol: Annotated[
        Literal["blocks", "mprt"], typer.Option(help="Blocks drawn anew, or each module initialized as Quantus does.")
    ] = "blocks",
    class_: ClassOption = "top1",
    limit: Limit = 50,
    masks: Masks = None,
    resume: Resume = False,
) -> Answer:
    """Randomize the network's weights stage by stage and see which methods notice."""
    from phosphene.evaluation.sanity import MODES
    from phosphene.runs.sanity import check_sanity

    with cancelled_by_interrupt(common.cancel):
        answer = check_sanity(
            images,
            method or DEFAULT_METHODS,
            common,
            modes=MODES if mode == "both" else (mode,),
            protocol=protocol,
            classes=class_,
            limit=limit,
            masks=masks,
            resume=resume,
        )
    lines = [
        f"{row['method']}: {row['error'] or row['verdict'] or 'no verdict without the cascade'}"
        for row in answer["rows"]
    ]
    lines += [f"failed: {row['error']}" for row in answer["errors"]]
    failed = bool(answer["errors"]) or any(row["error"] for row in answer["rows"])
    return Answer(answer, "\n".join(lines), failed)
