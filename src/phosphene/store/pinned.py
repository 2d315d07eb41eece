"""Facets that are held fast: which pictures stand for each, with which weights, out of a run of features or a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phosphene.errors import InputError
from phosphene.files import is_run
from phosphene.store.rows import FeatureRow
from phosphene.store.run import open_run


@dataclass(frozen=True)
class PinnedFacet:
    """The exemplars of a facet.

    Args:
        paths: of the pictures.
        weights: of each, summing to 1.
    """

    paths: tuple[str, ...]
    weights: tuple[float, ...]


def read_pinned(place: str | os.PathLike[str]) -> tuple[PinnedFacet, ...]:
    """The facets of the first layer of a run of `phosphene features`, or of a JSON file.

    The file holds what the command prints with --json, or {"facets": [{"exemplars": [{"path": ..., "weight": ...}]}]};
    paths are relative to it.

    Raises:
        InputError: if it holds no facets, or weights that make no sense; naming what is wrong.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "facets.json"
        >>> _ = file.write_text('{"facets": [{"exemplars": [{"path": "a.jpg", "weight": 1}]}]}')
        >>> [facet.weights for facet in read_pinned(file)]
        [(1.0,)]
    """
    path = Path(place)
    if path.is_dir():
        return _of_run(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no JSON that can be read ({getattr(error, 'strerror', None) or error})") from None
    if isinstance(content, Mapping) and content.get("layers"):
        content = content["layers"][0]
    facets = content.get("facets") if isinstance(content, Mapping) else content
    if not isinstance(facets, list) or not facets:
        raise InputError(f'{path}: holds no facets; write {{"facets": [{{"exemplars": [{{"path", "weight"}}]}}]}}')
    return tuple(_facet(facet, number, path) for number, facet in enumerate(facets))


def _of_run(path: Path) -> tuple[PinnedFacet, ...]:
    rows = open_run(path).rows() if is_run(str(path)) else ()
    row = next((row for row in rows if isinstance(row, FeatureRow) and row.facets), None)
    if row is None:
        raise InputError(f"{path}: is no run of phosphene features with a layer that is done")
    return tuple(
        _checked([item.path for item in facet.exemplars], [item.weight for item in facet.exemplars], number, path)
        for number, facet in enumerate(row.facets)
    )


def _facet(facet: Any, number: int, path: Path) -> PinnedFacet:
    try:
        exemplars = [(str(path.parent / item["path"]), float(item["weight"])) for item in facet["exemplars"]]
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path}: facet {number} has no exemplars with path and weight ({type(error).__name__}: {error})"
        ) from None
    return _checked([name for name, _ in exemplars], [weight for _, weight in exemplars], number, path)


def _checked(paths: list[str], weights: list[float], number: int, path: Path) -> PinnedFacet:
    total = sum(weights)
    if not paths or len(set(paths)) < len(paths) or not all(weight >= 0 for weight in weights):
        raise InputError(f"{path}: facet {number} needs exemplars, each once, with weights of 0 or more")
    if not 0 < total < math.inf:
        raise InputError(f"{path}: the weights of facet {number} add up to {total}; give at least one above 0")
    return PinnedFacet(tuple(paths), tuple(weight / total for weight in weights))
