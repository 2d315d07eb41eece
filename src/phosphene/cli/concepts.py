"""phosphene evaluate concepts: does what a folder of pictures shows speak for a class?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, command, named
from phosphene.cli.evaluate import evaluate
from phosphene.cli.explain import Resume
from phosphene.cli.faithfulness import Limit, Pictures

if TYPE_CHECKING:
    from phosphene.runs.common import Common
    from phosphene.targets import Target


@command(
    evaluate,
    "concepts",
    writes="a chart of the scores and report.html",
    examples=(
        "--images in/ --class 3 --concept a/ --random b/",
        "--images in/ --unit 4=2 --concept a/ --random b/",
    ),
)
def concepts(
    common: Common,
    images: Pictures,
    concept: Annotated[
        list[str], typer.Option(metavar="DIR", help="A folder of pictures that show the concept; repeatable.")
    ],
    random: Annotated[
        list[str],
        typer.Option(metavar="DIR", help="Random pictures: several folders are a set each, one is cut into --sets."),
    ],
    class_: Annotated[
        list[str] | None, typer.Option("--class", metavar="CLASS", help="The class that the concepts may speak for.")
    ] = None,
    target: Target | None = None,
    layer: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Where concepts are looked for; repeatable.")
    ] = None,
    sets: Annotated[int, typer.Option(help="How many random sets are made of one folder.")] = 10,
    level: Annotated[float, typer.Option(help="Corrected probability below which a concept is significant.")] = 0.05,
    limit: Limit = 50,
    resume: Resume = False,
) -> Answer:
    """Test whether concepts, each shown by a folder of pictures, speak for a class (TCAV)."""
    from phosphene.errors import OptionError
    from phosphene.runs.concepts import measure_concepts

    goals = [*(class_ or ()), *([] if target is None else [target])]
    if len(goals) != 1:
        raise OptionError(
            f"{len(goals)} classes or targets that concepts may speak for; give --class CLASS, or one other"
        )
    with cancelled_by_interrupt(common.cancel):
        answer = measure_concepts(
            images, concept, random, common, target=goals[0], layers=layer or (), sets=sets, level=level, limit=limit,
            resume=resume,
        )  # fmt: skip
    lines = [f"{'concept':24} score  random  accuracy  layer"]
    for row in answer["rows"]:
        cells = f"{row['score']:5.2f}  {row['random_score']:6.2f}  {row['accuracy']:8.2f}  {row['layer']}"
        lines += [*named(row["concept"], 24, cells), f"  {row['verdict']}"]
    lines += [f"failed: {row['error']}" for row in answer["errors"]]
    return Answer(answer, "\n".join(lines), bool(answer["errors"]))
