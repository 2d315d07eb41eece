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
    from phosphene.runs.common_options import CommonOptions
    from phosphene.targets import Target

SpokenFor = Annotated[
    list[str] | None, typer.Option("--class", metavar="CLASS", help="The class that the concepts may speak for.")
]


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
    common: CommonOptions,
    images: Pictures,
    concept: Annotated[
        list[str], typer.Option(metavar="DIR", help="A folder of pictures that show the concept; repeatable.")
    ],
    random: Annotated[
        list[str],
        typer.Option(metavar="DIR", help="Random pictures: several folders are a set each, one is cut into --sets."),
    ],
    class_: SpokenFor = None,
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
    from phosphene.runs.concepts import measure_concepts

    goal = one_of(class_, target)
    with cancelled_by_interrupt(common.cancel):
        answer = measure_concepts(
            images, concept, random, common, target=goal, layers=layer or (), sets=sets, level=level, limit=limit,
            resume=resume,
        )  # fmt: skip
    lines = [f"{'concept':24} score  random  accuracy  layer"]
    for row in answer["rows"]:
        cells = f"{row['score']:5.2f}  {row['random_score']:6.2f}  {row['accuracy']:8.2f}  {row['layer']}"
        lines += [*named(row["concept"], 24, cells), f"  {row['verdict']}"]
    lines += [f"failed: {row['error']}" for row in answer["errors"]]
    return Answer(answer, "\n".join(lines), bool(answer["errors"]))


def one_of(classes: list[str] | None, target: Target | None) -> str | Target:
    """The one class or other target that was asked for.

    Raises:
        OptionError: for none, or several.
    """
    from phosphene.errors import OptionError

    goals: list[str | Target] = [*(classes or ()), *([] if target is None else [target])]
    if len(goals) != 1:
        raise OptionError(
            f"{len(goals)} classes or targets that concepts may speak for; give --class CLASS, or one other"
        )
    return goals[0]
