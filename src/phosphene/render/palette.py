"""The palettes that values are colored by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.colors import Colormap


def palette(name: str) -> Colormap:
    """One of Matplotlib's palettes: of values in [0, 1] their colors.

    Example:
        >>> palette("viridis")([0.0], bytes=True).tolist()
        [[68, 1, 84, 255]]
    """
    from matplotlib import colormaps  # (slow to import, and what a command says first needs no color)

    return colormaps[name]
