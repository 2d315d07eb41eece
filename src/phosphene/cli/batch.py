"""phosphene batch ...: as many pictures as there are, in shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from phosphene.cancel import cancelled_by_interrupt
from phosphene.cli.app import Answer, app, command
from phosphene.cli.explain import ClassOption, LayerOption, Methods, typed
from phosphene.cli.locate import LocateMethods, PresetName, SegmentOption
from phosphene.errors import OptionError
from phosphene.types import counted

if TYPE_CHECKING:
    from phosphene.runs.common_options import CommonOptions
    from phosphene.targets import Target
    from phosphene.tasks import PictureTask

_ABOUT = "Explain, classify or locate any number of pictures, into Parquet shards."
batch = typer.Typer(name="batch", help=_ABOUT, short_help=_ABOUT, no_args_is_help=True)
app.add_typer(batch)

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder, pattern, CSV or Parquet table, list of paths (.txt), tar archives; a URL of any of these.",
    ),
]
ViewOption = Annotated[
    Literal["center", "whole"], typer.Option("--view", help="The center as trained, or the whole frame.")
]
RayOption = Annotated[str | None, typer.Option("--ray", metavar="local|ADDRESS", help="Compute on a Ray cluster.")]
GpusOption = Annotated[
    float | None,
    typer.Option("--num-gpus", metavar="N", min=0, help="GPUs of each worker on Ray [default: by --device]."),
]

# Where the run is, of all three commands.
_RUN: dict[str, Any] = {
    "writes": "shards of rows (part-00000.parquet, ...), plan.jsonl and manifest.json",
    "to": "Folder or URL of the run, which it goes on with when it is there.  [required]",
    "report": "Write the report, too, as pages; never as one file; default none: phosphene report DIR.",
}
# What the run is cut into, who computes it, how a table is read: of all three commands.
_SHARED: dict[str, tuple[Any, Any]] = {
    "shard_size": (Annotated[int, typer.Option("--shard-size", metavar="N", min=1, help="Pictures in a shard.")], 1000),
    "limit": (
        Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="The first N pictures alone.")],
        None,
    ),
    "workers": (
        Annotated[
            int | None,
            typer.Option(
                "--workers",
                metavar="N",
                min=0,
                help="Processes of their own, which outlive a picture that kills one; 0: this process alone "
                "[default: 1; with --ray all that it has].",
            ),
        ],
        None,
    ),
    "ray": (RayOption, None),
    "num_gpus": (GpusOption, None),
    "batch_size": (
        Annotated[
            int | None,
            typer.Option("--batch-size", metavar="N", min=1, help="Images that go through the network together."),
        ],
        None,
    ),
    "path_column": (
        Annotated[str | None, typer.Option("--path-column", metavar="NAME", help="Column of paths of a table.")],
        None,
    ),
    "label_column": (
        Annotated[str | None, typer.Option("--label-column", metavar="NAME", help="Column of true classes.")],
        None,
    ),
    "resume": (
        Annotated[
            bool,
            typer.Option("--resume", help="Go on with the run in --out: what happens anyway, unless --overwrite."),
        ],
        False,
    ),
}
# What shards keep of maps: of the two commands that make some.
_MAPS: dict[str, tuple[Any, Any]] = {
    "maps": (
        Annotated[Literal["none", "float16", "float32"], typer.Option("--maps", help="How map values are kept.")],
        "float16",
    ),
    "overlays": (
        Annotated[bool, typer.Option("--overlays", help="Keep overlays, as JPEG in a column of their own.")],
        False,
    ),
    "masks": (
        Annotated[
            str | None,
            typer.Option(
                "--masks",
                metavar="DIR|COLUMN|located",
                help="Share of the evidence inside masks: files of a folder, named in a column, or located objects.",
            ),
        ],
        None,
    ),
}


@command(
    batch,
    "explain",
    shared={**_MAPS, **_SHARED},
    **_RUN,
    examples=("photos/ --out runs/all", "photos/ --out runs/all --class top3 --workers 2"),
)
def explain(
    common: CommonOptions,
    shared: Mapping[str, Any],
    source: Source,
    class_: ClassOption = None,
    target: Target | None = None,
    method: Methods = None,
    layer: LayerOption = None,
    score: Annotated[
        Literal["logit", "probability", "margin"] | None,
        typer.Option(help="What is explained; default the method's."),
    ] = None,
    view: ViewOption = "center",
) -> Answer:
    """Explain any number of pictures; run again, the command goes on where it was stopped or killed."""
    from phosphene.tasks import ExplainConfig

    options = {"classes": typed(class_), "target": target, "layer": layer, "score": score, "view": view}
    return _run(common, source, ExplainConfig.of(method or (), **options, **_given(shared, "batch_size")), shared)


@command(
    batch,
    "predict",
    shared=_SHARED,
    **_RUN,
    examples=("photos/ --out runs/all", "table.csv --out runs/all --count 3"),
)
def predict(
    common: CommonOptions,
    shared: Mapping[str, Any],
    source: Source,
    count: Annotated[int, typer.Option(min=1, help="How many of the best classes are told.")] = 5,
    view: ViewOption = "center",
) -> Answer:
    """Classify any number of pictures; run again, the command goes on where it was stopped or killed."""
    from phosphene.tasks import PredictConfig

    return _run(common, source, PredictConfig(count, view, **_given(shared, "batch_size")), {"maps": "none", **shared})


@command(
    batch,
    "locate",
    shared={**_MAPS, **_SHARED},
    **_RUN,
    examples=("photos/ --out runs/all", "photos/ --out runs/all --class tabby --method cam"),
)
def locate(
    common: CommonOptions,
    shared: Mapping[str, Any],
    source: Source,
    class_: ClassOption = None,
    method: LocateMethods = None,
    segment: Annotated[
        SegmentOption | None, typer.Option(help="How masks are cut; default the preset's way, graphcut.")
    ] = None,
    preset: Annotated[PresetName, typer.Option(help="best, or as in the paper.")] = "best",
) -> Answer:
    """Locate objects in any number of pictures; run again, the command goes on where it was stopped or killed."""
    from phosphene.tasks import LocateConfig

    options = {"segment": segment, "preset": preset, "classes": typed(class_), **_given(shared, "batch_size")}
    return _run(common, source, LocateConfig.of(method or (), **options), shared)


# What is said of a run's state.
_STATES = {
    "under way": "under way",
    "stopped": "stopped; the command that began it goes on with it",
    "complete": "complete",
    None: "not complete; whether it is under way cannot be told there",
}


@command(batch, "status", common=False, examples=("runs/all", "runs/all --json"))
def status(run: Annotated[str, typer.Argument(metavar="DIR", help="Folder or URL of a run in shards.")]) -> Answer:
    """How far a run is, and whether it is under way, was stopped or killed, or is complete."""
    from phosphene.batches import batch_status

    found = batch_status(run)
    lines = [
        f"{found['command']}: {found['pictures']} of {found['planned']} pictures in {found['shards']} of "
        f"{counted(found['planned_shards'], 'shard')}, {_STATES[found['state']]}",
        f"{found['rows']} rows, {found['failed']} of them with an error",
        *(f"damaged: {name}; run the command again" for name in found["damaged"]),
    ]
    return Answer(found, "\n".join(lines))


def _given(shared: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of the options that were given."""
    return {name: shared[name] for name in names if shared.get(name) is not None}


def _run(common: CommonOptions, source: str, task: PictureTask, shared: Mapping[str, Any]) -> Answer:
    from phosphene.batches import Cutting, Engines, run_batch
    from phosphene.report import write_report
    from phosphene.sources import open_source

    if common.out is None:
        raise OptionError("--out is missing: the folder or URL of the run, which it goes on with when it is there")
    if common.report == "single":
        raise OptionError(
            "--report single: a run over many pictures is no one file; say --report pages, or leave it out"
        )
    if shared["resume"] and common.overwrite:
        raise OptionError("--resume goes on with a run and --overwrite replaces it; drop one of them")
    workers = shared["workers"]
    if workers is None and shared["ray"] is None:
        workers = 1
    columns = _given(shared, "path_column", "label_column")
    with cancelled_by_interrupt(common.cancel):
        answer = run_batch(
            open_source(source, **columns),
            task,
            common.choice,
            common.out,
            cutting=Cutting(**_given(shared, "shard_size", "maps", "overlays", "masks", "limit")),
            engines=Engines(workers, shared["ray"], shared["num_gpus"]),
            overwrite=common.overwrite,
            seed=common.seed,
            progress=common.announce,
            cancel=common.cancel,
            told={"spec": [source], **columns},
        )
    if common.report is not None:
        report = write_report(answer["run"], common.report)
        answer |= {"report": None if report is None else str(report)}
    text = (
        f"{counted(answer['pictures'], 'picture')}, {counted(answer['rows'], 'row')} in "
        f"{counted(answer['shards'], 'shard')}, "
        f"{answer['failed']} failed; {answer['pictures_per_second']:.1f} pictures/s\n{answer['run']}"
    )
    return Answer(answer, text, failed=answer["failed"] > 0)
