"""Slow, literal versions of what localization computes."""

from __future__ import annotations

import itertools
import math

import numpy as np


def energy(labels, odds, edges) -> float:
    """The energy that GraphCut minimizes, term by term."""
    total = 0.0
    for label, value in zip(labels, odds.ravel(), strict=True):
        total += max(-value, 0.0) if label else max(value, 0.0)
    for first, second, weight in zip(edges.first, edges.second, edges.weight, strict=True):
        total += weight if labels[first] != labels[second] else 0.0
    return total


def least_energy(odds, edges) -> float:
    """The smallest energy of all 2^n labelings."""
    return min(energy(labels, odds, edges) for labels in itertools.product([False, True], repeat=odds.size))


def edge_weights(colors, smoothness):
    """{(p, q): weight} of every pair of neighbors, from the formula."""
    height, width = colors.shape[:2]
    pairs = {}
    for (y, x), (dy, dx) in itertools.product(np.ndindex(height, width), [(0, 1), (1, 0), (1, 1), (1, -1)]):
        if 0 <= y + dy < height and 0 <= x + dx < width:
            contrast = float(((colors[y, x] - colors[y + dy, x + dx]) ** 2).sum())
            pairs[y * width + x, (y + dy) * width + x + dx] = (contrast, math.hypot(dy, dx))
    usual = sum(contrast for contrast, _ in pairs.values()) / len(pairs)
    return {
        pair: smoothness / distance * math.exp(-contrast / (2 * usual)) for pair, (contrast, distance) in pairs.items()
    }


def pieces(mask):
    """The connected pieces of a mask as sets of places, by flood fill."""
    left, found = {tuple(place) for place in np.argwhere(mask).tolist()}, []
    while left:
        open_places, piece = [left.pop()], set()
        while open_places:
            y, x = open_places.pop()
            piece.add((y, x))
            for place in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if place in left:
                    left.remove(place)
                    open_places.append(place)
        found.append(piece)
    return found


def overlap(first, second) -> float:
    """Intersection over union of boxes with whole corners, counted pixel by pixel."""
    one, two = (
        {(x, y) for x in range(int(box.x0), int(box.x1)) for y in range(int(box.y0), int(box.y1))}
        for box in (first, second)
    )
    return len(one & two) / len(one | two)
