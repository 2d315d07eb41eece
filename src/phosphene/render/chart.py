"""Lines over steps: curves of measurements as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distinct in hue and in lightness, so that they survive grey printing and most color blindness.
_COLORS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#be185d", "#a16207", "#4d7c0f", "#525252", "#111827")


def line_chart(
    series: Mapping[str, Sequence[float]],
    *,
    xs: Sequence[float] | None = None,
    ticks: Sequence[str] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    bounds: tuple[float, float] | None = None,
    quiet: Sequence[str] = (),
) -> Image.Image:
    """Several named lines in one RGB picture of 1200 x 560 pixels, the legend at the right.

    Args:
        series: the values of each line; NaN leaves a gap. One that runs on an earlier one is dashed, so that both
            are seen.
        xs: where the values stand; default 0, 1, 2, ...
        ticks: a name for each place instead of numbers.
        xlabel: what the horizontal axis shows.
        ylabel: what the vertical axis shows.
        bounds: lower and upper end of the vertical axis; None fits them.
        quiet: names of lines to be drawn dashed and grey: baselines.
    """
    loud = [name for name in series if name not in quiet]
    figure = _figure(3.73)
    axes = figure.subplots()
    for name, values in series.items():
        places = list(range(len(values))) if xs is None else list(xs)
        if name in quiet:
            grey = str(0.45 + 0.25 * list(quiet).index(name) / max(1, len(quiet) - 1))
            axes.plot(places, values, "--", color=grey, linewidth=1.4, label=name)
        else:
            place = loud.index(name)
            hidden = any(_same(values, series[other]) for other in loud[:place])
            style: Any = (0, (4, 4)) if hidden else "-"
            color = _COLORS[place % len(_COLORS)]
            axes.plot(places, values, linestyle=style, color=color, linewidth=1.8, label=name)
    if ticks is not None:
        axes.set_xticks(range(len(ticks)), ticks, rotation=60, ha="right", fontsize=8)
    if bounds is not None:
        axes.set_ylim(*bounds)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return Image.open(content).convert("RGB")


def bar_chart(values: Mapping[str, float], *, label: str, quiet: Sequence[str] = ()) -> Image.Image:
    """Named bars from 0 to 1, one below the other, with their values.

    Args:
        values: of each bar.
        label: what they measure.
        quiet: names of bars to be drawn grey: baselines.
    """
    figure = _figure(0.7 + 0.4 * len(values))
    axes = figure.subplots()
    colors = ["0.7" if name in quiet else _COLORS[0] for name in values]
    bars = axes.barh(list(values), list(values.values()), color=colors, height=0.6)
    axes.bar_label(bars, fmt="%.3f", padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(label)
    axes.spines[["top", "right", "left"]].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return Image.open(content).convert("RGB")


def _figure(inches: float) -> Figure:
    """An empty figure 1200 pixels wide."""
    from matplotlib.figure import Figure  # (slow to import, and most runs draw no chart)

    return Figure(figsize=(8, inches), dpi=150, layout="constrained")


def _same(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two lines cannot be told apart in the picture."""
    return len(first) == len(second) and np.allclose(first, second, rtol=0, atol=5e-3, equal_nan=True)
