"""phosphene locate: where in a picture the classes are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, app, command
from phosphene.cli.explain import ClassOption, Images, Resume, typed
from phosphene.errors import reason

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions

PresetName = Literal["best", "paper"]
SegmentOption = Literal["graphcut", "threshold"]
LocateMethods = Annotated[
    list[str] | None,
    typer.Option("--method", metavar="SPEC", help="Maps instead of the preset's, e.g. cam; several are averaged."),
]


@command(
    app,
    "locate",
    writes="masks, coco.json and report.html",
    examples=("photo.jpg", "holiday/ --class tabby,lynx --segment threshold"),
)
def locate(
    common: CommonOptions,
    images: Images,
    class_: ClassOption = None,
    method: LocateMethods = None,
    segment: Annotated[
        SegmentOption | None, typer.Option(help="How masks are cut; default the preset's way, graphcut.")
    ] = None,
    preset: Annotated[PresetName, typer.Option(help="best, or as in the paper.")] = "best",
    resume: Resume = False,
) -> Answer:
    """Find the objects of classes in pictures: masks, boxes in original pixels, COCO JSON, a report."""
    from phosphene.runs.locate import locate_pictures
    from phosphene.tasks import LocateConfig

    config = LocateConfig.of(method or (), segment=segment, preset=preset, classes=typed(class_))
    with cancelled_by_interrupt(common.cancel):
        answer = locate_pictures(images, config, common, resume=resume)
    lines = [line for image in answer["images"] for line in _lines(image)]
    failed = any(image["status"] == "error" for image in answer["images"])
    return Answer(answer, "\n".join(lines), failed)


def _lines(image: Mapping[str, Any]) -> list[str]:
    """The picture, each object with its box, and what went wrong."""
    from phosphene.runs.pictures import in_pixels

    size = "" if "size" not in image else f" ({image['size'][1]} x {image['size'][0]})"
    lines = [image["path"] + size]
    lines += [
        f"  {found['probability']:6.1%}  {found['label']}: {in_pixels(found['box'])}" for found in image["objects"]
    ]
    lines += [f"  note: {note}" for note in image.get("notes", ())]
    return [*lines, *([f"  failed: {reason(image['error'], image['path'])}"] if image["error"] else [])]
