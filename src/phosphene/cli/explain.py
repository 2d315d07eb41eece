"""phosphene explain: why the classifier says what it says about pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, app, command
from phosphene.errors import reason
from phosphene.types import is_score

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions
    from phosphene.targets import Target

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...",
        help="Pictures; folders, patterns, CSV or Parquet tables, lists of paths (.txt), tar archives of pictures; "
        "URLs of any of these.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
ClassOption = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        metavar="CLASS|topK",
        help="Index, WordNet id, name or part of one, several with commas; or the K best [default: top1].",
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="SPEC",
        help="e.g. occlusion:window=20,stride=10; repeatable [default: grad_cam, saliency or occlusion].",
    ),
]
LayerOption = Annotated[str | None, typer.Option("--layer", metavar="NAME", help="Layer of the methods that need one.")]


@command(
    app,
    "explain",
    writes="overlays, raw maps (.npy), rows.jsonl, manifest.json and report.html",
    examples=("photo.jpg", "holiday/ --class top3 --method cam --method saliency"),
)
def explain(
    common: CommonOptions,
    images: Images,
    class_: ClassOption = None,
    versus: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Why the class and not this one: both, and the difference.")
    ] = None,
    target: Target | None = None,
    method: Methods = None,
    layer: LayerOption = None,
    score: Annotated[
        Literal["logit", "probability", "margin"] | None,
        typer.Option(help="What is explained; default the method's."),
    ] = None,
    view: Annotated[
        Literal["center", "whole"], typer.Option(help="The center as trained, or the whole frame.")
    ] = "center",
    scale: Annotated[
        Literal["image", "shared"], typer.Option(help="Color scale: each map its own, or one per method.")
    ] = "image",
    render: Annotated[
        Literal["overlay", "map", "both"], typer.Option(help="Maps on the pictures, by themselves, or both.")
    ] = "overlay",
    resume: Resume = False,
) -> Answer:
    """Explain what the classifier sees in pictures: heat maps on the originals, a report, raw maps."""
    from phosphene.runs.explain import explain_pictures
    from phosphene.tasks import ExplainConfig

    config = ExplainConfig.of(
        method or (),
        classes=typed(class_),
        versus=versus,
        target=target,
        layer=layer,
        score=score,
        view=view,
        scale=scale,
        render=render,
    )
    with cancelled_by_interrupt(common.cancel):
        return explained(explain_pictures(images, config, common, resume=resume))


@command(app, "demo", writes="what explain writes", examples=("", "--out tour"))
def demo(common: CommonOptions) -> Answer:
    """The tour: the embedded classifier explained on packaged pictures, with a report to open."""
    from phosphene.runs.demo import demo as run_demo

    with cancelled_by_interrupt(common.cancel):
        return explained(run_demo(common))


def typed(classes: list[str] | None) -> str | tuple[str, ...]:
    """The classes as a config takes them."""
    given = classes or ["top1"]
    return given[0] if len(given) == 1 else tuple(given)


def _of_each(note: str, maps: Sequence[Mapping[str, Any]]) -> bool:
    return all(note in shown.get("notes", ()) for shown in maps)


def explained(answer: Mapping[str, Any]) -> Answer:
    """The answer of `explain` for people: predictions, maps, what failed."""
    lines, maps = [], [shown for image in answer["images"] for shown in image["maps"]]
    # What is so of every map is said once.
    of_all = [note for note in (maps[0].get("notes", ()) if len(maps) > 1 else ()) if _of_each(note, maps)]
    for image in answer["images"]:
        lines += predicted_lines(image)
        for shown in image["maps"]:
            what = f"{shown['method']} for {shown['target']['label']}"
            if "versus" in shown["target"]:
                what += f", not {shown['target']['versus']['label']}"
            picture = shown.get("contrast") or shown["overlay"] or shown.get("opaque")
            lines.append(f"  failed: {what}: {shown['error']}" if shown["error"] else f"  {what}: {picture}")
            lines += [f"    note: {note}" for note in shown.get("notes", ()) if note not in of_all]
    lines += [f"note: {note}" for note in of_all]
    failed = any(
        image["status"] == "error" or any(shown["status"] == "error" for shown in image["maps"])
        for image in answer["images"]
    )
    return Answer(answer, "\n".join(lines), failed)


def predicted_lines(image: Mapping[str, Any]) -> list[str]:
    """A picture and its best classes, or why there are none."""
    if image["status"] == "error":
        return [image["path"], f"  failed: {reason(image['error'], image['path'])}"]
    shares = [best["probability"] for best in image["predicted"]]
    how = "6.3g" if any(map(is_score, shares)) else "6.1%"
    return [
        image["path"],
        *(f"  {share:{how}}  {best['label']}" for share, best in zip(shares, image["predicted"], strict=True)),
    ]
