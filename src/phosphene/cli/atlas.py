"""phosphene atlas: a static site of a whole network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, app, command
from phosphene.cli.batch import GpusOption, RayOption

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(
    app,
    "atlas",
    writes="a site that opens from disk: index.html, a page for each class, layer and channel, index.json",
    report=None,  # it is a site already
    examples=(
        "--out site --classes ladybug,zebra --images holiday/",
        "--out site --layers blocks.8 --images holiday/ --resume",
        "--out site --ray local --workers 8",
    ),
)
def atlas(
    common: CommonOptions,
    classes: Annotated[
        list[str] | None,
        typer.Option("--classes", metavar="all|A,B", help="Classes by index, WordNet id or name [default: all]."),
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Option("--layers", metavar="NAME|default", help="A layer; repeatable.")
    ] = None,
    channels: Annotated[
        str, typer.Option(metavar="N|all|A,B", help="How many channels of each layer, or which.")
    ] = "48",
    images: Annotated[
        list[str] | None,
        typer.Option("--images", metavar="FOLDER", help="Pictures to look at, as explain takes them; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Impressions of each class, with one seed after another.")] = 2,
    recipe: Annotated[str, typer.Option(metavar="SPEC", help="Of the impressions.")] = "class_impression",
    steps: Annotated[int | None, typer.Option(min=1, help="Of the impressions; default the recipe's.")] = None,
    channel_steps: Annotated[
        int, typer.Option("--channel-steps", min=1, help="Of the pictures of channels, cells and facets.")
    ] = 64,
    grid: Annotated[
        int, typer.Option(min=0, help="Cells of a side of the activation atlas, which needs pictures; 0: none.")
    ] = 12,
    facets: Annotated[int, typer.Option(min=0, help="Of each layer, which need pictures; 0: none.")] = 3,
    method: Annotated[str, typer.Option(metavar="SPEC", help="Of the evidence on pictures.")] = "grad_cam",
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="The first N pictures alone.")] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Processes of their own that draw; 0: this process alone, with --ray all that it has.",
        ),
    ] = 0,
    ray: RayOption = None,
    num_gpus: GpusOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the atlas in --out.")] = False,
) -> Answer:
    """Draw a site of a whole network: its classes, layers and channels, to be looked at like a map."""
    from phosphene.atlases import AtlasConfig, run_atlas
    from phosphene.batches import Engines
    from phosphene.runs.session import check_resume

    check_resume(common, resume)
    config = AtlasConfig(
        classes=tuple(one.strip() for text in classes or ["all"] for one in text.split(",") if one.strip()),
        layers=tuple(layers or ()),
        channels=channels,
        seeds=seeds,
        recipe=recipe,
        steps=steps,
        channel_steps=channel_steps,
        grid=grid,
        facets=facets,
        method=method,
        limit=limit,
        seed=common.seed,
    )
    with cancelled_by_interrupt(common.cancel):
        answer = run_atlas(
            config,
            common.choice,
            images or [],
            common.out,
            engines=Engines(workers, ray, num_gpus),
            resume=resume,
            overwrite=common.overwrite,
            progress=common.announce,
            cancel=common.cancel,
        )
    lines = [
        ", ".join(f"{answer[name]} {name}" for name in ("classes", "layers", "channels", "cells", "pictures", "pages"))
        + f"; {answer['bytes'] / 1e6:.1f} MB, {answer['seconds']:.0f} s",
        *(f"failed: {one['error']}" for one in answer["errors"]),
        answer["index"],
    ]
    return Answer(answer, "\n".join(lines), failed=bool(answer["errors"]))
