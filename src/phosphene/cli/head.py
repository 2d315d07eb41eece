"""phosphene head: a classifier of one's own classes on the features of a known network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from phosphene.cli.app import Answer, app, command

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(
    app,
    "head",
    writes="the fitted head, which --model DIR loads, and report.html",
    examples=("dogs_and_wolves/ --out runs/head", "dogs_and_wolves/ --held-out 0.3"),
)
def head(
    common: CommonOptions,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Has one folder of pictures per class.")],
    held_out: Annotated[float, typer.Option(help="Share of each class that is kept for measuring.")] = 0.2,
) -> Answer:
    """Fit a linear head on the network's features, one folder per class; --model RUN then loads the result."""
    from phosphene.runs.head import fit_folder

    answer = fit_folder(folder, common, held_out=held_out)
    width = max(len(label) for label in answer["labels"]) + 2
    lines = [
        f"held-out accuracy {answer['accuracy']:.1%} of {answer['held_out']} pictures "
        f"(fitted ones {answer['fitted_accuracy']:.1%})",
        " " * width + "  predicted " + "  ".join(answer["labels"]),
    ]
    for label, row in zip(answer["labels"], answer["confusion"], strict=True):
        cells = "  ".join(f"{count:>{len(name)}}" for count, name in zip(row, answer["labels"], strict=True))
        lines.append(f"{label:<{width}}  {'':9} {cells}")
    lines += [f"note: {note}" for note in answer["notes"]]
    lines += [f"failed: {row['error']}" for row in answer["errors"]]
    lines.append(f"load it with: --model {answer['run']}")
    return Answer(answer, "\n".join(lines), failed=bool(answer["errors"]))
