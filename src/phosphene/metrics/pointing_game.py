"""The pointing game: does the map's largest value fall on the object?"""

from __future__ import annotations

import math
from collections.abc import Iterable

from phosphene.errors import OptionError
from phosphene.types import Box


def pointing_hit(point: tuple[float, float], instances: Iterable[Box], *, tolerance: float = 0.0) -> bool:
    """Whether a point lies in one of the instances, or no further from it than the tolerance.

    Args:
        point: (x, y) of the map's largest value, in original pixels.
        instances: true boxes of the class.
        tolerance: largest distance to a box that still counts, in original pixels; the published game allows 15.

    Example:
        >>> pointing_hit((9.0, 5.0), [Box(0, 0, 8, 8)]), pointing_hit((9.0, 5.0), [Box(0, 0, 8, 8)], tolerance=1)
        (False, True)

    References:
        zhang2018.
    """
    if tolerance < 0:
        raise OptionError(f"tolerance {tolerance} is negative; give 0 or more pixels")
    x, y = point
    return any(
        math.hypot(max(box.x0 - x, 0.0, x - box.x1), max(box.y0 - y, 0.0, y - box.y1)) <= tolerance for box in instances
    )
