"""Rows of maps: values, overlays and color scales of attributions, as a sink stores them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from phosphene.images import Picture
from phosphene.labels import Labels
from phosphene.registry import Spec, entry, format_spec
from phosphene.render import (
    Scale,
    colorbar,
    contrast_labels,
    contrast_sheet,
    doubt,
    laid_layer,
    laid_map,
    overlay,
    reconstruction_picture,
    scale_of,
    shared_scale,
    tells_no_place,
    thumbnail,
    with_doubt,
)
from phosphene.store import Asset, ExplainRow, File, Grid, MapRow, ScaleRow, TargetRow, Versus, file_stem
from phosphene.targets import Target
from phosphene.types import Attribution, Render, View, percent

# Overlays are for looking at; larger ones only make files heavy. The raw maps are kept whole.
OVERLAY_SIDE = 2048
REPORT_SIDE = 640
# Share of a picture of which nothing is said where the network saw so much.
_LEAST_SEEN = 0.25
# A fourth of the time of the usual level for a tenth more of the size: pictures cost more than passes.
_PNG = {"compress_type": zlib.Z_RLE}


def map_row(
    folder: str,
    picture: Picture,
    spec: Spec,
    target: Target,
    results: Sequence[Attribution],
    labels: Labels,
    render: Render = "overlay",
    side: int = OVERLAY_SIDE,
) -> MapRow:
    """The row of one map of one picture; of two classes told apart with the maps of both beside it, by one scale.

    Args:
        folder: of the picture within the run.
        picture: as it was given.
        spec: of the method.
        target: of the map.
        results: the map, each of one picture with its view; of two classes the one, the other, the difference.
        labels: of the classifier.
        render: which pictures are drawn of it.
        side: long side of these pictures in pixels; 0 draws none.
    """
    if not side:
        return _values(folder, spec, results[-1], labels)
    draw = partial(_row, folder, picture, spec, labels=labels, render=render, side=side)
    if len(results) == 1:
        return draw(results[0], scale_of(results[0].heat[0], results[0].display))
    scale = shared_scale([scale_of(result.heat[0], result.display) for result in results], "contrast")
    *beside, row = (draw(result, scale) for result in results)
    return _contrasted(replace(row, beside=tuple(beside)))


def failed_row(spec: Spec, target: Target, labels: Labels, error: str) -> MapRow:
    """The row of a map that could not be made."""
    return replace(_named(spec, target, labels), status="error", error=error)


def method_scales(rows: Sequence[ExplainRow]) -> dict[str, Scale]:
    """For each method the one scale that holds all maps of these rows."""
    scales: dict[str, list[Scale]] = {}
    for part in (part for row in rows for shown in row.maps for part in (*(shown.beside or ()), shown)):
        if part.scale is not None:
            scales.setdefault(part.method, []).append(_scale(part.scale))
    return {method: shared_scale(found) for method, found in scales.items()}


def recolored(
    row: ExplainRow, picture: Picture, scales: Mapping[str, Scale], load: Callable[[File], NDArray[Any]]
) -> ExplainRow:
    """The row with its overlays drawn by other scales.

    Args:
        row: whose maps are written or not.
        picture: of the row.
        scales: for each method.
        load: the values of a map.
    """
    return replace(row, maps=tuple(_recolored(shown, picture, scales, load) for shown in row.maps))


def is_colored_by(row: ExplainRow, scales: Mapping[str, Scale]) -> bool:
    """Whether all maps of a row have these scales."""
    parts = [part for shown in row.maps for part in (*(shown.beside or ()), shown) if part.scale is not None]
    return all(part.scale == _scale_row(scales[part.method]) for part in parts)


def _row(
    folder: str,
    picture: Picture,
    spec: Spec,
    result: Attribution,
    scale: Scale,
    *,
    labels: Labels,
    render: Render,
    side: int,
) -> MapRow:
    """The row of one map with all that is drawn of it."""
    row = _values(folder, spec, result, labels)
    stem = _map_stem(folder, row)
    brought_back = reconstruction_picture(result, result.views[0], REPORT_SIDE)
    row = replace(
        row, reconstruction=None if brought_back is None else Asset(f"{stem}-reconstruction.png", brought_back, _PNG)
    )
    return _colored(row, stem, picture, result, scale, render, side)


def _values(folder: str, spec: Spec, result: Attribution, labels: Labels) -> MapRow:
    """The row of one map, nothing drawn."""
    row = _named(spec, result.target, labels)
    problem, stem = result.problems[0], _map_stem(folder, row)
    unlikely = doubt(row.target.label, result.explained[0].probability) if result.explained else None
    empty = None if problem else tells_no_place(result.heat[0], result.display)
    own = (unlikely, empty, _mostly_unseen(result.views[0]))
    return replace(
        row,
        status="error" if problem else "ok",
        error=problem,
        layer=result.layer,
        score=float(result.score[0]),
        probability=_finite(result.explained[0].probability) if result.explained else None,
        seconds=result.seconds,
        map=Asset(f"{stem}.npy", result.maps[0].cpu().numpy()),
        grid=Grid(result.offset, result.stride, result.size),
        view=result.views[0],
        signed=result.signed,
        display=result.display,
        checks={check: values[0] for check, values in result.checks.items()},
        notes=(*(note for note in own if note), *result.notes),
        evidence=None if result.evidence is None else Asset(f"{stem}-evidence.npy", result.evidence[0].cpu().numpy()),
    )


def _mostly_unseen(view: View) -> str | None:
    """What has to be said where the network saw a small part of a picture, as of a panorama its center; else None."""
    share = math.prod(view.size) / math.prod(view.scaled)
    if share >= _LEAST_SEEN:
        return None
    return f"the network saw {percent(share)} of the picture, its center; the view whole shows it all, squashed"


def _map_stem(folder: str, row: MapRow) -> str:
    return f"{folder}/{file_stem(row.method)}-{file_stem(_target_name(row.target), 40)}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _named(spec: Spec, target: Target, labels: Labels) -> MapRow:
    """A row with nothing but the names of method and target."""
    found = entry("attribution", spec.name)
    versus = Versus(target.versus[0], labels[target.versus[0]]) if target.versus else None
    shown = TargetRow(target.classes[0] if target.classes else None, target.label(labels), versus)
    return MapRow(format_spec(spec), shown, title=found.title, caveat=found.caveat)


def _target_name(target: TargetRow) -> str:
    text = target.label if target.index is None else f"{target.index}-{target.label}"
    return f"{text}-versus-{target.versus.index}" if target.versus else text


def _colored(
    row: MapRow,
    stem: str,
    picture: Picture,
    result: Attribution,
    scale: Scale,
    render: Render,
    side: int = OVERLAY_SIDE,
) -> MapRow:
    view = result.views[0]
    row = replace(row, colorbar=Asset(f"{stem}-scale.png", colorbar(scale)), scale=_scale_row(scale))
    if render != "overlay":
        alone = with_doubt(laid_map(result, view, scale, side), row.target.label, row.probability)
        row = replace(row, opaque=Asset(f"{stem}-map.png", alone, _PNG))
    if render == "map":
        return row
    layer = laid_layer(result, view, scale, side)
    large = thumbnail(picture, side)
    laid = overlay(large, layer, fine=scale.display == "percentile")
    small = layer.resize(thumbnail(picture, REPORT_SIDE).size, Image.Resampling.BILINEAR)
    return replace(
        row,
        overlay=Asset(f"{stem}.png", with_doubt(laid, row.target.label, row.probability), _PNG),
        heat=Asset(f"{stem}-heat.png", small, _PNG),
    )


def _render(row: MapRow) -> Render:
    """Which pictures are drawn of a row."""
    return "overlay" if row.opaque is None else "map" if row.overlay is None else "both"


def _contrasted(row: MapRow) -> MapRow:
    """The row with the picture of its three maps side by side, from their overlays, or else from the maps alone."""
    parts = (*(row.beside or ()), row)
    drawn = [part.overlay or part.opaque for part in parts]
    contents = [asset.content for asset in drawn if isinstance(asset, Asset)]
    pictures = [content for content in contents if isinstance(content, Image.Image)]
    if row.scale is None or row.map is None or len(pictures) != 3:
        return row
    labels = contrast_labels(*(part.target.label for part in parts[:-1]))
    sheet = contrast_sheet(pictures, labels, _scale(row.scale))
    return replace(row, contrast=Asset(f"{_stem(row.map)}-contrast.png", sheet))


def _recolored(
    row: MapRow, picture: Picture, scales: Mapping[str, Scale], load: Callable[[File], NDArray[Any]]
) -> MapRow:
    if row.map is None or row.grid is None or row.view is None:
        return row
    scale = scales[row.method]
    beside = None if row.beside is None else tuple(_recolored(part, picture, scales, load) for part in row.beside)
    offset, stride = row.grid.offset, row.grid.stride
    if row.evidence is not None:
        offset, stride = (0.5, 0.5), (1.0, 1.0)
    values = torch.from_numpy(np.asarray(load(row.evidence or row.map)))[None]
    facts: dict[str, Any] = {"size": row.grid.size, "views": (row.view,), "display": scale.display}
    result = Attribution(values, Target.of(0), values.new_zeros(1), row.method, offset, stride, **facts)
    shown = replace(_colored(row, _stem(row.map), picture, result, scale, _render(row)), beside=beside)
    return shown if beside is None else _contrasted(shown)


def _stem(file: File) -> str:
    return str(PurePath(file.name if isinstance(file, Asset) else file).with_suffix(""))


def _scale_row(scale: Scale) -> ScaleRow:
    return ScaleRow(**asdict(scale), text=scale.describe())


def _scale(row: ScaleRow) -> Scale:
    return Scale(row.low, row.high, row.display, row.over, row.floor)  # type: ignore[arg-type]
