"""The pages of an atlas: from what its parts left to HTML and JSON, each of which names only files that are there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from phosphene.atlases.desk import Desk
from phosphene.atlases.drawn import Channels, Impressions
from phosphene.atlases.laid_out import Map
from phosphene.atlases.plan import folders, stage
from phosphene.atlases.seen import Evidence, Facets
from phosphene.files import text_bytes, write_whole
from phosphene.store import without_nan

# Of index.json; it goes up when a key changes its meaning or goes.
SCHEMA = 1
# Of the value of the channel that speaks most for a class; what is less is not shown.
_FAINT = 0.1
_NEAREST, _CHANNELS, _CLASSES, _RELATED = 6, 12, 6, 6
# Up to so many classes a network has few; the template says so too.
_FEW = 10
_ASSETS = ("atlas.css", "atlas.js")

Entry = dict[str, Any]


def write_pages(desk: Desk, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write the pages, their data, the search and index.json; what the command says of them.

    Args:
        desk: of an atlas whose parts are all made.
        manifest: of the run, for the facts at the foot of the pages.
    """
    site = described(desk)
    templates = _templates(desk.classifier.head)
    written = {"pages": 0, "bytes": 0}

    def put(name: str, content: str) -> None:
        data = text_bytes(content)
        write_whole(desk.work.place, name, data)
        written["bytes"] += len(data)

    def page(name: str, template: str, **facts: Any) -> None:
        root = "../" * name.count("/")
        shared = {"site": site, "root": root, "link": partial(_link, root), "run": manifest}
        put(name, templates.get_template(f"{template}.html.j2").render(**shared, **facts))
        written["pages"] += 1

    for name in _ASSETS:
        put(f"assets/{name}", files("phosphene.atlases").joinpath("templates", name).read_text("utf-8"))
    put("assets/search.js", f"phospheneSearch({_script(_searched(site))});\n")
    named = {entry["index"]: entry for entry in site["classes"]}
    for before, entry, after in _between(site["classes"]):
        put(entry["data"], _json(entry))
        page(entry["page"], "class", one=entry, before=before, after=after, named=named)
    for layer in site["layers"]:
        put(layer["data"], _json(layer))
        page(layer["page"], "layer", layer=layer)
        if layer["map"]:
            page(layer["map"]["page"], "activations", layer=layer, map=layer["map"])
        drawn = {channel["index"]: channel for channel in layer["channels"]}
        for before, channel, after in _between(layer["channels"]):
            facts = {"layer": layer, "one": channel, "before": before, "after": after, "named": named, "drawn": drawn}
            page(channel["page"], "channel", **facts)
    # The index last: it names pages that are there.
    put("index.json", _json(_index(site)))
    page("index.html", "index")
    return {
        "classes": len(site["classes"]),
        "layers": len(site["layers"]),
        "channels": sum(len(layer["channels"]) for layer in site["layers"]),
        "cells": sum(len(layer["map"]["cells"]) for layer in site["layers"] if layer["map"]),
        "pictures": len(site["pictures"]),
        "errors": site["errors"],
        "pages": written["pages"],
        "bytes": written["bytes"] + sum(part for part in _sizes(desk)),
    }


def described(desk: Desk) -> Entry:
    """All that the pages show, as JSON has it; files and pages by their names in the atlas."""
    records: dict[type, list[Entry]] = {}
    for part in stage(desk, 1):
        records.setdefault(type(part), []).append(desk.record(part))
    layers = [_layer(desk, layer, folder, records) for layer, folder in folders(desk.work.config.layers).items()]
    classifier = desk.classifier
    return {
        "schema": SCHEMA,
        "model": {
            "name": classifier.name,
            "classes": len(classifier.labels),
            "head": classifier.head,
            "size": classifier.preprocess.size,
            "linear_head": desk.head is not None,
        },
        "recipe": next((record["recipe"] for record in records.get(Impressions, [])), ""),
        "method": desk.work.config.method,
        "classes": _classes(desk, records, layers),
        "layers": layers,
        "pictures": [
            {
                "number": picture["number"],
                "key": picture["key"],
                "name": picture["name"],
                "thumbnail": picture["thumbnail"],
                "predicted": [_share(desk, index, value) for index, value in picture["best"]],
            }
            for picture in (desk.answers.pictures if desk.work.keys else ())
        ],
        "errors": [dict(one) for one in (desk.answers.broken if desk.work.keys else ())],
    }


def _share(desk: Desk, index: int, value: float | None, name: str = "probability") -> Entry:
    return {"index": int(index), "label": desk.classifier.labels[int(index)], name: value}


def _classes(desk: Desk, records: Mapping[type, list[Entry]], layers: Sequence[Entry]) -> list[Entry]:
    labels = desk.classifier.labels
    drawn: dict[int, list[Entry]] = {index: [] for index in desk.work.classes}
    for record in records.get(Impressions, []):
        for image in record["impressions"]:
            drawn[image["index"]].append({name: image[name] for name in ("image", "seed", "probability")})
    evidence = {one["index"]: one["pictures"] for record in records.get(Evidence, []) for one in record["classes"]}
    return [
        {
            "index": index,
            "label": labels[index],
            "id": labels.ids[index] if labels.ids else None,
            "page": f"class/{index}.html",
            "data": f"class/{index}.json",
            "impressions": sorted(drawn[index], key=lambda image: image["seed"]),
            "confused": {"head": _near_in_head(desk, index), "pictures": _seen_beside(desk, index)},
            "channels": [
                {"layer": layer["name"], "by": layer["classes_by"], "channels": found}
                for layer in layers
                if (found := _of_class(layer, index))
            ],
            "evidence": evidence.get(index, []),
        }
        for index in desk.work.classes
    ]


def _near_in_head(desk: Desk, index: int) -> list[Entry]:
    """The classes whose weights in the head point most nearly where this one's do; none without a linear head."""
    if desk.head is None:
        return []
    weights = desk.head[1]
    unit = weights / weights.norm(dim=1, keepdim=True).clamp(min=1e-12)
    cosines = unit @ unit[index]
    order = cosines.argsort(descending=True, stable=True)[: _NEAREST + 1].tolist()
    near = [one for one in order if one != index and cosines[one] > 0]
    return [_share(desk, one, float(cosines[one]), "cosine") for one in near[:_NEAREST]]


def _seen_beside(desk: Desk, index: int) -> list[Entry]:
    """What else the network reads in the pictures that have this class among their best: mean probabilities.

    Of few classes every picture has most among its five best: there it is those that are read as this class.
    """
    if not desk.work.keys:
        return []
    count = 1 if 0 < len(desk.classifier.labels) <= _FEW else None
    rows = [
        row
        for row, picture in enumerate(desk.answers.pictures)
        if index in [int(best) for best, _ in picture["best"][:count]]
    ]
    if not rows:
        return []
    means = desk.answers.probabilities[rows].mean(axis=0)
    order = [int(one) for one in np.argsort(-means, kind="stable") if int(one) != index]
    return [_share(desk, one, float(means[one])) for one in order[:_NEAREST]]


def _of_class(layer: Entry, index: int) -> list[Entry]:
    """The channels of a layer that speak most for a class, of those that are drawn."""
    found = [
        {"index": channel["index"], "page": channel["page"], "image": channel["image"], "value": value}
        for channel in layer["channels"]
        if (value := channel["speaks"].get(index, 0.0)) > 0
    ]
    best = sorted(found, key=lambda one: -float(one["value"]))[:_CHANNELS]
    return [one for one in best if one["value"] >= _FAINT * best[0]["value"]]


def _layer(desk: Desk, layer: str, folder: str, records: Mapping[type, list[Entry]]) -> Entry:
    about = next(one for one in desk.classifier.layers if one.name == layer)
    weights = desk.head_weights(layer)
    seen = bool(desk.work.keys)
    channels = [
        channel for record in records.get(Channels, []) if record["layer"] == layer for channel in record["channels"]
    ]
    speaks = _speaks(desk, layer, [channel["index"] for channel in channels])
    related = _related(desk, layer, [channel["index"] for channel in channels])
    listed = [
        {
            **channel,
            "page": f"{folder}/{channel['index']}.html",
            "classes": [
                _share(desk, index, value, "value")
                for index, value in sorted(speaks[place].items(), key=lambda pair: (-pair[1], pair[0]))[:_CLASSES]
                if value > 0
            ],
            "related": related[place],
            "speaks": _Hidden(speaks[place]),
        }
        for place, channel in enumerate(channels)
    ]
    facets = next((dict(one) for one in records.get(Facets, []) if one["layer"] == layer), None)
    map = next((one for one in records.get(Map, []) if one["layer"] == layer), None)
    return {
        "name": layer,
        "kind": about.kind,
        "shape": list(about.shape),
        "page": f"{folder}.html",
        "data": f"{folder}.json",
        "classes_by": "head" if weights is not None else "pictures" if seen else None,
        "field": desk.field(layer) if seen else None,
        "channels": listed,
        "facets": facets,
        "map": None if map is None else _map(desk, map, folder),
    }


def _map(desk: Desk, record: Entry, folder: str) -> Entry:
    cells = [
        {
            **cell,
            "image": f"{folder}/cell-{cell['row']}-{cell['column']}.webp",
            "classes": [_share(desk, int(index), value, "value") for index, value in cell["classes"]],
        }
        for cell in record["cells"]
    ]
    known = ("grid", "classes_by")
    return {
        **{name: record[name] for name in known},
        "page": f"{folder}/activations.html",
        "count": record["places"],
        "cells": cells,
    }


class _Hidden(dict[int, float]):
    """What is computed with and not told: values for every class of the network."""


def _speaks(desk: Desk, layer: str, channels: Sequence[int]) -> list[dict[int, float]]:
    """For each channel {class: how much it speaks for it}.

    Of the last layer the head's weight; of others gradient x activation, its mean over the pictures that the network
    reads as that class; {} without pictures.
    """
    weights = desk.head_weights(layer)
    if weights is not None:
        return [dict(enumerate(weights[:, channel].tolist())) for channel in channels]
    if not desk.work.keys:
        return [{} for _ in channels]
    best = np.array([int(picture["best"][0][0]) for picture in desk.answers.pictures])
    influence = desk.answers.layers[layer].influence
    means = {int(index): influence[best == index].mean(axis=0) for index in np.unique(best)}
    return [{index: float(values[channel]) for index, values in means.items()} for channel in channels]


def _related(desk: Desk, layer: str, channels: Sequence[int]) -> list[list[Entry]]:
    """For each channel those whose values at the places of the pictures point most nearly where its own do."""
    if not desk.work.keys:
        return [[] for _ in channels]
    values = desk.answers.layers[layer].places[:, list(channels)].astype(np.float64)
    unit = values / np.maximum(np.linalg.norm(values, axis=0), 1e-12)
    cosines = unit.T @ unit
    return [
        [
            {"index": int(channels[other]), "cosine": float(cosines[place, other])}
            for other in np.argsort(-cosines[place], kind="stable")
            if other != place and cosines[place, other] > 0
        ][:_RELATED]
        for place in range(len(channels))
    ]


def _index(site: Entry) -> Entry:
    """index.json: what there is and where; the data of each page lie beside it."""
    return {
        **{name: site[name] for name in ("schema", "model", "recipe", "method", "pictures", "errors")},
        "classes": [
            {
                **{name: entry[name] for name in ("index", "label", "id", "page", "data")},
                "images": [image["image"] for image in entry["impressions"]],
            }
            for entry in site["classes"]
        ],
        "layers": [
            {
                **{name: layer[name] for name in ("name", "kind", "shape", "page", "data", "field", "classes_by")},
                "activations": layer["map"]["page"] if layer["map"] else None,
                "channels": [
                    {name: channel[name] for name in ("index", "page", "image")} for channel in layer["channels"]
                ],
            }
            for layer in site["layers"]
        ],
    }


def _searched(site: Entry) -> list[list[str | None]]:
    """[what it is called, what it is, page, picture] of all that can be found."""
    found: list[list[str | None]] = [
        [
            entry["label"],
            f"class {entry['index']}" + (f", {entry['id']}" if entry["id"] else ""),
            entry["page"],
            entry["impressions"][0]["image"] if entry["impressions"] else None,
        ]
        for entry in site["classes"]
    ]
    for layer in site["layers"]:
        size = " x ".join(map(str, layer["shape"]))
        found.append([layer["name"], f"layer, {layer['kind']} {size}", layer["page"], None])
        if layer["map"]:
            found.append([f"Activation atlas of {layer['name']}", "", layer["map"]["page"], None])
        for channel in layer["channels"]:
            first = "".join(f", for {one['label']}" for one in channel["classes"][:1])
            name = f"{layer['name']}={channel['index']}"
            found.append([name, f"channel{first}", channel["page"], channel["image"]])
    return found


def _between(entries: Sequence[Entry]) -> list[tuple[Entry | None, Entry, Entry | None]]:
    """Each entry with the one before and the one after it."""
    before = [None, *entries[:-1]] if entries else []
    return list(zip(before, entries, [*entries[1:], None], strict=True))


def _link(root: str, name: str) -> str:
    """The address of a file of the atlas, from a page."""
    return root + quote(name)


def _json(value: Any) -> str:
    return json.dumps(without_nan(_told(value)), allow_nan=False, indent=1, ensure_ascii=True) + "\n"


def _script(value: Any) -> str:
    """JSON as a script may hold it, whatever names there are."""
    return json.dumps(value, allow_nan=False, ensure_ascii=True).replace("<", "\\u003c")


def _told(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _told(one) for key, one in value.items() if not isinstance(one, _Hidden)}
    return [_told(one) for one in value] if isinstance(value, list | tuple) else value


def _sizes(desk: Desk) -> list[int]:
    """Bytes of the pictures; of places behind URLs none are counted."""
    from pathlib import Path

    return [path.stat().st_size for path in Path(desk.work.place).rglob("*.webp")]


@cache
def _templates(head: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("phosphene.atlases"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _short if head == "score" else _percent  # (plain scores are no probabilities)
    environment.filters["short"] = _short
    environment.filters["kind"] = _kind
    return environment


def _percent(value: float | None) -> str:
    """A probability in whole percent.

    Example:
        >>> _percent(0.523).split(), _percent(0.0001).split(), _percent(None)
        (['52', '%'], ['<1', '%'], '-')
    """
    if value is None or value != value:
        return "-"
    return "<1\u00a0%" if 0 <= value < 0.005 else f"{100 * value:.0f}\u00a0%"


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"


def _kind(by: str | None) -> str:
    """How it was found which classes a channel speaks for."""
    return {
        "head": "weight in the network's head",
        "pictures": "gradient x activation, mean over the pictures read as this class",
    }.get(by or "", "")
