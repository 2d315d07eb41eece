"""The activation atlas of a layer: places of the pictures laid out in the plane, a picture for each cell of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from phosphene.atlases.drawn import CHANNEL, small
from phosphene.atlases.look import crop, npz, webp
from phosphene.images import to_pil
from phosphene.store import file_stem
from phosphene.synthesis.directions import draw_directions
from phosphene.synthesis.facets import embedded

if TYPE_CHECKING:
    from phosphene.atlases.desk import Desk, Made, Tell

Floats = NDArray[np.float32]

# Of the ridge beside the layer's second moments, in units of their mean.
_RIDGE = 0.3
_CLASSES, _EXAMPLES, _EXAMPLE = 3, 4, 72
# Of the places that t-SNE lays out: beyond these it takes minutes.
_MOST = 6000


@dataclass(frozen=True)
class Map:
    """A part of an atlas: the places of a layer laid out, and the cells that hold any.

    Args:
        layer: by name.
        folder: of the layer's files.
    """

    layer: str
    folder: str

    @property
    def key(self) -> str:
        """What the part is called."""
        return f"map-{file_stem(self.folder.replace('/', '-'))}"

    def make(self, desk: Desk, tell: Tell) -> Made:
        """The mean activation of each cell, which classes it speaks for, and the places nearest to it."""
        config, found = desk.work.config, desk.answers.layers[self.layer]
        tell(0, 1)
        rows = np.linspace(0, len(found.places) - 1, min(len(found.places), _MOST)).round().astype(int)
        values = found.places[rows].astype(np.float32)
        cells = in_cells(embedded(values.astype(np.float64), seed=config.seed), config.grid)
        means, record = [], []
        files: dict[str, bytes] = {}
        overall = values.mean(axis=0)
        weights = desk.head_weights(self.layer)
        for row, column in sorted({(int(row), int(column)) for row, column in cells}):
            inside = np.flatnonzero((cells == (row, column)).all(axis=1))
            mean = values[inside].mean(axis=0)
            nearest = inside[np.argsort(np.linalg.norm(values[inside] - mean, axis=1), kind="stable")]
            own = rows[self._of_different_pictures(found.where[rows[nearest]], nearest)]
            name = f"{self.folder}/places-{row}-{column}.webp"
            files[name] = self._strip(desk, found.where[own])
            record.append(
                {
                    "row": row,
                    "column": column,
                    "count": len(inside),
                    "places": name,
                    "pictures": list(
                        dict.fromkeys(desk.answers.pictures[int(one)]["name"] for one in found.where[own][:, 0])
                    ),
                    "classes": _classes(desk, weights, mean - overall, found.where[rows[inside]]),
                }
            )
            means.append(mean)
        files[f"material/{self.key}.npz"] = npz({"means": np.stack(means), "directions": whitened(means, values)})
        by = "head" if weights is not None else "pictures"
        return files, {"layer": self.layer, "grid": config.grid, "places": len(rows), "cells": record, "classes_by": by}

    def _of_different_pictures(self, where: Floats, nearest: NDArray[Any]) -> NDArray[Any]:
        """The first few places, each of another picture where there are so many."""
        _, first = np.unique(where[:, 0], return_index=True)
        order = sorted(first)[:_EXAMPLES]
        rest = [number for number in range(len(nearest)) if number not in order]
        return nearest[sorted([*order, *rest[: _EXAMPLES - len(order)]])]

    def _strip(self, desk: Desk, where: Floats) -> bytes:
        """Places side by side."""
        pictures = desk.pictures({int(row) for row in where[:, 0]})
        side = desk.field(self.layer)
        strip = Image.new("RGB", (_EXAMPLE * len(where), _EXAMPLE))
        for number, (row, y, x) in enumerate(where.tolist()):
            strip.paste(crop(*pictures[int(row)], (y, x), side).resize((_EXAMPLE, _EXAMPLE)), (_EXAMPLE * number, 0))
        return webp(strip, 74)


@dataclass(frozen=True)
class Cells:
    """A part of an atlas: pictures of some cells of a map.

    Args:
        number: of the part.
        map: whose cells they are.
        cells: (row, column) of each.
        first: number of the first among all cells of the map.
    """

    number: int
    map: Map
    cells: tuple[tuple[int, int], ...]
    first: int

    @property
    def key(self) -> str:
        """What the part is called."""
        return f"{self.map.key}-{self.number:05d}"

    def make(self, desk: Desk, tell: Tell) -> Made:
        """A picture for each cell."""
        arrays = desk.arrays(f"material/{self.map.key}.npz")
        directions = torch.from_numpy(arrays["directions"][self.first : self.first + len(self.cells)])
        names = [f"{self.map.layer} cell {row},{column}" for row, column in self.cells]
        drawn = draw_directions(
            desk.classifier,
            self.map.layer,
            directions,
            names,
            steps=desk.work.config.channel_steps,
            seed=desk.work.config.seed,
            watch=lambda step: tell(step.index, step.steps),
        )
        files = {
            f"{self.map.folder}/cell-{row}-{column}.webp": webp(small(to_pil(image), CHANNEL), 78)
            for (row, column), image in zip(self.cells, drawn, strict=True)
        }
        return files, {"cells": [[row, column] for row, column in self.cells]}


def in_cells(points: NDArray[np.float64], grid: int) -> NDArray[np.int64]:
    """(M, 2): the (row, column) of each point (x, y) on a grid; rows count from the top.

    Of each axis the order of the points counts and not how far apart they lie: the maps of few places are islands, and
    a grid over the sea between them is empty.

    Example:
        >>> in_cells(np.array([[0.0, 0.0], [90.0, 1.0], [0.4, 0.9], [0.3, 0.3]]), 2).tolist()
        [[1, 0], [0, 1], [0, 1], [1, 0]]
    """
    order = np.argsort(np.argsort(points, axis=0, kind="stable"), axis=0, kind="stable")
    cells = order * grid // len(points)
    return np.stack([grid - 1 - cells[:, 1], cells[:, 0]], axis=1)


def whitened(means: list[Floats], values: Floats) -> Floats:
    """(n, k): directions of mean activations, less what all places have in common.

    Each mean times the inverse of the second moments of all places, with a ridge: otherwise every cell would be drawn
    as what excites the layer anywhere.

    References:
        carter2019.
    """
    wide = values.astype(np.float64)
    moments = wide.T @ wide / len(wide)
    ridge = _RIDGE * max(float(np.trace(moments)) / len(moments), 1e-12)
    directions = np.linalg.solve(moments + ridge * np.eye(len(moments)), np.stack(means).astype(np.float64).T).T
    return np.asarray(directions, np.float32)


def _classes(desk: Desk, weights: Any, mean: Floats, where: Floats) -> list[list[float]]:
    """[[class, value], ...]: what a cell speaks for through the head, or as what its places' pictures are read."""
    if weights is not None:
        scores = weights.numpy() @ mean
    else:
        scores = desk.answers.probabilities[where[:, 0].astype(int)].mean(axis=0)
    return [[int(index), float(scores[index])] for index in np.argsort(-scores, kind="stable")[:_CLASSES]]
