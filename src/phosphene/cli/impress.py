"""phosphene impress and fuse: what a classifier remembers, drawn from it alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, app, command
from phosphene.types import Prediction

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions
    from phosphene.targets import Target

Classes = Annotated[
    list[str] | None, typer.Argument(metavar="CLASS...", help="Index, WordNet id, name or part of one.")
]
PresetOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="best, or paper for the paper's own numbers; other recipes may have others."),
]
Steps = Annotated[int | None, typer.Option(help="Number of steps; default the preset's.")]
Judge = Annotated[
    str,
    typer.Option(metavar="SPEC", help="A network that took no part and reads the pictures; auto, none or a model."),
]
Frames = Annotated[bool, typer.Option("--frames", help="Keep the way of each image as an animation.")]
Backgrounds = Annotated[
    Literal["keep", "fade", "transparent"] | None,
    typer.Option(
        "--background",
        help="Of places that were little developed: keep; fade, into their own blur; transparent, a PNG with alpha. "
        "[default: keep]",
    ),
]
Statistics = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Pictures whose statistics stand in for those that the network's norms remember, also of networks without "
        "norms; the images are no longer free of data.",
    ),
]
Preview = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="A picture of the images on their way, written anew about once a second."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out; what is finished stays.")]


@command(
    app,
    "impress",
    writes="the images (.png) and report.html",
    examples=("ladybug", "--unit blocks.10=12 --recipe class_model --steps 200"),
)
def impress(
    common: CommonOptions,
    classes: Classes = None,
    target: Target | None = None,
    recipe: Annotated[
        str, typer.Option(metavar="SPEC", help="sci, class_impression or class_model, with options.")
    ] = "sci",
    preset: PresetOption = None,
    steps: Steps = None,
    count: Annotated[
        int,
        typer.Option(
            help="Images per class, with one seed after another; each hangs on all that is drawn in the call."
        ),
    ] = 1,
    judge: Judge = "auto",
    frames: Frames = False,
    background: Backgrounds = None,
    statistics: Statistics = None,
    preview: Preview = None,
    resume: Resume = False,
) -> Answer:
    """Draw what the classifier remembers of classes, or what a unit responds to; no picture is needed."""
    from phosphene.runs.impress import impress_images
    from phosphene.tasks.impress import ImpressConfig

    config = ImpressConfig(
        classes=tuple(classes or ()),
        target=target,
        recipe=recipe,
        preset=preset,
        steps=steps,
        count=count,
        frames=frames,
        background=background,
        statistics=statistics,
    )
    with cancelled_by_interrupt(common.cancel):
        return drawn(impress_images(config, common, judge=judge, preview=preview, resume=resume))


def drawn(answer: Mapping[str, Any]) -> Answer:
    """The answer for people: one line per image."""
    lines = []
    for row in answer["impressions"]:
        # (plain scores, of which alone a picture of one class has no index, are no probabilities)
        scored = row["single_object_index"] is None and len(row["classes"]) == 1
        classes = [
            Prediction(share["index"], share["label"], math.nan if scored else share["probability"])
            for share in row["classes"]
        ]
        what = " + ".join(map(str, classes)) or row["unit"]
        facts = []
        if row["single_object_index"] is not None:
            facts.append(f"single-object index {row['single_object_index']:z.2f}")
        if row["judge"] is not None:
            facts.append(f"{row['judge']['model']} reads {row['judge']['best'][0]['label']}")
        lines.append(f"{what}" + (f"  ({', '.join(facts)})" if facts else ""))
        lines.append(f"  {row['image']}")
    return Answer(answer, "\n".join(lines))
