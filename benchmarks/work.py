"""What is compared: one piece of work, ours and a peer's way of doing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Run = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Work:
    """One piece of work, done on both sides with the same weights and images.

    Args:
        name: what --only selects.
        network: which one.
        peer: name of the package on the other side.
        ours: (precision, count) -> run; a run does all the work once and returns (N, ...) maps.
        theirs: (batch, count) -> run.
        count: how much work one measured run is.
        probe: how much is enough to find the peer's best batch size.
        units: count -> number of units (images, windows, steps) that the times are divided by.
        unit: what one of them is called.
        batches: sizes at which the peer is tried.
        precisions: of ours.
        compared: whether both sides' results are the same thing and can be subtracted.
        of_images: whether the peer's batch is one of images, of which a probe then needs that many.
        rounds: how often both sides run at most, where one run is long.
        batch_of: another work on the same network whose best batch size is taken over, instead of a probe.
    """

    name: str
    network: str
    peer: str
    ours: Callable[[str, int], Run]
    theirs: Callable[[int, int], Run]
    count: int
    probe: int
    unit: str = "image"
    units: Callable[[int], int] = lambda count: count
    batches: tuple[int, ...] = (1, 8, 32)
    precisions: tuple[str, ...] = ("exact", "fast")
    compared: bool = True
    of_images: bool = True
    rounds: int = 100
    batch_of: str | None = None
