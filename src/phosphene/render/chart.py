"""Lines over steps: curves of measurements as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from PIL import Image

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
        series: the values of each line; NaN leaves a gap.
        xs: where the values stand; default 0, 1, 2, ...
        ticks: a name for each place instead of numbers.
        xlabel: what the horizontal axis shows.
        ylabel: what the vertical axis shows.
        bounds: lower and upper end of the vertical axis; None fits them.
        quiet: names of lines to be drawn dashed and grey: baselines.
    """
    figure = Figure(figsize=(8, 3.73), dpi=150, layout="constrained")
    axes = figure.subplots()
    loud = [name for name in series if name not in quiet]
    for name, values in series.items():
        places = list(range(len(values))) if xs is None else list(xs)
        if name in quiet:
            grey = str(0.45 + 0.25 * list(quiet).index(name) / max(1, len(quiet) - 1))
            axes.plot(places, values, "--", color=grey, linewidth=1.4, label=name)
        else:
            axes.plot(places, values, color=_COLORS[loud.index(name) % len(_COLORS)], linewidth=1.8, label=name)
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
