"""Intersection over union of boxes."""

from __future__ import annotations

from collections.abc import Iterable

from phosphene.types import Box


def iou(first: Box, second: Box) -> float:
    """Area common to two boxes over the area of both together, in [0, 1].

    Example:
        >>> iou(Box(0, 0, 2, 2), Box(1, 0, 3, 2))
        0.333...
    """
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    common = max(width, 0.0) * max(height, 0.0)
    return common / (first.area + second.area - common)


def best_iou(box: Box, instances: Iterable[Box]) -> float:
    """The largest overlap of a box with any of the instances; 0 where there is none.

    Example:
        >>> best_iou(Box(0, 0, 2, 2), [Box(5, 5, 6, 6), Box(0, 0, 2, 1)])
        0.5
    """
    return max((iou(box, instance) for instance in instances), default=0.0)
