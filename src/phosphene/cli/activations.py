"""phosphene activations: what the channels of a layer show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phosphene.cli.app import Answer, app, command

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(
    app,
    "activations",
    writes="a grid of channels and the raw values (.npy) of each layer, and report.html",
    examples=("photo.jpg", "photo.jpg --layer blocks.5 --channel 12 --channel 40"),
)
def activations(
    common: CommonOptions,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A picture.")],
    layer: Annotated[list[str] | None, typer.Option("--layer", metavar="NAME", help="A layer; repeatable.")] = None,
    channel: Annotated[list[int] | None, typer.Option("--channel", help="A channel to draw; repeatable.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many of the strongest channels to draw.")] = 24,
    scale: Annotated[
        Literal["shared", "channel"], typer.Option(help="One color scale for all channels, or each its own.")
    ] = "shared",
) -> Answer:
    """Plot the feature maps of layers for one picture, with statistics of every channel and the raw arrays."""
    from phosphene.runs.activations import show_activations
    from phosphene.tasks import ActivationsConfig

    config = ActivationsConfig(tuple(layer or ()), tuple(channel or ()), count, shared=scale == "shared")
    answer = show_activations(image, config, common)
    lines = [f"{row['layer']}  {'x'.join(map(str, row['shape']))}: {row['picture']}" for row in answer["layers"]]
    return Answer(answer, "\n".join(lines))
