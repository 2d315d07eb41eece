"""phosphene predict: what the classifier says of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, app, command
from phosphene.cli.explain import Images, Resume, predicted_lines

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions


@command(app, "predict", writes="rows.jsonl and report.html", examples=("photo.jpg", "holiday/ --count 3 --json"))
def predict(
    common: CommonOptions,
    images: Images,
    count: Annotated[int, typer.Option(min=1, help="How many of the best classes are told.")] = 5,
    view: Annotated[
        Literal["center", "whole"], typer.Option(help="The center as trained, or the whole frame.")
    ] = "center",
    resume: Resume = False,
) -> Answer:
    """Classify pictures: the best classes of each, with their probabilities."""
    from phosphene.runs.predict import predict_pictures
    from phosphene.tasks import PredictConfig

    with cancelled_by_interrupt(common.cancel):
        answer = predict_pictures(images, PredictConfig(count, view), common, resume=resume)
    lines = [line for image in answer["images"] for line in predicted_lines(image)]
    return Answer(answer, "\n".join(lines), failed=any(image["status"] == "error" for image in answer["images"]))
