"""Faithfulness: does the network's answer hang on the places that a method marks?"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from phosphene.devices import clock
from phosphene.errors import OptionError
from phosphene.evaluation.heat import Progress, affordable, failing, heat_of, nothing_measured
from phosphene.metrics.average_drop import average_drop, average_increase, explanation_images
from phosphene.metrics.bootstrap import bootstrap_interval
from phosphene.metrics.insertion_deletion import deletion, insertion, rise_blur
from phosphene.metrics.pixel_flipping import pixel_flipping
from phosphene.metrics.road import road
from phosphene.registry import Spec
from phosphene.render import Sheet, Tile, line_chart, numbers, shown_as
from phosphene.runtime import Prepared, forward
from phosphene.targets import Target, TargetLike, resolve_one
from phosphene.tasks.notebook import told
from phosphene.tasks.stream import stream
from phosphene.types import Record, Shown

Protocol = Literal["coarse", "rise"]
MEASURES = ("road", "pixel_flipping")
BASELINES = ("center", "random")
CURVE_POINTS = 33
# Pictures explained at a time; the curves of each are made one by one.
_BATCH = 8


@dataclass
class FaithfulnessScores:
    """What one method got, image by image, in the order of the files.

    Args:
        method: its spec, or the name of a baseline.
        deletion: areas under the deletion curves; low is good.
        insertion: areas under the insertion curves; high is good.
        clean: probability of the class on each image.
        explained: probability when only what the map marks is left.
        further: what was asked for besides: of `road` road_most (low is good), road_least and road (half their
            difference; high is good), of `pixel_flipping` aopc (high is good).
        curves: mean deletion and insertion curve, (33,) each, over the fractions 0 to 1 of the pixels.
        dead: how many maps said nothing (NaN, zero everywhere); they are left out.
        seconds: to explain one image, on average.
        measuring: to measure one map, on average.
        error: why the method cannot explain this network, if so.
    """

    method: str
    deletion: list[float] = field(default_factory=list)
    insertion: list[float] = field(default_factory=list)
    clean: list[float] = field(default_factory=list)
    explained: list[float] = field(default_factory=list)
    further: dict[str, list[float]] = field(default_factory=dict)
    curves: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    dead: int = 0
    seconds: float = 0.0
    measuring: float = 0.0
    error: str | None = None

    def row(self) -> dict[str, object]:
        """The means with 95 % bootstrap intervals over the images, as the command prints them."""
        count = len(self.deletion)
        if count == 0:
            return {"method": self.method, "images": 0, "dead": self.dead, "error": self.error}
        clean, explained = (torch.tensor(values, device="cpu") for values in (self.clean, self.explained))
        said = clean > 0  # what was impossible from the start cannot drop
        return {
            "method": self.method,
            "images": count,
            "dead": self.dead,
            "error": self.error,
            "deletion": sum(self.deletion) / count,
            "deletion_ci": bootstrap_interval(self.deletion),
            "insertion": sum(self.insertion) / count,
            "insertion_ci": bootstrap_interval(self.insertion),
            "average_drop": average_drop(clean[said], explained[said]) if bool(said.any()) else None,
            "average_increase": average_increase(clean[said], explained[said]) if bool(said.any()) else None,
            **{name: sum(values) / count for name, values in self.further.items()},
            **{f"{name}_ci": bootstrap_interval(values) for name, values in self.further.items()},
            "seconds_per_image": self.seconds,
            "measuring_seconds": self.measuring,
        }


@dataclass(frozen=True)
class Faithfulness(Shown):
    """The measurements of all methods, of the trivial baselines, and the files that could not be read."""

    methods: tuple[FaithfulnessScores, ...]
    baselines: tuple[FaithfulnessScores, ...]
    images: int
    broken: tuple[Record, ...]

    def __repr__(self) -> str:
        return f"Faithfulness({', '.join(one.method for one in self.methods)}; {self.images} pictures)"

    def chart(self, kind: str) -> Image.Image:
        """The mean curves of "deletion" or "insertion" of all methods and baselines."""
        return line_chart(
            {one.method: one.curves[kind].tolist() for one in (*self.methods, *self.baselines) if kind in one.curves},
            xs=torch.linspace(0, 1, CURVE_POINTS, device="cpu").tolist(),
            xlabel=f"share of the pixels {'replaced' if kind == 'deletion' else 'put back'}, most important first",
            ylabel="probability of the class",
            quiet=[one.method for one in self.baselines],
        )


@shown_as(Faithfulness)
def _faithfulness_sheet(found: Faithfulness) -> Sheet:
    keys = ("deletion", "insertion", "average_drop", "average_increase", "seconds_per_image")
    rows = [one.row() for one in (*found.methods, *found.baselines)]
    head = ("method", "deletion", "insertion", "average drop", "average increase", "s an image")
    table = (head, *(numbers([row["method"], *(row.get(key) for key in keys)]) for row in rows))
    charts = tuple(Tile(found.chart(kind), (kind,)) for kind in ("deletion", "insertion"))
    return Sheet((charts,), f"Faithfulness on {found.images} pictures", table)


def faithfulness(
    classifier: Prepared,
    paths: Sequence[str | os.PathLike[str]],
    methods: Sequence[str | Spec],
    *,
    target: TargetLike = None,
    protocol: Protocol = "coarse",
    measures: Sequence[str] = (),
    masks: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Faithfulness:
    """Insertion and deletion areas, average drop and average increase of methods over pictures.

    The score is the probability of the class. Beside the methods stand two maps that know nothing of the network: a
    Gaussian bump in the center, and noise; a method worth its name beats both.

    Args:
        classifier: what is explained.
        paths: picture files; read a few at a time.
        methods: specs such as "grad_cam" or "rise:masks=500".
        target: a class for all pictures; None takes each picture's best class, as RISE does.
        protocol: "rise" changes one row's worth of pixels at a time (224 of 224 x 224), as RISE's published code;
            "coarse" 1/32 of the pixels (ours): the same ends, a seventh of the passes.
        measures: further ones: "road" (18 passes and as many systems of equations to solve for each map) and
            "pixel_flipping" (101 passes).
        masks: number of masks of the methods that draw masks and do not say it.
        seed: of everything random.
        progress: called with (measurements done, in all, what is being done).

    Returns:
        Faithfulness.

    Raises:
        InputError: if no picture could be read.
        OptionError: for methods or measures that make no sense.

    References:
        petsiuk2018, section 4; chattopadhay2018, section 4.1; rong2022; samek2017.
    """
    if not set(measures) <= set(MEASURES):
        raise OptionError(f"measures {tuple(measures)}; choose from {', '.join(MEASURES)}")
    progress = told(progress)
    specs = affordable(methods, masks)
    goal = resolve_one(target, classifier.labels)
    measured = {str(spec): FaithfulnessScores(str(spec)) for spec in specs}
    baselines = {name: FaithfulnessScores(name) for name in BASELINES}
    generator = torch.Generator().manual_seed(seed)
    broken: list[Record] = []
    done, total = 0, len(paths) * (len(specs) + len(BASELINES))

    def measure(into: FaithfulnessScores, maps: Tensor, alive: Sequence[bool], images: Tensor, classes: Target) -> None:
        nonlocal done
        for index, values in enumerate(maps):
            start = clock(classifier.device)
            if alive[index]:
                own = classes.rows(index, index + 1)
                _add(into, classifier, images[index], values, own, protocol)
                _add_further(into, classifier, images[index], values, own, measures, seed)
            else:
                into.dead += 1
            into.measuring += clock(classifier.device) - start
            done += 1
            if progress is not None:
                progress(done, total, "faithfulness")

    for batch in stream(classifier, paths, size=_BATCH):
        logits = None if batch.images is None else forward(classifier, batch.images)
        if logits is not None:
            batch, logits = batch.answered(logits)
        broken += batch.broken
        done += len(batch.broken) * (len(specs) + len(BASELINES))
        if batch.images is None or logits is None:
            continue
        best = goal if isinstance(goal, Target) else goal.one_of_each(logits)
        classes = best.expand(len(batch.paths))
        for spec in (spec for spec in specs if measured[str(spec)].error is None):
            with failing(measured[str(spec)]):
                heat = heat_of(classifier, batch.pictures, batch.views, classes, spec, seed=seed)
                measured[str(spec)].seconds += heat.attribution.seconds * len(batch.paths)
                measure(measured[str(spec)], heat.pixels, heat.alive, batch.images, classes)
        size = batch.images.shape[-2:]
        shape = (len(batch.paths), *size)
        noise = torch.rand(shape, generator=generator, device="cpu", dtype=torch.float32).to(batch.images)
        for name, maps in (("center", center_bump(size).to(noise).expand_as(noise)), ("random", noise)):
            measure(baselines[name], maps, [True] * len(maps), batch.images, classes)
    count = len(paths) - len(broken)
    if count == 0:
        raise nothing_measured("faithfulness")
    for one in (*measured.values(), *baselines.values()):
        _average(one, count)
    return Faithfulness(tuple(measured.values()), tuple(baselines.values()), count, tuple(broken))


def center_bump(size: Sequence[int]) -> Tensor:
    """(H, W): a Gaussian in the middle, a quarter of each side wide: knows where objects tend to stand, no more."""
    rows, columns = (torch.linspace(-2, 2, int(length), device="cpu") for length in size)
    return torch.exp(-0.5 * (rows[:, None] ** 2 + columns**2))


def _add(
    into: FaithfulnessScores, classifier: Prepared, image: Tensor, heat: Tensor, target: Target, protocol: Protocol
) -> None:
    score = probability_of(classifier, target)
    mean = classifier.mean_image
    step = image.shape[-1] if protocol == "rise" else None
    removed = deletion(image, heat, score, blank=mean, step=step)
    added = insertion(image, heat, score, start=rise_blur(image, mean), step=step)
    marked = explanation_images(image[None], heat.clamp(min=0)[None], mean)
    into.deletion.append(removed.area)
    into.insertion.append(added.area)
    into.clean.append(float(removed.values[0]))
    into.explained.append(float(score(marked)[0]))
    for name, curve in (("deletion", removed), ("insertion", added)):
        values = np.interp(np.linspace(0, 1, CURVE_POINTS), curve.fractions.cpu(), curve.values.cpu())
        into.curves[name] = into.curves.get(name, np.zeros(CURVE_POINTS)) + values


def _add_further(
    into: FaithfulnessScores,
    classifier: Prepared,
    image: Tensor,
    heat: Tensor,
    target: Target,
    measures: Sequence[str],
    seed: int,
) -> None:
    """What was asked for besides; every map of every picture sees the same noise."""
    score = probability_of(classifier, target)
    found: dict[str, float] = {}
    if "road" in measures:
        removed = road(image, heat, score, generator=torch.Generator().manual_seed(seed))
        found |= {"road_most": float(removed.most.mean()), "road_least": float(removed.least.mean())}
        found["road"] = removed.difference
    if "pixel_flipping" in measures:
        found["aopc"] = pixel_flipping(image, heat, score, generator=torch.Generator().manual_seed(seed)).aopc
    for name, value in found.items():
        into.further.setdefault(name, []).append(value)


def probability_of(classifier: Prepared, target: Target) -> Callable[[Tensor], Tensor]:
    """The probability (M,) that the classifier gives copies (M, C, H, W) of one image for its target."""
    return lambda copies: classifier.score(forward(classifier, copies), target, "probability")


def _average(measured: FaithfulnessScores, count: int) -> None:
    kept = max(1, len(measured.deletion))
    measured.curves = {name: total / kept for name, total in measured.curves.items()}
    measured.seconds /= count
    measured.measuring /= count
