"""Checks shared by the metrics that compare two sets of maps."""

from __future__ import annotations

from torch import Tensor

from phosphene.errors import OptionError


def check_pair(first: Tensor, second: Tensor) -> None:
    """Refuse two sets of maps that cannot be compared place by place.

    Raises:
        OptionError: naming both shapes.
    """
    if first.ndim != 3 or first.shape != second.shape or 0 in first.shape:
        raise OptionError(
            f"maps of shapes {tuple(first.shape)} and {tuple(second.shape)}; expected two of the same (N, h, w)"
        )
