"""phosphene fuse: images that are of several classes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, app, command
from phosphene.cli.impress import Backgrounds, Frames, Judge, PresetOption, Preview, Resume, Statistics, Steps, drawn

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(
    app, "fuse", writes="the images (.png), labels.csv and report.html", examples=('zebra "bell pepper"', "--count 4")
)
def fuse(
    common: CommonOptions,
    classes: Annotated[
        list[str] | None, typer.Argument(metavar="CLASS CLASS...", help="Two classes or more; none for random pairs.")
    ] = None,
    recipe: Annotated[str, typer.Option(metavar="SPEC", help="fuse, with options.")] = "fuse",
    preset: PresetOption = None,
    steps: Steps = None,
    count: Annotated[int, typer.Option(help="Number of images; without classes each of a random pair.")] = 1,
    judge: Judge = "auto",
    frames: Frames = False,
    background: Backgrounds = None,
    statistics: Statistics = None,
    preview: Preview = None,
    resume: Resume = False,
) -> Answer:
    """Fuse classes into natural-looking images that are none of them for sure; labels.csv lists what is in them."""
    from phosphene.runs.impress import impress_images
    from phosphene.tasks.impress import ImpressConfig

    config = ImpressConfig(
        classes=tuple(classes or ()),
        recipe=recipe,
        preset=preset,
        steps=steps,
        count=count,
        frames=frames,
        fused=True,
        background=background,
        statistics=statistics,
    )
    with cancelled_by_interrupt(common.cancel):
        return drawn(impress_images(config, common, judge=judge, preview=preview, resume=resume))
