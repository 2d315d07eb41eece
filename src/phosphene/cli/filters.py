"""phosphene filters: the first layer's filters as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phosphene.cli.app import Answer, app, command

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(app, "filters", writes="the picture and the weights", examples=("", "--model net.py:build"))
def filters(
    common: CommonOptions,
    layer: Annotated[
        str | None, typer.Option("--layer", metavar="NAME", help="A convolution over the picture [default: the first].")
    ] = None,
    scale: Annotated[
        Literal["shared", "filter"], typer.Option(help="One scale for all filters, or each its own.")
    ] = "filter",
) -> Answer:
    """Draw the filters of the first layer, in the colors that they answer to."""
    from phosphene.runs.filters import show_filters

    answer = show_filters(common, layer, shared=scale == "shared")
    shape = "x".join(map(str, answer["shape"]))
    return Answer(answer, f"{answer['layer']}  {shape}: {answer['picture']}")
