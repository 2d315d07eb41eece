"""phosphene locate: where in a picture the classes are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from phosphene.cli.app import Answer, app, command
from phosphene.cli.explain import ClassOption, Images, Methods

if TYPE_CHECKING:
    from phosphene.runs.session import Common

PresetName = Literal["best", "paper"]
SegmentOption = Literal["graphcut", "threshold"]


@command(app, "locate")
def locate(
    common: Common,
    images: Images,
    class_: ClassOption = "top1",
    method: Methods = None,
    segment: Annotated[
        SegmentOption | None, typer.Option(help="How masks are cut; default the preset's way, graphcut.")
    ] = None,
    preset: Annotated[PresetName, typer.Option(help="best, or as in the paper.")] = "best",
) -> Answer:
    """Find the objects of classes in pictures: masks, boxes in original pixels, COCO JSON, a report."""
    from phosphene.runs.locate import locate_files

    answer = locate_files(images, common, classes=class_, methods=method or (), segment=segment, preset=preset)
    lines = []
    for image in answer["images"]:
        lines.append(image["path"])
        lines += [
            f"  {found['probability']:6.1%}  {found['label']}: {' '.join(f'{side:.0f}' for side in found['box'])}"
            for found in image["objects"]
        ]
        lines += [f"  failed: {image['error']}"] if image["error"] else []
    failed = any(image["status"] == "error" for image in answer["images"])
    return Answer(answer, "\n".join([*lines, f"report: {answer['report']}"]), failed)
