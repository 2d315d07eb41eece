"""phosphene features: what a layer responds to in a set of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, app, command
from phosphene.cli.explain import Resume
from phosphene.types import counted

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(
    app,
    "features",
    writes="images of the facets, their exemplars, a map of the pictures and report.html",
    examples=("holiday/", "holiday/ --layer blocks.14 --facets 2 --steps 100"),
)
def features(
    common: CommonOptions,
    folder: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER...",
            help="Pictures: files, folders, patterns, tables, lists of paths (.txt), tar archives, URLs; none where "
            "--pin brings them.",
        ),
    ] = None,
    layer: Annotated[
        list[str] | None, typer.Option("--layer", metavar="NAME|default", help="A layer; repeatable.")
    ] = None,
    facets: Annotated[int, typer.Option(help="Kinds of pictures to tell apart; an image is drawn for each.")] = 3,
    exemplars: Annotated[
        int | None, typer.Option(help="Pictures that stand for a facet [default: 10, of few pictures their share].")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Channels that the dot product looks at [default: 50].")] = None,
    terms: Annotated[
        Literal["full", "dot", "distance"] | None, typer.Option(help="Terms of the loss [default: full].")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of steps; default the preset's.")] = None,
    preset: Annotated[
        Literal["best", "paper"] | None, typer.Option(help="The best pictures, or the paper's numbers [default: best].")
    ] = None,
    previous: Annotated[
        str, typer.Option(metavar="NAME", help="The layer before; auto finds it, none leaves its term out.")
    ] = "auto",
    pin: Annotated[
        str | None,
        typer.Option(
            metavar="FACETS",
            help="The same targets for all layers: a run of features or a JSON file of facets, whose exemplars and "
            "weights are taken, or a layer, whose facets are.",
        ),
    ] = None,
    recipe: Annotated[str, typer.Option(metavar="SPEC", help="minds_eye, with options.")] = "minds_eye",
    resume: Resume = False,
) -> Answer:
    """Find the kinds of pictures that a layer tells apart, and draw what it responds to in each."""
    from phosphene.runs.features import draw_features
    from phosphene.tasks.features import FeaturesConfig

    config = FeaturesConfig(
        layers=tuple(layer or ()),
        facets=facets,
        exemplars=exemplars,
        recipe=recipe,
        preset=preset,
        terms=terms,
        top_k=top_k,
        steps=steps,
        previous=previous,
        pin=pin,
    )
    with cancelled_by_interrupt(common.cancel):
        return drawn(draw_features(folder or [], config, common, resume=resume))


def drawn(answer: Mapping[str, Any]) -> Answer:
    """The answer for people: per layer and facet how close the image came, and where it is."""
    lines = []
    for layer in answer["layers"]:
        lines.append(f"{layer['layer']}  (layer before: {layer['previous'] or 'none'})")
        lines += [
            f"  facet {number}, {counted(facet['members'], 'picture')}, cosine {facet['target_cosine']:.3f}: "
            f"{facet['image']}"
            for number, facet in enumerate(layer["facets"])
        ]
        lines += [f"  note: {note}" for note in layer["notes"]]
    lines += [f"failed: {row['error']}" for row in answer["errors"]]
    return Answer(answer, "\n".join(lines), failed=bool(answer["errors"]))
