"""A B A B: both sides in turn, after a warm-up, so that what else the machine does falls on both."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.work import Work
from benchmarks.worker import Side

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One line of the table; times in milliseconds per unit."""

    work: str
    network: str
    precision: str
    unit: str
    peer: str
    peer_batch: int
    ours_ms: float
    peer_ms: float
    ratio: float
    ratio_min: float
    ratio_max: float
    max_error: float | None
    spearman: float | None
    peak_mb: float
    peer_peak_mb: float


def compare(work: Work, rounds: int, known_batches: dict[str, int], say: Say) -> list[Row]:
    """The rows of one work, one per precision of ours."""
    with ExitStack() as stack:
        peer = stack.enter_context(Side(work.name, "theirs"))
        ours = {precision: stack.enter_context(Side(work.name, "ours")) for precision in work.precisions}
        batch = known_batches.get(work.batch_of or "") or _best_batch(work, peer, say)
        known_batches[work.name] = batch
        for precision, side in ours.items():
            side.run(precision, work.probe)
            side.run(precision, work.count)
        times: dict[str, list[float]] = {name: [] for name in ("peer", *ours)}
        results: dict[str, np.ndarray] = {}
        rounds = min(rounds, work.rounds)
        for turn in range(rounds):
            for name, side in (("peer", peer), *ours.items()):
                seconds, results[name] = side.run(batch if name == "peer" else name, work.count)
                times[name].append(1e3 * seconds / work.units(work.count))
            shown = ", ".join(f"{name} {values[-1]:.2f}" for name, values in times.items())
            say(f"{work.name} {turn + 1}/{rounds}: {shown} ms per {work.unit}")
        return [_row(work, precision, batch, times, results, side, peer) for precision, side in ours.items()]


def _best_batch(work: Work, peer: Side, say: Say) -> int:
    """The batch size at which the peer is fastest, each tried twice."""
    if len(work.batches) == 1:
        return work.batches[0]
    seconds = {}
    for batch in work.batches:
        count = max(work.probe, batch) if work.of_images else work.probe
        seconds[batch] = min(peer.run(batch, count)[0] for _ in range(2)) / work.units(count)
        say(f"{work.name}: {work.peer} at batch {batch}: {1e3 * seconds[batch]:.1f} ms per {work.unit}")
    return min(seconds, key=seconds.__getitem__)


def _row(
    work: Work,
    precision: str,
    batch: int,
    times: dict[str, list[float]],
    results: dict[str, np.ndarray],
    side: Side,
    peer: Side,
) -> Row:
    ratios = [theirs / mine for theirs, mine in zip(times["peer"], times[precision], strict=True)]
    reference = results["peer"] if work.compared else None
    # What fast is measured by is our own exact result; exact is measured by the peer's.
    ranking = results.get("exact") if precision != "exact" else reference
    return Row(
        work=work.name,
        network=work.network,
        precision=precision,
        unit=work.unit,
        peer=work.peer,
        peer_batch=batch,
        ours_ms=statistics.median(times[precision]),
        peer_ms=statistics.median(times["peer"]),
        ratio=statistics.median(ratios),
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        max_error=None if reference is None else map_error(results[precision], reference),
        spearman=None if ranking is None or not work.compared else rank_correlation(results[precision], ranking),
        peak_mb=side.peak_mb,
        peer_peak_mb=peer.peak_mb,
    )


def map_error(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest over the images of max|got - wanted| / max|wanted|."""
    got, wanted = (values.reshape(len(values), -1) for values in (got, wanted))
    return float((np.abs(got - wanted).max(1) / np.abs(wanted).max(1)).max())


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of the maps, the smallest over the images."""
    rows = zip(first.reshape(len(first), -1), second.reshape(len(second), -1), strict=True)
    return float(min(spearmanr(one, other).statistic for one, other in rows))


def as_json(row: Row) -> dict[str, Any]:
    """A row as plain numbers, rounded to what was measured."""
    return {key: _rounded(value) for key, value in vars(row).items()}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
