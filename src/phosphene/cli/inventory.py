"""phosphene methods, layers, classes, report: what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from phosphene.cli.app import Answer, app, command

if TYPE_CHECKING:
    from phosphene.options import Option
    from phosphene.registry import Entry
    from phosphene.runs.common_options import CommonOptions


@command(app, "methods", common=False, examples=("", "occlusion"))
def methods(name: Annotated[str | None, typer.Argument(help="One method, with all its options.")] = None) -> Answer:
    """List the methods and recipes with their options."""
    from phosphene.runs.inventory import registered

    found = registered(name)
    rows = [_described(item) for item in found]
    lines = [line for item in found for line in _lines(item, full=name is not None)]
    return Answer({"methods": rows}, "\n".join(lines))


def _described(item: Entry) -> dict[str, Any]:
    options = [
        {
            "name": option.name,
            "default": _plain(option.default),
            "presets": {name: _plain(option.default_of(name)) for name in item.presets},
            "type": _type_name(option.type),
            "doc": option.doc,
        }
        for option in item.options.values()
    ]
    return {
        "name": item.name,
        "kind": item.kind,
        "title": item.title,
        "family": item.family,
        "paper": item.paper,
        "signed": item.signed,
        "summary": item.summary,
        "caveat": item.caveat,
        "options": options,
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def _lines(item: Entry, *, full: bool) -> list[str]:
    if not full:
        return [f"{item.name:22} {item.title}  ({item.kind}, {item.family})"]
    lines = [f"{item.name}: {item.title}", item.summary, *([item.caveat] if item.caveat else []), ""]
    return [*lines, *(f"  {option.name}={_values(option)}  {option.doc}" for option in item.options.values())]


def _values(option: Option) -> str:
    """The option's default; where the presets differ, the value of each."""
    named = [f"{_short(value)} ({preset})" for preset, value in option.presets.items()]
    return ", ".join(named) or _short(option.default)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(_plain(value))


@command(app, "layers", examples=("", "--model torchvision:resnet18"))
def layers(common: CommonOptions) -> Answer:
    """List the layers of a classifier in the order in which they run, with the shapes of their outputs."""
    classifier = common.load()
    default = classifier.default_layer
    rows = [
        {"name": layer.name, "kind": layer.kind, "shape": list(layer.shape), "order": layer.order}
        for layer in classifier.layers
    ]
    lines = [
        f"{layer.name:32} {layer.kind:20} {'x'.join(map(str, layer.shape))}"
        + ("   <- default" if layer.name == default else "")
        for layer in classifier.layers
    ]
    return Answer({"model": classifier.name, "default": default, "layers": rows}, "\n".join(lines))


@command(app, "classes", examples=("lemur", "--json"))
def classes(
    common: CommonOptions,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="Index, WordNet id or part of a name.")] = None,
) -> Answer:
    """Look up the classes of a classifier."""
    labels = common.load().labels
    found = list(range(len(labels))) if query is None else labels.search(query)
    if query is not None and not found:
        labels.find(query)  # raises, with the nearest names
    rows = [
        {
            "index": index,
            "id": labels.ids[index] if labels.ids else None,
            "label": labels[index],
            "synonyms": list(labels.synonyms[index]) if labels.synonyms else [],
        }
        for index in found
    ]
    lines = [labels.describe(index) for index in found]
    return Answer({"classes": rows}, "\n".join(lines) or "its classes have no names: they are said by index")


@command(app, "report", common=False, examples=("phosphene-runs/explain-20250101-120000", "runs/all --report pages"))
def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
    mode: Annotated[
        Literal["single", "pages"] | None,
        typer.Option("--report", help="One file, or pages beside the pictures; default by size."),
    ] = None,
) -> Answer:
    """Write the report of a run folder again."""
    from phosphene.report import write_report

    return Answer({"run": run, "report": str(write_report(run, mode))}, "")
