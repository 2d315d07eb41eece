"""Sanity: does a method's map change when the network forgets what it has learned?"""

from __future__ import annotations

import copy
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.devices import own_random_state
from phosphene.errors import OptionError
from phosphene.evaluation.heat import (
    Heat,
    Progress,
    affordable,
    failing,
    nothing_measured,
    refuse_if_none_works,
    several,
)
from phosphene.evaluation.look import Look, looks
from phosphene.evaluation.pieces import Keep, Piece, added, measured_now
from phosphene.metrics.spearman import spearman
from phosphene.metrics.ssim import ssim
from phosphene.registry import Spec
from phosphene.render import Sheet, Tile, line_chart, shown_as
from phosphene.runtime import Prepared, prepare
from phosphene.runtime.prepare import forget
from phosphene.targets import TargetLike, resolve_one
from phosphene.tasks.notebook import told
from phosphene.types import Record, Shown
from phosphene.zoo import load_classifier

Mode = Literal["cascading", "independent"]
MODES: tuple[Mode, ...] = ("cascading", "independent")
Protocol = Literal["blocks", "mprt"]
# Bounds of the verdict (ours), on the rank correlation with the true map: of what is left once half of the stages are
# random, and once all are.
HALF, NOTICES, BLIND = 0.5, 0.3, 0.6
# What is left counts only where it is so much above what maps of different pictures share anyway (ours): RISE draws the
# same masks for every picture, and their uneven cover is in every map.
_BEYOND_CHANCE = 0.05
_BATCH = 16


@dataclass(frozen=True)
class Stage:
    """A part of the network whose weights are randomized together: a name and the parameters."""

    name: str
    parameters: tuple[str, ...]


@dataclass
class Likeness:
    """How like pairs of maps are: one value per pair that can be compared.

    Args:
        spearman: rank correlation of the signed values.
        spearman_abs: rank correlation of the magnitudes: how a diverging picture is seen.
        ssim: structural similarity of the maps in the network's pixels, as they are drawn.
        dead: pairs of which one map says nothing.
    """

    spearman: list[float] = field(default_factory=list)
    spearman_abs: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    dead: int = 0

    def take(self, part: Mapping[str, Any]) -> None:
        """Add what was found of other pairs."""
        for name, value in added(asdict(self), part).items():
            setattr(self, name, value)

    def row(self) -> dict[str, float | int | None]:
        """The means over the pairs."""
        names = ("spearman", "spearman_abs", "ssim")
        means = {name: mean_or_none(getattr(self, name)) for name in names}
        return {**means, "pairs": len(self.spearman), "dead": self.dead}


@dataclass
class Sanity:
    """What one method's maps did while the network was randomized.

    Args:
        method: its spec.
        stages: per mode and stage name, maps of the randomized network against those of the intact one.
        chance: maps of the intact network for one picture against those for the next: what unrelated maps get.
        examples: the first picture's maps (H, W): of the intact network, then per stage of the cascade.
        seconds: to explain one image by the intact network, on average.
        error: why the method cannot explain this network, if so; then there is nothing else.
    """

    method: str
    stages: dict[Mode, dict[str, Likeness]]
    chance: Likeness = field(default_factory=Likeness)
    examples: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None

    def take(self, piece: Piece, into: Likeness) -> None:
        """Add what was found of other pictures to one of the likenesses, or why there is nothing."""
        part = piece.values["methods"].get(self.method, {})
        self.error = part.get("error", self.error)
        self.seconds += part.get("seconds", 0.0)
        if "likeness" in part:
            into.take(part["likeness"])
        if self.method in piece.arrays:
            self.examples.append(torch.from_numpy(piece.arrays[self.method]))

    def left(self, share: float) -> float | None:
        """The rank correlation that is left when the cascade has randomized this share of the stages, at least one.

        The stronger of that of signed values and that of magnitudes; None where it did not run or left no map.
        """
        cascade = list(self.stages.get("cascading", {}).values())
        if not cascade:
            return None
        found = cascade[max(0, math.ceil(share * len(cascade)) - 1)]
        return _strongest(found)

    @property
    def verdict(self) -> str | None:
        """What was measured, in words; None where the cascade did not run or left no map to compare."""
        head, half, end = (self.left(share) for share in (0, 0.5, 1))
        if head is None or half is None or end is None:
            return None
        chance = _strongest(self.chance)
        least = 0.0 if chance is None else chance + _BEYOND_CHANCE
        if chance is not None and chance >= BLIND:
            word = "gives different pictures much the same map"
        elif end >= max(BLIND, least):
            word = "does not notice random weights"
        elif end >= max(NOTICES, least):
            word = "notices random weights in part"
        elif half >= max(HALF, least):
            word = "does not notice that half of the network is random"
        else:
            word = "notices random weights"
        unrelated = "" if chance is None else f"; maps of different pictures share {chance:.2f}"
        return (
            f"{word}: rank correlation with the true map {head:.2f}, {half:.2f} and {end:.2f} after head, half and all "
            f"(of signed values or of magnitudes, the larger){unrelated}"
        )


def _strongest(likeness: Likeness) -> float | None:
    """The size of the rank correlation of signed values or of magnitudes, whichever is larger."""
    means = [mean_or_none(values) for values in (likeness.spearman, likeness.spearman_abs)]
    return max((abs(mean) for mean in means if mean is not None), default=None)


@dataclass(frozen=True)
class SanityChecks(Shown):
    """The checks of all methods.

    Args:
        methods: one each.
        stages: the parts of the network, from the head down.
        images: how many pictures were measured.
        example: (C, H, W) in [0, 1]: the first picture as the network sees it.
        broken: the files that could not be read.
    """

    methods: tuple[Sanity, ...]
    stages: tuple[Stage, ...]
    images: int
    example: Tensor
    broken: tuple[Record, ...]

    def __repr__(self) -> str:
        return f"SanityChecks({', '.join(one.method for one in self.methods)}; {self.images} pictures)"

    def chart(self, mode: Mode) -> Image.Image:
        """The likeness of each method's maps to the true ones along the stages of a mode, as the verdict has it."""
        lines = {
            one.method: [1.0, *(_or_nan(_strongest(likeness)) for likeness in one.stages[mode].values())]
            for one in self.methods
            if one.error is None
        }
        return line_chart(
            lines,
            ticks=["intact", *(stage.name for stage in self.stages)],
            xlabel="randomized, from the head down" if mode == "cascading" else "the one randomized stage",
            ylabel="rank correlation, the larger",
            bounds=(0, 1.05),
        )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


@shown_as(SanityChecks)
def _sanity_sheet(found: SanityChecks) -> Sheet:
    modes: list[Mode] = [mode for mode in MODES if any(mode in one.stages for one in found.methods)]
    rows = [(one.method, one.error or one.verdict or "no verdict without the cascade") for one in found.methods]
    charts = tuple(Tile(found.chart(mode), (mode,)) for mode in modes)
    return Sheet((charts,), f"Randomized weights, {found.images} pictures", (("method", "verdict"), *rows))


def sanity(
    classifier: Classifier | nn.Module | str,
    paths: Sequence[str | os.PathLike[str]],
    methods: str | Spec | Sequence[str | Spec],
    *,
    modes: Mode | Sequence[Mode] = MODES,
    protocol: Protocol = "blocks",
    target: TargetLike = None,
    masks: int | None = None,
    seed: int = 0,
    keep: Keep = measured_now,
    progress: Progress | None = None,
) -> SanityChecks:
    """How like the maps of a network stay to themselves while its weights are randomized, stage by stage from the head.

    Cascading: the head is randomized, then the stage below it as well, and so on down to the input. Independent: one
    stage alone, the others intact. The class explained is that of the intact network throughout.

    A random weight is drawn from the normal distribution that has the mean and spread of the tensor it replaces
    (ours; the paper initializes anew, after which the signal of this network of 50 layers falls by ten orders of
    magnitude); running statistics of norms stay. Structural similarity is given because the paper gives it: sparse
    maps get much of it from unrelated ones, see `chance`.

    Args:
        classifier: what is explained: a Classifier, a network, or a spec for load_classifier; it is not changed.
        paths: picture files; read a few at a time.
        methods: specs such as "grad_cam".
        modes: "cascading", "independent" or both.
        protocol: "blocks", as above; "mprt" as Quantus has the model parameter randomization test: each module that can
            be initialized anew is a stage of its own, in the reverse of the order in which they are declared, and is
            (with what a norm has counted); its figure is the rank correlation of magnitudes.
        target: a class for all pictures; None takes each picture's best class.
        masks: number of masks of the methods that draw masks and do not say it.
        seed: of the random weights and the methods' own draws.
        keep: gives the pieces that are known already and takes the new ones.
        progress: called with (maps done, in all, what is being done), and with the passes of slow methods.

    Returns:
        SanityChecks.

    Raises:
        InputError: if no picture could be read.
        OptionError: for methods or modes that make no sense, a network without parameters, or one that allows none of
            the methods.

    References:
        adebayo2018, sections 3 and 4.
    """
    classifier, progress = prepare(load_classifier(classifier)), told(progress)
    modes = (modes,) if isinstance(modes, str) else modes
    if protocol not in get_args(Protocol):
        raise OptionError(f"protocol {protocol!r} is unknown; choose blocks or mprt")
    if not modes or not set(modes) <= set(MODES):
        raise OptionError(f"modes {tuple(modes)}; choose from {', '.join(MODES)}")
    paths, specs = several(paths, "picture files"), affordable(methods, masks)
    goal = resolve_one(target, classifier.labels)
    parts = stages(classifier) if protocol == "blocks" else initialized_stages(classifier)
    plan = [(mode, index) for mode in modes for index in range(len(parts))]
    results = {spec: Sanity(str(spec), {m: {s.name: Likeness() for s in parts} for m in modes}) for spec in specs}
    broken: list[Record] = []
    example: Tensor | None = None
    for look in looks(classifier, paths, goal, _BATCH):
        checked = _Checked(look, protocol, seed, progress, with_examples=example is None)
        first = keep(look.where, partial(checked.intact, _alive(results)))
        broken += [Record(path, "error", why) for path, why in first.values["broken"]]
        if not first.values["shape"]:
            continue
        example = torch.from_numpy(first.arrays["picture"]) if example is None else example
        for result in results.values():
            result.take(first, result.chance)
        refuse_if_none_works(results.values())
        for step, (mode, index) in enumerate(plan, start=1):
            name = f"{mode}, {parts[index].name}"
            chosen = parts[: index + 1] if mode == "cascading" else parts[index : index + 1]
            found = keep(f"{look.where}: {name}", partial(checked.randomized, _alive(results), mode, chosen))
            for result in results.values():
                result.take(found, result.stages[mode][parts[index].name])
            if progress is not None:
                done = look.start * len(plan) + len(look.paths) * step
                progress(done, len(paths) * len(plan), name)
    count = len(paths) - len(broken)
    if example is None:
        raise nothing_measured("sanity", broken)
    for result in results.values():
        result.seconds /= count
    return SanityChecks(tuple(results.values()), parts, count, example, tuple(broken))


def _alive(results: Mapping[Spec, Sanity]) -> list[Spec]:
    return [spec for spec, result in results.items() if result.error is None]


@dataclass(frozen=True)
class _Checked:
    """A few pictures whose maps by the intact network are made when they are first compared with.

    Args:
        look: the pictures.
        protocol: how weights are randomized.
        seed: of the random weights and the methods' own draws.
        progress: of methods of many passes.
        with_examples: whether the first picture's maps are shown.
    """

    look: Look
    protocol: Protocol
    seed: int
    progress: Progress | None
    with_examples: bool
    true: dict[Spec, Heat] = field(default_factory=dict)

    def _true(self, spec: Spec) -> Heat:
        if spec not in self.true:
            self.true[spec] = self.look.heat(spec, self.seed, self.progress)
        return self.true[spec]

    def intact(self, specs: Sequence[Spec]) -> Piece:
        """What there is of the pictures, how like the maps of neighbors are, and the time that they take."""
        found = self.look.found().values
        if not found["shape"]:
            return Piece(found)
        neighbors = [(index, index + 1) for index in range(len(self.look.batch.paths) - 1)]
        methods, arrays = self._compared(specs, self._true, neighbors)
        for spec, heat in self.true.items():
            methods[str(spec)]["seconds"] = heat.attribution.seconds * len(heat)
        picture = {"picture": self.look.images[0].cpu().numpy()} if self.with_examples else {}
        return Piece({**found, "methods": methods}, {**arrays, **picture})

    def randomized(self, specs: Sequence[Spec], mode: Mode, chosen: Sequence[Stage]) -> Piece:
        """How like the true maps are those of the network with random weights in some stages."""
        classifier = self.look.classifier
        made = randomized if self.protocol == "blocks" else initialized
        network = prepare(made(classifier, chosen, self.seed), precision=classifier.precision)
        itself = [(index, index) for index in range(len(self.look.batch.paths))]
        heat = partial(self.look.heat, seed=self.seed, progress=self.progress, network=network)
        methods, arrays = self._compared(specs, heat, itself)
        forget(network)
        return Piece({"methods": methods}, arrays if mode == "cascading" else {})

    def _compared(
        self, specs: Sequence[Spec], heat: Callable[[Spec], Heat], pairs: Sequence[tuple[int, int]]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, NDArray[Any]]]:
        """(for each method the likeness of maps to the true ones or why there are none, the first picture's map)."""
        methods: dict[str, dict[str, Any]] = {}
        arrays: dict[str, NDArray[Any]] = {}
        for spec in specs:
            result, likeness = Sanity(str(spec), {}), Likeness()
            with failing(result):
                maps = heat(spec)
                compare(likeness, maps, self._true(spec), pairs)
                if self.with_examples:
                    arrays[str(spec)] = maps.pixels[0].detach().float().cpu().numpy()
            methods[str(spec)] = {"likeness": asdict(likeness)} if result.error is None else {"error": result.error}
        return methods, arrays


def compare(into: Likeness, first: Heat, second: Heat, pairs: Sequence[tuple[int, int]]) -> None:
    """Add the likeness of pairs of maps; a pair with a map that says nothing is counted as dead."""
    kept = [(a, b) for a, b in pairs if first.alive[a] and second.alive[b]]
    into.dead += len(pairs) - len(kept)
    if not kept:
        return
    rows_a, rows_b = map(list, zip(*kept, strict=True))
    a, b = first.attribution.heat[rows_a], second.attribution.heat[rows_b]
    into.spearman += spearman(a, b).tolist()
    into.spearman_abs += spearman(a.abs(), b.abs()).tolist()
    into.ssim += ssim(first.drawn[rows_a], second.drawn[rows_b]).tolist()


def stages(classifier: Classifier) -> tuple[Stage, ...]:
    """The parts of a network that are randomized together, from the head down to the input.

    A part is a block of the network's own (a residual block, a transformer layer) or, outside of blocks, a layer with
    the norm that follows it. Parameters that belong to no module that runs come last, as "other".

    Raises:
        OptionError: for a network without parameters.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        ...                     nn.Flatten(), nn.Linear(4, 2))
        >>> [stage.name for stage in stages(Classifier(net))]
        ['5', '0']
    """
    prepared = prepare(classifier)
    module = prepared.source.module
    order = {layer.name: layer.order for layer in prepared.layers}
    found: list[Stage] = []
    for name, part in sorted(_parts(module, ""), key=lambda item: order.get(item[0], -1)):
        own = tuple(f"{name}.{parameter}" for parameter, _ in part.named_parameters())
        is_norm = all(tensor.ndim < 2 for tensor in part.parameters())
        if is_norm and found:
            found[-1] = Stage(found[-1].name, (*found[-1].parameters, *own))
        else:
            found.append(Stage(name, own))
    taken = {parameter for stage in found for parameter in stage.parameters}
    rest = tuple(name for name, _ in module.named_parameters() if name not in taken)
    ordered = [*reversed(found), *([Stage("other", rest)] if rest else [])]
    if not ordered:
        raise OptionError(f"{classifier.name} has no parameters that could be randomized")
    return tuple(ordered)


def _parts(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """(name, module) of the parts: containers are opened, and a module that is nothing but a wrapper of one child."""
    children = [(f"{name}.{key}".lstrip("."), child) for key, child in module.named_children() if _has_weights(child)]
    opened = not name or isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) or len(children) == 1
    if not children or not opened:
        return [(name, module)] if name else []
    return [part for child_name, child in children for part in _parts(child, child_name)]


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def randomized(classifier: Classifier, chosen: Sequence[Stage], seed: int) -> Classifier:
    """A copy of the classifier with random weights in some stages; a stage gets the same ones in every company."""
    source = classifier.source if isinstance(classifier, Prepared) else classifier
    module = copy.deepcopy(source.module)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for stage in chosen:
            # The name is part of the seed, so that stages of the same shape differ.
            generator = torch.Generator().manual_seed((seed + zlib.crc32(stage.name.encode())) % 2**32)
            for name in stage.parameters:
                tensor = parameters[name]
                noise = torch.randn(tensor.shape, generator=generator, device="cpu", dtype=torch.float32).to(tensor)
                tensor.copy_(noise * tensor.std(correction=0) + tensor.mean())
    return source.with_module(module)


def initialized_stages(classifier: Classifier) -> tuple[Stage, ...]:
    """Every module that can be initialized anew, the last declared first.

    Raises:
        OptionError: for a network without any.

    Example:
        >>> [stage.name for stage in initialized_stages(Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())))]
        ['0']
    """
    module = prepare(classifier).source.module
    found = [
        Stage(name, tuple(f"{name}.{parameter}" for parameter, _ in part.named_parameters(recurse=False)))
        for name, part in module.named_modules()
        if hasattr(part, "reset_parameters")
    ]
    if not found:
        raise OptionError(f"{classifier.name} has no module that can be initialized anew; use the protocol blocks")
    return tuple(reversed(found))


def initialized(classifier: Classifier, chosen: Sequence[Stage], seed: int) -> Classifier:
    """A copy of the classifier in which some modules are as new; each is drawn with the same seed, as by Quantus."""
    source = classifier.source if isinstance(classifier, Prepared) else classifier
    module = copy.deepcopy(source.module)
    with own_random_state():
        for stage in chosen:
            torch.manual_seed(seed + 1)
            part: Any = module.get_submodule(stage.name)
            part.reset_parameters()
    return source.with_module(module)


def mean_or_none(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return sum(values) / len(values) if values else None
