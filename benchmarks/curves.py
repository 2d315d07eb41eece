"""What things cost as they grow: images, side of the image, windows, batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.images import photographs
from benchmarks.windowed import boxes_of
from benchmarks.works.networks import embedded
from phosphene.runtime import forward, input_gradient, masked_scores, prepare
from phosphene.targets import Target

TARGET = Target.of(281)
Job = Callable[[], object]


def draw(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The numbers, and folder/curves.png with them."""
    found = {name: _measure(name, *panel(), say) for name, panel in PANELS.items()}
    _plot(found, folder / "curves.png")
    return found


def _measure(
    name: str, sizes: Sequence[int], jobs: dict[str, Callable[[int], Job]], say: Callable[[str], None]
) -> dict[str, Any]:
    """Seconds per job and size, the faster of two runs after a warm-up."""
    seconds: dict[str, list[float]] = {label: [] for label in jobs}
    for label, make in jobs.items():
        for size in sizes:
            job = make(size)
            job()
            seconds[label].append(float(f"{min(_seconds(job) for _ in range(2)):.4g}"))
    say(f"curve of {name}: done")
    return {"sizes": list(sizes), "seconds": seconds}


def _seconds(job: Job) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _images() -> tuple[Sequence[int], dict[str, Callable[[int], Job]]]:
    def saliency(precision: Any) -> Callable[[int], Job]:
        classifier = prepare(embedded(), precision=precision)
        return lambda count: partial(input_gradient, classifier, photographs(count), TARGET)

    return (1, 4, 8, 16, 32, 64), {f"saliency, {name}": saliency(name) for name in ("exact", "fast")}


def _sides() -> tuple[Sequence[int], dict[str, Callable[[int], Job]]]:
    classifier = prepare(embedded())

    def passes(run: Callable[..., object], *rest: object) -> Callable[[int], Job]:
        return lambda side: partial(run, classifier, photographs(4, side), *rest)

    jobs = {"forward, 4 images": passes(forward), "saliency, 4 images": passes(input_gradient, TARGET)}
    return (128, 192, 256, 384, 512), jobs


def _windows() -> tuple[Sequence[int], dict[str, Callable[[int], Job]]]:
    classifier, image, boxes = prepare(embedded()), photographs(1), boxes_of(10, 5)

    def occlude(windowed: bool) -> Callable[[int], Job]:
        return lambda count: (
            lambda: masked_scores(
                classifier, image, TARGET, boxes[700 : 700 + count], classifier.mean_image, windowed=windowed
            )
        )

    return (16, 64, 256, 1024), {"whole copies": occlude(False), "windows only": occlude(True)}


def _batches() -> tuple[Sequence[int], dict[str, Callable[[int], Job]]]:
    classifier, images = prepare(embedded()), photographs(32)
    jobs: dict[str, Callable[[int], Job]] = {
        "forward, 32 images": lambda size: lambda: forward(classifier, images, batch_size=size),
        "saliency, 32 images": lambda size: lambda: input_gradient(classifier, images, TARGET, batch_size=size),
    }
    return (1, 2, 4, 8, 16, 32), jobs


PANELS = {"images": _images, "side in pixels": _sides, "windows (10 px)": _windows, "images per pass": _batches}


def _plot(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axis, (name, panel) in zip(axes.flat, found.items(), strict=True):
        for label, seconds in panel["seconds"].items():
            axis.plot(panel["sizes"], seconds, marker="o", markersize=4, label=label)
        axis.set(xlabel=name, ylabel="seconds", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
