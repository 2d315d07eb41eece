"""The report of a run in shards: a page that opens at once, and files beside it that it loads as they are looked at.

`report.html` holds the counts; `report/columns.js` a few values of each picture, to sort and choose by;
`report/rows-NNNNN.js` the pictures themselves, some at a time. Scripts and not JSON, since a page that was opened from
disk may load scripts and nothing else.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, groupby
from typing import Any

import numpy as np
import torch
from jinja2 import Environment
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from phosphene.errors import PhospheneError
from phosphene.files import is_folder, is_url, join
from phosphene.images import Picture, to_pil
from phosphene.render import Scale, heat_layer, scale_of, thumbnail
from phosphene.report.summary import Seen, seen_of, summary
from phosphene.sources import Entry, Item, open_source, source_kinds
from phosphene.sources.ahead import load_ahead
from phosphene.store import Record, Run, ShardFormat, begun_shards, decode_mask, map_values, shard_records

ROWS_A_FILE = 24
_SIDE = 176
_MAP_SIDE = 48
_FOLDER = "report"
_LIGHT = (
    "key", "path", "status", "error", "predicted", "label", "label_index", "correct", "method", "target_index",
    "target_label", "score", "seconds", "evidence_inside", "mask_share",
)  # fmt: skip


def sharded_report(run: Run, templates: Environment) -> Iterator[tuple[str, str]]:
    """(name, text) of each file of the report, the page last.

    Args:
        run: in shards, finished or not.
        templates: that hold batch.html.j2.
    """
    carried = list(run.manifest["shards"]["columns"])
    names = _column_names(run)
    light = [*_LIGHT, *names]
    seen: list[Seen] = []
    classes: dict[int, str] = {}
    for group in _groups(run, light):
        seen.append(seen_of(group, names))
        classes |= {best["index"]: best["label"] for best in group[0]["predicted"] or ()}
    found = summary(seen, classes)
    yield f"{_FOLDER}/columns.js", _script("columns", found.columns)
    for number, rows in enumerate(_some_at_a_time(_rows(run, seen), ROWS_A_FILE)):
        yield f"{_FOLDER}/rows-{number:05d}.js", _script("rows", number, rows)
    planned = run.manifest["plan"]["count"]
    page = templates.get_template("batch.html.j2")
    shown = {
        "count": len(seen),
        "rows": ROWS_A_FILE,
        "sorts": list(found.columns["values"]),
        "classes": found.columns["names"],
        "palettes": {display: _palette(display) for display in ("positive", "signed", "range", "mask")},
    }
    facts = {"run": {**run.manifest, "images": ()}, "page": None, "missing": (), "left": planned - len(seen)}
    yield "report.html", page.render(**facts, found=found, data=_embedded(shown), carried=carried)


def _column_names(run: Run) -> list[str]:
    """The source's own columns as they are called in the shards."""
    cut = run.manifest["shards"]
    format = ShardFormat(cut["maps"], cut["overlays"], cut["columns"])
    return [format.column_name(name) for name in cut["columns"]]


def _groups(run: Run, columns: Sequence[str] | None = None) -> Iterator[list[Record]]:
    """The records of each picture, in the order of the shards."""
    records = chain.from_iterable(
        shard_records(run.place, name, None if columns is None else list(columns)) for name in begun_shards(run.place)
    )
    for _, group in groupby(records, key=lambda record: record["key"]):
        yield list(group)


def _some_at_a_time(rows: Iterator[dict[str, Any]], count: int) -> Iterator[list[dict[str, Any]]]:
    waiting: list[dict[str, Any]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == count:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _rows(run: Run, seen: Sequence[Seen]) -> Iterator[dict[str, Any]]:
    """What the page shows of each picture, in order."""
    pictures = _pictures(run, [one.key for one in seen])
    for group, picture in zip(_groups(run), pictures, strict=False):
        yield _row(group, picture, run.manifest)


def _row(group: Sequence[Record], item: Item, manifest: Mapping[str, Any]) -> dict[str, Any]:
    first = group[0]
    picture = item.picture if item.picture is not None else _from_overlay(first)
    size = first.get("picture_size")
    columns = manifest["shards"]["columns"]
    return {
        "key": first["key"],
        "path": first["path"],
        "error": next((record["error"] for record in group if record["error"]), None),
        "label": first["label"],
        "correct": first["correct"],
        "predicted": [[best["label"], _rounded(best["probability"])] for best in first["predicted"] or ()],
        "size": size,
        "picture": None if picture is None else _jpeg(thumbnail(picture, _SIDE)),
        "original": _original(first["path"], manifest["folder"]),
        "columns": {name: first[name] for name in columns if name in first},
        "maps": [shown for record in group if record["method"] is not None for shown in _map(record)],
        "objects": [_object(record, size) for record in group if record["box"] is not None and size],
    }


def _from_overlay(record: Record) -> Picture | None:
    """The overlay that was kept, where the picture itself is not at hand."""
    content = record.get("overlay")
    return None if content is None else Image.open(io.BytesIO(content))


def _map(record: Record) -> Iterator[dict[str, Any]]:
    """The map of a record as a small picture of its values, and the mask of its object as another."""
    about = {
        "method": record["method"],
        "target": record["target_label"],
        "score": _rounded(record["score"]),
        "seconds": _rounded(record["seconds"]),
        "inside": _rounded(record["evidence_inside"]),
        "area": _rounded(record["mask_share"]),
    }
    values = map_values(record)
    if values is None:
        yield about
        return
    small = _small(np.asarray(values, np.float32))
    scale = scale_of(small, record.get("map_display") or "positive")
    yield about | _layer(small, scale) | {"place": _place(record, values.shape), "low": scale.low, "high": scale.high}
    if record["mask"] is not None:
        mask = _small(decode_mask(record["mask"]).astype(np.float32))
        place = {"place": [0, 0, 1, 1], "display": "mask"}
        yield {"method": "mask", "target": record["target_label"], **_layer(mask, Scale(0, 1, "positive")), **place}


def _small(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The map with at most so many cells a side, each the mean of what it covers."""
    height, width = values.shape
    factor = max(height, width) / _MAP_SIDE
    if factor <= 1:
        return np.nan_to_num(values)
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    pooled = F.adaptive_avg_pool2d(torch.from_numpy(np.nan_to_num(values))[None, None], size)[0, 0]
    return np.asarray(pooled)


def _layer(values: NDArray[np.float32], scale: Scale) -> dict[str, Any]:
    span = scale.high - scale.low
    share = np.clip((values - scale.low) / span, 0, 1) if span > 0 else np.zeros_like(values)
    levels = (share * 255).round().astype(np.uint8)
    return {"shape": list(values.shape), "values": _text(levels.tobytes()), "display": scale.display}


def _place(record: Record, shape: tuple[int, ...]) -> list[float]:
    """[left, top, width, height] of a map in parts of the picture."""
    view, grid = record["view"], record["map_grid"]
    if view is None or grid is None:
        return [0, 0, 1, 1]
    found = []
    for axis in (1, 0):
        start = view["crop"][axis] + grid["offset"][axis] - grid["stride"][axis] / 2
        length = grid["stride"][axis] * shape[axis]
        found.append((start / view["scaled"][axis], length / view["scaled"][axis]))
    (left, width), (top, height) = found
    return [round(part, 4) for part in (left, top, width, height)]


def _object(record: Record, size: Sequence[int]) -> dict[str, Any]:
    x0, y0, x1, y1 = record["box"]
    height, width = size
    box = [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height]
    return {"label": record["target_label"], "probability": _rounded(record["score"]), "box": box}


def _pictures(run: Run, keys: Sequence[str]) -> Iterator[Item]:
    """The pictures of the source again, read ahead as the network was shown them; none where it is not to be had."""
    found: Iterator[Entry] = iter(())
    with suppress(PhospheneError):  # else the report says what the shards say
        found = _entries(run, keys)
    entries = {entry.key: entry for entry in found}
    listed = (entries.get(key) or Entry(key, key, partial(_gone, key)) for key in keys)
    model = run.manifest["model"]
    return load_ahead(listed, **{name: model.get(name) for name in ("channels", "black", "white")})


def _gone(key: str, **_reading: Any) -> Picture:
    raise FileNotFoundError(key)


def _entries(run: Run, keys: Sequence[str]) -> Iterator[Entry]:
    told = run.manifest.get("source") or {}
    specs = [_at(spec, run.manifest["folder"]) for spec in told.get("spec", ())]
    columns = {name: told[name] for name in ("path_column", "label_column") if told.get(name) is not None}
    wanted = set(keys)
    if not specs:
        return iter(())
    source = open_source(specs if len(specs) > 1 else specs[0], **columns)
    return iter([entry for entry in source.entries() if entry.key in wanted])


def _at(spec: str, folder: str) -> str:
    """A spec as it was meant in the folder where the run was begun."""
    kind, colon, rest = spec.partition(":")
    if colon and kind in source_kinds() and not rest.startswith("//"):
        return f"{kind}:{join(folder, rest)}"
    return spec if is_url(spec) or not is_folder(folder) else join(folder, spec)


def _original(path: str, folder: str) -> str | None:
    """The picture itself, where it is a file that a browser of this machine can show."""
    place = join(folder, path)
    return None if is_url(place) or not os.path.isfile(place) or not _is_unicode(place) else os.path.abspath(place)


def _is_unicode(text: str) -> bool:
    """Whether a page can make an address of it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _jpeg(picture: Image.Image) -> str:
    content = io.BytesIO()
    to_pil(picture).convert("RGB").save(content, "JPEG", quality=74)
    return _text(content.getvalue())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")


def _palette(display: str) -> str:
    """The 256 colors of a display, RGBA, one after another."""
    if display == "mask":
        rgba = np.zeros((256, 4), np.uint8)
        rgba[:, :3] = (249, 115, 22)
        rgba[:, 3] = np.arange(256) // 2
        return _text(rgba.tobytes())
    kind: Any = display
    low = -1.0 if display == "signed" else 0.0
    layer = heat_layer(np.linspace(low, 1, 256, dtype=np.float32)[None], Scale(low, 1, kind))
    return _text(np.asarray(layer).tobytes())


def _script(name: str, *arguments: Any) -> str:
    """A call that the page understands, safe to be loaded as a script."""
    return f"phosphene.{name}({', '.join(map(_embedded, arguments))});\n"


def _embedded(value: Any) -> str:
    """JSON that neither ends a script nor breaks a line of one."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
