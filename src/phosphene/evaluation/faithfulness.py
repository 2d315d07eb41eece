"""Faithfulness: does the network's answer hang on the places that a method marks?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.devices import clock
from phosphene.errors import OptionError
from phosphene.evaluation.heat import Progress, affordable, failing, nothing_measured, refuse_if_none_works, several
from phosphene.evaluation.look import Look, looks
from phosphene.evaluation.pieces import Keep, Piece, added, measured_now
from phosphene.metrics.average_drop import average_drop, average_increase, explanation_images
from phosphene.metrics.bootstrap import bootstrap_interval
from phosphene.metrics.insertion_deletion import deletion, insertion, rise_blur
from phosphene.metrics.pixel_flipping import pixel_flipping
from phosphene.metrics.road import road
from phosphene.registry import Spec
from phosphene.render import Sheet, Tile, line_chart, numbers, shown_as
from phosphene.runtime import Prepared, forward, prepare
from phosphene.targets import Target, TargetLike, resolve_one
from phosphene.tasks.notebook import told
from phosphene.types import Record, Shown
from phosphene.zoo import load_classifier

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
        drawn: deletion and insertion curves of each image, (33,) each, over the fractions 0 to 1 of the pixels.
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
    drawn: dict[str, list[list[float]]] = field(default_factory=dict)
    dead: int = 0
    seconds: float = 0.0
    measuring: float = 0.0
    error: str | None = None

    @property
    def curves(self) -> dict[str, NDArray[np.float64]]:
        """The mean deletion and insertion curve."""
        return {name: np.mean(values, axis=0) for name, values in self.drawn.items()}

    @property
    def sums(self) -> dict[str, Any]:
        """What grows with every image."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("method", "error")}

    def take(self, part: Mapping[str, Any]) -> None:
        """Add what was found of other images."""
        self.error = part.get("error")
        sums = {name: value for name, value in part.items() if name != "error"}
        for name, value in added(self.sums, sums).items():
            setattr(self, name, value)

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
    classifier: Classifier | nn.Module | str,
    paths: Sequence[str | os.PathLike[str]],
    methods: str | Spec | Sequence[str | Spec],
    *,
    target: TargetLike = None,
    protocol: Protocol = "coarse",
    measures: str | Sequence[str] = (),
    masks: int | None = None,
    seed: int = 0,
    keep: Keep = measured_now,
    progress: Progress | None = None,
) -> Faithfulness:
    """Insertion and deletion areas, average drop and average increase of methods over pictures.

    The score is the probability of the class. Beside the methods stand two maps that know nothing of the network: a
    Gaussian bump in the center, and noise; a method worth its name beats both.

    Args:
        classifier: what is explained: a Classifier, a network, or a spec for load_classifier.
        paths: picture files; read a few at a time.
        methods: specs such as "grad_cam" or "rise:masks=500".
        target: a class for all pictures; None takes each picture's best class, as RISE does.
        protocol: "rise" changes one row's worth of pixels at a time (224 of 224 x 224), as RISE's published code;
            "coarse" 1/32 of the pixels (ours): the same ends, a seventh of the passes.
        measures: further ones: "road" (18 passes and as many systems of equations to solve for each map) and
            "pixel_flipping" (101 passes).
        masks: number of masks of the methods that draw masks and do not say it.
        seed: of everything random.
        keep: gives the pieces that are known already and takes the new ones.
        progress: called with (measurements done, in all, what is being done), and with the passes of slow methods.

    Returns:
        Faithfulness.

    Raises:
        InputError: if no picture could be read.
        OptionError: for methods or measures that make no sense, or if the network allows none of the methods.

    References:
        petsiuk2018, section 4; chattopadhay2018, section 4.1; rong2022; samek2017.
    """
    if protocol not in get_args(Protocol):
        raise OptionError(f"protocol {protocol!r} is unknown; choose coarse or rise")
    measures = [measures] if isinstance(measures, str) else measures
    if not set(measures) <= set(MEASURES):
        raise OptionError(f"measures {tuple(measures)}; choose from {', '.join(MEASURES)}")
    classifier, progress = prepare(load_classifier(classifier)), told(progress)
    paths, specs = several(paths, "picture files"), affordable(methods, masks)
    goal = resolve_one(target, classifier.labels)
    measured = {str(spec): FaithfulnessScores(str(spec)) for spec in specs}
    baselines = {name: FaithfulnessScores(name) for name in BASELINES}
    generator = torch.Generator().manual_seed(seed)
    broken: list[Record] = []
    columns = len(specs) + len(BASELINES)
    each = partial(_measured, protocol=protocol, measures=measures, seed=seed)
    for look in looks(classifier, paths, goal, _BATCH):
        found = keep(look.where, look.found).values
        broken += [Record(path, "error", why) for path, why in found["broken"]]
        if not found["shape"]:
            continue
        # Of all pictures, also of those that are known: the noise of the next ones comes after theirs.
        noise = torch.rand(found["shape"], generator=generator, device="cpu", dtype=torch.float32)
        explained = [(measured[str(spec)], partial(_explained, look, spec, seed, progress)) for spec in specs]
        blind = [(baselines[name], partial(_blind, look, maps)) for name, maps in _blind_maps(noise).items()]
        for column, (into, explain) in enumerate((*explained, *blind)):
            if into.error is None:
                before = look.start * columns + column * len(look.paths)
                tell = partial(_tell, progress, before, len(paths) * columns)
                into.take(keep(f"{look.where}: {into.method}", partial(each, look, explain, tell)).values)
        refuse_if_none_works(measured.values())
    count = len(paths) - len(broken)
    if count == 0:
        raise nothing_measured("faithfulness", broken)
    for one in (*measured.values(), *baselines.values()):
        one.seconds /= count
        one.measuring /= count
    return Faithfulness(tuple(measured.values()), tuple(baselines.values()), count, tuple(broken))


def _tell(progress: Progress | None, before: int, total: int, done: int) -> None:
    if progress is not None:
        progress(before + done, total, "faithfulness")


# Maps (N, H, W) at the pixels that the network sees, which of them say anything, and seconds an image.
_Maps = tuple[Tensor, Sequence[bool], float]


def _explained(look: Look, spec: Spec, seed: int, progress: Progress | None) -> _Maps:
    heat = look.heat(spec, seed, progress)
    return heat.pixels, heat.alive, heat.attribution.seconds


def _blind(look: Look, maps: Tensor) -> _Maps:
    return maps.to(look.images), [True] * len(maps), 0.0


def _blind_maps(noise: Tensor) -> dict[str, Tensor]:
    """Maps (N, H, W) that know nothing of the network, by the names of BASELINES."""
    return {"center": center_bump(noise.shape[1:]).expand_as(noise), "random": noise}


def _measured(
    look: Look,
    explain: Callable[[], _Maps],
    tell: Callable[[int], None],
    *,
    protocol: Protocol,
    measures: Sequence[str],
    seed: int,
) -> Piece:
    """What one method or baseline gets on a few pictures."""
    classifier, into = look.classifier, FaithfulnessScores("")
    with failing(into):
        maps, alive, seconds = explain()
        into.seconds = seconds * len(maps)
        for index, values in enumerate(maps):
            start = clock(classifier.device)
            if alive[index]:
                own = look.classes.rows(index, index + 1)
                _add(into, classifier, look.images[index], values, own, protocol)
                _add_further(into, classifier, look.images[index], values, own, measures, seed)
            else:
                into.dead += 1
            into.measuring += clock(classifier.device) - start
            tell(index + 1)
    return Piece(into.sums | ({} if into.error is None else {"error": into.error}))


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
        into.drawn.setdefault(name, []).append(values.tolist())


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
