"""ILSVRC's localization error: an image is right if one of K answers has the class and the box right."""

from __future__ import annotations

from collections.abc import Sequence

from phosphene.metrics.iou import best_iou
from phosphene.types import Box


def localization_error(
    answers: Sequence[tuple[int, Box]], true_class: int, instances: Sequence[Box], *, overlap: float = 0.5
) -> float:
    """0 if any answer names the class and its box overlaps an instance enough, else 1.

    Args:
        answers: (class, box) of the K best classes; K is 1 or 5.
        true_class: of the image.
        instances: true boxes of that class; any may match.
        overlap: least intersection over union that counts.

    Example:
        >>> box = Box(0, 0, 10, 10)
        >>> localization_error([(7, box), (3, Box(0, 0, 10, 9))], 3, [box]), localization_error([(7, box)], 3, [box])
        (0.0, 1.0)

    References:
        russakovsky2015, section 4.2.
    """
    right = any(label == true_class and best_iou(box, instances) >= overlap for label, box in answers)
    return 0.0 if right else 1.0
