"""Which of several instances of a class a map finds, and how evenly it is spread over them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from phosphene.errors import OptionError
from phosphene.registry import register_metric
from phosphene.types import Box


def instance_peaks(values: Tensor, instances: Sequence[Box]) -> list[float]:
    """For each instance the map's largest value in its box, as a share of the largest of the whole map.

    Args:
        values: (H, W) in pixels of the boxes; what speaks against the class counts as 0.
        instances: true boxes.

    Example:
        >>> values = torch.zeros(4, 8)
        >>> values[1, 1], values[2, 6] = 4.0, 1.0
        >>> instance_peaks(values, [Box(0, 0, 4, 4), Box(4, 0, 8, 4)])
        [1.0, 0.25]
    """
    if values.ndim != 2:
        raise OptionError(f"a map of shape {tuple(values.shape)}; expected (H, W)")
    positive = values.float().clamp(min=0)
    most = float(positive.max())
    found = []
    for box in instances:
        x0, y0 = (max(0, int(edge)) for edge in (box.x0, box.y0))
        x1, y1 = max(x0 + 1, round(box.x1)), max(y0 + 1, round(box.y1))
        inside = positive[y0:y1, x0:x1]
        found.append(float(inside.max()) / most if most > 0 and inside.numel() else 0.0)
    return found


@register_metric(title="Instances found", paper="midha", family="localization")
def instances_found(values: Tensor, instances: Sequence[Box], *, level: float = 0.5) -> float:
    """The share of the instances in whose box the map reaches a share of its own maximum.

    1 where each instance is hot, 1 / n where all the heat lies on one of n. A map that is warm everywhere gets 1: read
    it beside the share of the evidence inside the boxes. The report shows pictures alone; the measure is ours.

    Args:
        values: (H, W) in pixels of the boxes.
        instances: true boxes of one class.
        level: share of the map's maximum.

    Returns:
        In [0, 1].

    Raises:
        OptionError: without instances.

    Example:
        >>> values = torch.zeros(4, 8)
        >>> values[1, 1], values[2, 6] = 4.0, 1.0
        >>> instances_found(values, [Box(0, 0, 4, 4), Box(4, 0, 8, 4)])
        0.5

    References:
        midha, figure 8.
    """
    peaks = instance_peaks(values, instances)
    if not peaks:
        raise OptionError("no instances: give at least one box")
    return sum(peak >= level for peak in peaks) / len(peaks)
