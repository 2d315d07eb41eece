"""Numbers that change over a run: a schedule is a function of (step, steps), both plain integers."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int, int], float]


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda _step, _steps: value


def linear(start: float, end: float, over: int | None = None) -> Schedule:
    """From `start` at step 0 to `end` at step `over` (default: the last step), constant afterwards.

    Example:
        >>> [linear(1.0, 3.0)(step, 5) for step in (0, 2, 4)]
        [1.0, 2.0, 3.0]
        >>> linear(1.0, 3.0, over=2)(4, 5)
        3.0
    """

    def value(step: int, steps: int) -> float:
        last = max(1, steps - 1 if over is None else over)
        return start + (end - start) * min(1.0, step / last)

    return value


def cosine(start: float, end: float) -> Schedule:
    """From `start` at the first step to `end` at the last along half a cosine: slow, fast, slow.

    Example:
        >>> [round(cosine(1.0, 0.0)(step, 5), 3) for step in (0, 2, 4)]
        [1.0, 0.5, 0.0]
    """

    def value(step: int, steps: int) -> float:
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps - 1))))

    return value


def as_schedule(value: float | Schedule) -> Schedule:
    """A schedule as it is, a number as a constant one."""
    return value if callable(value) else constant(float(value))
