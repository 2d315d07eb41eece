"""Exact windowed occlusion against whole covered copies of the image, both ours: what is saved, and equality."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.images import photographs
from benchmarks.works.networks import embedded, torchvision_network
from phosphene.classifier import Classifier
from phosphene.runtime import MaskedScores, masked_scores, prepare
from phosphene.targets import Target

Box = tuple[int, int, int, int]
CASES: list[tuple[str, Callable[[], Classifier], int, int, int]] = [
    ("efficientnet_lite0", embedded, 32, 16, 1),
    ("efficientnet_lite0", embedded, 10, 5, 16),
    ("vgg16 (random weights)", lambda: torchvision_network("vgg16"), 32, 16, 12),
    ("resnet18 (random weights)", lambda: torchvision_network("resnet18"), 32, 16, 4),
    ("densenet121 (random weights)", lambda: torchvision_network("densenet121"), 32, 16, 6),
]


def windowed(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row per network and window; of many positions every few are measured."""
    return [_row(*case, rounds, say) for case in CASES]


def _row(
    network: str, load: Callable[[], Classifier], window: int, stride: int, every: int, rounds: int,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    classifier, image = prepare(load()), photographs(1)
    boxes = boxes_of(window, stride)[::every]
    runs: dict[bool, list[float]] = {False: [], True: []}
    found: dict[bool, MaskedScores] = {}
    for turn in range(rounds + 1):
        for way in (False, True):
            start = time.perf_counter()
            found[way] = masked_scores(
                classifier, image, Target.of(0), boxes, classifier.mean_image, score="logit", windowed=way
            )
            if turn:  # the first is the warm-up
                runs[way].append(1e3 * (time.perf_counter() - start) / len(boxes))
    ratios = [plain / ours for plain, ours in zip(runs[False], runs[True], strict=True)]
    error = (found[False].covered - found[True].covered).abs().max() / found[False].covered.abs().max()
    row = {
        "network": network,
        "window": window,
        "stride": stride,
        "windows": len(boxes),
        "plain_ms": statistics.median(runs[False]),
        "windowed_ms": statistics.median(runs[True]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "max_error": float(error),
        "note": found[True].note,
    }
    say(f"windowed {network} {window}/{stride}: {row['ratio']:.2f} x, error {row['max_error']:.1e}")
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def boxes_of(window: int, stride: int, side: int = 224) -> list[Box]:
    """A window at every stride, cut off at the edges."""
    starts = range(0, side, stride)
    return [(y, x, min(y + window, side), min(x + window, side)) for y in starts for x in starts]
