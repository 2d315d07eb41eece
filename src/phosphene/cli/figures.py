"""phosphene figures: the figures of the papers, made with this network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from phosphene.cli.app import Answer, app, command

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(
    app,
    "figures",
    writes="a picture of each figure, figures.json and index.html",
    report="Write report.html, too, as one file or pages; default index.html alone.",
    examples=("sci --quick", "deep_inside-1"),
)
def figures(
    common: CommonOptions,
    paper: Annotated[
        str,
        typer.Argument(
            metavar="PAPER|all", help="sci, minds_eye, deep_inside, report, slides, a figure such as sci-3, or all."
        ),
    ] = "all",
    pooling_model: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="A network with max-pooling and ReLUs, for section 4 of Deep Inside."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="SPEC", help="A network that took no part; it reads what was drawn.")
    ] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER", help="Pictures for The Mind's Eye, of one kind of thing; default parts of photographs."
        ),
    ] = None,
    class_folders: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="A folder of pictures per class, such as dogs and wolves, for the report."),
    ] = None,
    images: Annotated[
        list[str] | None, typer.Option(metavar="FOLDER", help="Pictures with true boxes, for localization.")
    ] = None,
    boxes: Annotated[
        str | None, typer.Option(metavar="FILE", help="Their boxes, as evaluate localization reads them.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A twentieth of the steps, to see whether all works.")] = False,
) -> Answer:
    """Make the figures of the papers and say which of their claims hold here."""
    from phosphene.runs.figures import draw_figures

    answer = draw_figures(
        paper,
        common,
        pooling=pooling_model,
        judge=judge,
        pictures=pictures or (),
        class_folders=class_folders,
        images=images or (),
        boxes=boxes,
        quick=quick,
    )
    rows = answer["figures"]
    lines = []
    for row in rows:
        name, outcome = f"{row['paper']} {row['number']}", row["verdict"] or f"{row['status']}: {row['error']}"
        lines.append(f"{name:16} {outcome:18} {row['title']}")
    lines.append(f"index: {answer['index']}")
    return Answer(answer, "\n".join(lines), failed=any(row["status"] == "error" for row in rows))
