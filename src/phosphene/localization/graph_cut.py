"""GraphCut: the two-label segmentation of least energy, found exactly as the minimum cut of a graph on the pixels.

``E(y) = sum_p [y_p = 0] max(o_p, 0) + [y_p = 1] max(-o_p, 0) + sum_pq w_pq [y_p != y_q]`` with the log odds o_p
of a pixel being object, and a price w_pq for parting neighbors that falls with the contrast between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from phosphene.errors import OptionError

Array = NDArray[np.floating]

# The solver wants whole numbers; one unit of energy is this many, fewer on large pictures, where the flow from the
# source would else pass 2**31. Log odds beyond the limit are hard constraints in all but name.
_UNITS = 1000
_MOST_ODDS = 50.0
_MOST_FLOW = 2**31 - 1


@dataclass(frozen=True)
class Edges:
    """Pairs of neighboring pixels and the price of parting each.

    Args:
        first: (E,) index of a pixel, counted row by row.
        second: (E,) index of its neighbor.
        weight: (E,) price, not negative.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    weight: Array


def contrast_edges(colors: Array, *, smoothness: float) -> Edges:
    """The eight neighbors of every pixel, cheap to part where the colors differ.

    ``w_pq = smoothness * exp(-|c_p - c_q|^2 / (2 mean |c - c'|^2)) / |p - q|``, the mean over all neighbors:
    a contrast that is usual in this very picture costs little. The paper does not give its weights; these are
    those of Boykov and Jolly with the scale of GrabCut.

    Args:
        colors: (h, w, 3).
        smoothness: price of parting two neighbors of the same color, in units of log odds.

    Example:
        >>> edges = contrast_edges(np.zeros((2, 2, 3)), smoothness=2.0)
        >>> len(edges.weight), float(edges.weight.max())
        (6, 2.0)

    References:
        boykov2001; rother2004.
    """
    if smoothness < 0:
        raise OptionError(f"smoothness {smoothness} is negative; give 0 or more")
    pairs = list(_neighbors(*colors.shape[:2]))
    flat = colors.reshape(-1, colors.shape[-1])
    contrasts = [np.square(flat[first] - flat[second]).sum(axis=1) for first, second, _ in pairs]
    everything = np.concatenate(contrasts)
    usual = float(everything.mean()) if everything.size else 0.0
    scale = 0.0 if usual == 0 else 0.5 / usual
    weights = [
        smoothness / distance * np.exp(-scale * contrast)
        for (_, _, distance), contrast in zip(pairs, contrasts, strict=True)
    ]
    first, second = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    return Edges(first, second, np.concatenate(weights))


def _neighbors(height: int, width: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], float]]:
    """(pixels, their neighbors, distance) in the four directions that give every pair once."""
    index = np.arange(height * width).reshape(height, width)
    yield index[:, :-1].ravel(), index[:, 1:].ravel(), 1.0
    yield index[:-1].ravel(), index[1:].ravel(), 1.0
    yield index[:-1, :-1].ravel(), index[1:, 1:].ravel(), 2**0.5
    yield index[:-1, 1:].ravel(), index[1:, :-1].ravel(), 2**0.5


def minimum_cut(log_odds: Array, edges: Edges) -> NDArray[np.bool_]:
    """The mask of least energy, exact up to the rounding of prices to 1/1000 (on megapixels to about 1/40).

    Of several masks of the same energy it is the smallest.

    Args:
        log_odds: (h, w), positive where a pixel speaks for the object; cut to [-50, 50].
        edges: neighbors and prices.

    Returns:
        (h, w) boolean.

    Example:
        >>> odds = np.array([[3.0, -1.0, 3.0]])
        >>> minimum_cut(odds, contrast_edges(np.zeros((1, 3, 3)), smoothness=0.4)).astype(int)
        array([[1, 0, 1]])
        >>> minimum_cut(odds, contrast_edges(np.zeros((1, 3, 3)), smoothness=0.6)).astype(int)
        array([[1, 1, 1]])

    References:
        boykov2001.
    """
    graph = _graph(log_odds, edges)
    source, sink = log_odds.size, log_odds.size + 1
    residual = graph - scipy.sparse.csgraph.maximum_flow(graph, source, sink).flow
    residual.eliminate_zeros()
    reached = scipy.sparse.csgraph.breadth_first_order(residual, source, return_predecessors=False)
    mask = np.zeros(log_odds.size + 2, dtype=bool)
    mask[reached] = True
    return mask[: log_odds.size].reshape(log_odds.shape)


def _graph(log_odds: Array, edges: Edges) -> scipy.sparse.csr_array:
    """Capacities: source -> pixel for what speaks for the object, pixel -> sink for what speaks against it."""
    units = min(_UNITS, _MOST_FLOW // (math.ceil(_MOST_ODDS) * log_odds.size))
    odds = _whole(log_odds.ravel().clip(-_MOST_ODDS, _MOST_ODDS), units)
    weight = _whole(edges.weight, units)
    source, sink = len(odds), len(odds) + 1
    spoken_for, against = np.flatnonzero(odds > 0), np.flatnonzero(odds < 0)
    tails = np.concatenate([edges.first, edges.second, np.full(len(spoken_for), source), against])
    heads = np.concatenate([edges.second, edges.first, spoken_for, np.full(len(against), sink)])
    capacities = np.concatenate([weight, weight, odds[spoken_for], -odds[against]])
    return scipy.sparse.csr_array((capacities, (tails, heads)), shape=(sink + 1, sink + 1))


def _whole(values: Array, units: int) -> NDArray[np.int32]:
    return np.rint(values * units).astype(np.int32)
