"""The engine that recipes draw with: stages of resolution, a prior of photographs, an objective.

A drawing begins small, where a few steps decide what stands where, and is enlarged in stages up to the size of the
network's input. At each step the network looks once at the picture, moved a little; the gradient gets the spectrum and
the colors of photographs; what the step makes too contrasty, too bright or too saturated is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene.classifier import Classifier
from phosphene.errors import ModelError, OptionError
from phosphene.options import Options, option
from phosphene.runtime import forward, prepare
from phosphene.synthesis.ascent import Optimizer, Step, ascend, part_of
from phosphene.synthesis.augment import Affine, Augmentation, Flip, in_turn
from phosphene.synthesis.canvas import noisy_mean, takes_size
from phosphene.synthesis.companions import companions
from phosphene.synthesis.masks import disc
from phosphene.synthesis.objectives import NOTHING, Objective, of_target, saturating, scheduled
from phosphene.synthesis.parametrization import Enlarged
from phosphene.synthesis.priors import natural_tones, tones_of, total_variation_step
from phosphene.synthesis.schedules import Schedule, cosine, linear
from phosphene.synthesis.step_rules import StepRule, StepState, clip, multiply, preconditioned, unit_rms
from phosphene.synthesis.streams import Streams
from phosphene.targets import Target
from phosphene.types import Background, Size

# Shorter sides below this hold nothing to be seen: such a stage is drawn at the full size instead.
SMALLEST = 64
# Of the noise that drawings start from, in [0, 1] units: the standard deviation.
START_NOISE = 0.02
# Of the rate: the last step's.
_LAST_RATE = 0.08
# The logit's weight beside the saturating loss at first, the share of the steps over which it falls, and what is left
# of it: far from the class the loss alone hardly says where to go, and of a network that is altogether sure nothing.
_LOGIT, _LOGIT_UNTIL, _LOGIT_LEFT = 0.1, 0.35, 0.001
# Of the disc in the middle where the first stage draws, in shorter sides: radius and width of the edge.
_MIDDLE, _EDGE = 0.4, 0.3
# Of what is at a place: pictures of one size, and moves by some pixels.
_PLACED = {"stages": ((1.0, 1.0),), "rotation": 0.0, "scale": (1.0, 1.0), "shift": 0.02, "flips": False}
# The weight of the norms' statistics beside the saturating loss; the same while companions are drawn, and their steps.
STATISTICS, _COMPANY, _COMPANION_STEPS = 2.0, 5.0, 300

Stage = tuple[float, float]
"""Size of the picture, as a fraction of the network's input, and the share of the steps made at it."""

Mask = Callable[[Size, int], Tensor]
"""(size, step of the whole drawing) -> (N or 1, 1, H, W) in [0, 1]: how strongly each place may change."""

DrawnScore = Literal["saturating", "logit", "probability", "margin"]


@dataclass(frozen=True)
class Prior:
    """What is known of photographs, in a few numbers; the defaults are those of the presets `best`.

    Args:
        stages: of resolution, in turn.
        rate: root mean square of the first step, in [0, 1] units; falls along half a cosine to 8 % of it.
        power: the gradient's spectrum is multiplied by 1 / f^power; 0 leaves gradient and colors as they are.
        lowest: cycles per image below which all frequencies count alike.
        color: power of the natural colors' covariance on the gradient.
        tv: size of the step down the total variation, as a share of the rate.
        contrast: largest standard deviation of a picture; 0 for any contrast, brightness and saturation.
        saturated: the pull on values near black and white, as a share of the rate.
        rotation: degrees, of the move before each look.
        scale: low and high of it.
        shift: of it, as a fraction of the shorter side.
        flips: whether every other look is at the mirror image.
        residual: what gradients through residual branches are multiplied by.
        middle: whether the first stage draws in the middle only, where no mask says otherwise.
    """

    stages: tuple[Stage, ...] = ((0.5, 0.45), (5 / 7, 0.3), (1.0, 0.25))
    rate: float = 0.06
    power: float = 1.0
    lowest: float = 2.0
    color: float = 0.8
    tv: float = 0.1
    contrast: float = 0.2
    saturated: float = 1.5
    rotation: float = 8.0
    scale: tuple[float, float] = (0.8, 1.25)
    shift: float = 0.15
    flips: bool = True
    residual: float = 0.5
    middle: bool = True

    @classmethod
    def none(cls, **given: float | tuple[float, float]) -> Prior:
        """Plain pixels of one size and plain gradients, as before there were priors; with moves as given."""
        plain = cls(((1.0, 1.0),), 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, (1.0, 1.0), 0.0, False, 1.0, False)
        return replace(plain, **given)  # type: ignore[arg-type]

    def augmentations(self, size: Size) -> list[Augmentation]:
        """The move before each look at images of a size."""
        moves: list[Augmentation] = [Flip()] if self.flips else []
        if (self.rotation, tuple(self.scale), self.shift) != (0, (1, 1), 0):
            moves.append(Affine(self.rotation, self.scale, self.shift * min(size), padding="reflection"))
        return moves

    def after(self, rate: Schedule, mean: float = 0.5) -> list[StepRule]:
        """What is taken back after a step of that rate; `mean` of the network's pictures, 0 where nobody said."""
        middle, brightness = tones_of(mean)

        def calmed(images: Tensor, state: StepState) -> Tensor:
            return total_variation_step(images, self.tv * rate(state.step, state.steps))

        def toned(images: Tensor, state: StepState) -> Tensor:
            saturated = self.saturated * rate(state.step, state.steps)
            return natural_tones(images, self.contrast, brightness, saturated, middle)

        return [*([calmed] if self.tv > 0 else []), *([toned] if self.contrast > 0 else []), clip]


@dataclass(frozen=True)
class DrawingOptions(Options):
    """What a user may turn of every drawing; see Prior."""

    steps: int = option("number of steps", 200, at_least=1)
    rate: float = option("root mean square of the first step, in [0, 1] units", best=0.06, paper=0.02, at_least=0)
    prior: Literal["photographs", "none"] = option(
        "photographs, their spectrum, colors and contrast in stages of resolution; or none, plain pixels",
        best="photographs",
        paper="none",
    )
    color: float = option("of the prior: power of the natural colors' covariance on the gradient", 0.8, at_least=0)
    contrast: float = option("of the prior: largest standard deviation of a picture, in [0, 1] units", 0.2, at_least=0)
    statistics: float = option(
        "of the prior: weight of the statistics of the network's batch norms, which a picture joins in the company of "
        "others (synthesis.companions), drawn once per network; it makes nothing of a network without such norms",
        best=STATISTICS,
        paper=0.0,
        at_least=0,
    )
    statistics_of: str = option(
        "of the prior: a folder of pictures whose statistics stand in for the norms', also of networks without norms; "
        "no longer free of data",
        "",
    )
    background: Background = option(
        "what becomes of places that were little developed: keep; fade, into their own blur; or transparent, a picture "
        "with alpha",
        "keep",
    )

    def photographs(self, placed: bool = False, **given: object) -> Prior:
        """The prior of photographs with these options; of what is `placed` in the picture at one size, hardly moved."""
        given |= _PLACED if placed else {}
        return Prior(rate=self.rate, color=self.color, contrast=self.contrast, **given)  # type: ignore[arg-type]

    def apart(
        self, classifier: Classifier, target: Target | None = None, progress: Callable[[int, int], None] | None = None
    ) -> Objective:
        """What is subtracted from the score of classes, so that pictures look like photographs to the network.

        Args:
            classifier: the network.
            target: what is drawn; None for classes.
            progress: called with (steps done, in all) where companions of the network are drawn for it first.

        Raises:
            OptionError: for a folder whose statistics would count for nothing.
        """
        weight = self.statistics if self.prior == "photographs" else 0.0
        weight = weight if target is None or not target.layers else 0.0
        if self.statistics_of and weight == 0:
            raise OptionError(
                f"the statistics of {self.statistics_of} count for nothing: for classes only, with prior=photographs "
                "and statistics above 0"
            )
        return apart(classifier, weight, self.statistics_of, progress)


def raised(
    classifier: Classifier, target: Target, score: DrawnScore = "saturating", temperature: float = 1.6
) -> Objective:
    """What a drawing raises: a unit, a score, or the saturating loss with a logit at first.

    Example:
        >>> from phosphene.targets import Unit
        >>> raised(Classifier(torch.nn.Flatten()), Target(unit=Unit("conv", 3))).layers
        ('conv',)
    """
    if not target.classes:
        return of_target(classifier, target)
    if score != "saturating":
        return of_target(classifier, target, score)
    return saturating(classifier, target, temperature) + fading_logit(of_target(classifier, target))


def fading_logit(objective: Objective) -> Objective:
    """A logit that counts at first: far from a class a saturating score hardly says where to go."""

    def weight(step: int, steps: int) -> float:
        return linear(_LOGIT, _LOGIT_LEFT)(step, max(1, round(_LOGIT_UNTIL * steps)))

    return scheduled(weight, objective)


# Companions are drawn with more contrast than pictures for people. (Whatever is changed here changes their sums: see
# companions._VERSION, and draw those that come with the package anew.)
_COMPANIONS = Prior(contrast=0.23, saturated=0.6)


def apart(
    classifier: Classifier, weight: float, folder: str = "", progress: Callable[[int, int], None] | None = None
) -> Objective:
    """How far a picture moves the company of companions, drawn at first use, from the statistics of photographs.

    Args:
        classifier: whose norms.
        weight: of the distance, beside what is of about the size of a logarithm; with 0 the distance is none.
        folder: of pictures whose statistics stand in for the norms'; empty for the norms'.
        progress: called with (steps done, in all) while companions are drawn.
    """

    def draw_all(classes: list[int], penalty: Objective) -> Iterator[Step]:
        # In one precision whatever the pictures' own is: what is kept must not hang on who came first.
        fast, streams = prepare(classifier, precision="fast"), Streams.of(0, classes)
        start = noisy_mean(fast, streams, START_NOISE, "normal")
        try:
            forward(fast, start[:1])
        except ModelError:  # (its code may know no 16 bits)
            fast = prepare(classifier, precision="exact")
        goal = raised(fast, Target.of(classes))
        for step in draw(
            fast, goal - _COMPANY * penalty, start, streams, _COMPANION_STEPS, _COMPANIONS,
            batch_size=len(classes), stage="companions",
        ):  # fmt: skip
            if progress is not None:
                progress(step.index, step.steps)
            yield step

    company = companions(classifier, draw_all, folder) if weight > 0 else None
    return NOTHING if company is None else weight * company.joined()


@dataclass(frozen=True)
class Part:
    """The steps of a drawing that are made at one resolution: size of the picture, first step, number of steps."""

    size: Size
    first: int
    steps: int


def parts(size: Size, steps: int, stages: Sequence[Stage], first: int = 0, last: int | None = None) -> list[Part]:
    """The parts of a drawing's steps from `first` to before `last`.

    Example:
        >>> [(part.size, part.first, part.steps) for part in parts((224, 224), 100, [(0.5, 0.6), (1.0, 0.4)], first=10)]
        [((112, 112), 10, 50), ((224, 224), 60, 40)]
    """
    last = steps if last is None else last
    total, done, begun = sum(share for _, share in stages), 0.0, 0
    found: list[Part] = []
    for fraction, share in stages:
        done += share
        end = round(steps * done / total)
        small = (round(fraction * size[0]), round(fraction * size[1]))
        part = Part(small if min(small) >= SMALLEST else size, max(begun, first), min(end, last) - max(begun, first))
        begun = end
        if part.steps <= 0:
            continue
        if found and found[-1].size == part.size:
            found[-1] = replace(found[-1], steps=found[-1].steps + part.steps)
        else:
            found.append(part)
    return found


def draw(
    classifier: Classifier,
    objective: Objective,
    begin: Tensor,
    streams: Streams,
    steps: int,
    prior: Prior,
    *,
    first: int = 0,
    last: int | None = None,
    rate: Schedule | None = None,
    mask: Mask | None = None,
    looks: Sequence[Augmentation | None] = (),
    weight: StepRule | None = None,
    watch: StepRule | None = None,
    scaled: StepRule | None = None,
    after: Sequence[StepRule] = (),
    optimizer: Optimizer | None = None,
    batch_size: int | None = None,
    stage: str = "",
) -> Iterator[Step]:
    """Pictures drawn from what a network knows, under a prior; a Step after each step, always in the size of the first.

    Args:
        classifier: the network whose objective is raised.
        objective: what is raised, per image; it is told the number of the step in the whole drawing.
        begin: (N, C, H, W) images in [0, 1], in the size that the pictures will have.
        streams: the images' random numbers.
        steps: number of steps of the whole drawing, by which stages and rates are laid out.
        prior: what is known of photographs.
        first: the step to begin with, where another part of a recipe made those before.
        last: the step to end before; None for all.
        rate: a schedule over the whole drawing instead of the prior's.
        mask: where the pictures may change; None for the prior's. The direction has a root mean square of 1 inside.
        looks: what is done to the pictures before the prior's moves, one of these at each step, in turn.
        weight: a further rule for the direction, after its scaling and before the mask.
        watch: the same after the mask: the step as it is made, but for its rate.
        scaled: what gives the direction its length, instead of a root mean square of 1.
        after: further rules after each step, before those of the prior.
        optimizer: makes a torch optimizer for the pictures of each stage; None for plain steps.
        batch_size: images per pass through the network; None chooses.
        stage: name of this part of a recipe.

    Yields:
        Steps.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((8, 8), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> goal, start = raised(classifier, Target.of(1)), torch.full((1, 3, 8, 8), 0.5)
        >>> values = [step.value.item() for step in draw(classifier, goal, start, Streams.of(0, [1]), 9, Prior())]
        >>> values[-1] > values[0]
        True
    """
    full, images = (int(begin.shape[-2]), int(begin.shape[-1])), begin
    mean = float(classifier.preprocess.mean_at(full).clamp(0, 1).mean())
    whole = cosine(prior.rate, _LAST_RATE * prior.rate) if rate is None else rate
    for part in parts(full, steps, prior.stages, first, last):
        images = resized(images, part.size)
        enlarged = part.size != full and not takes_size(classifier, part.size)
        own_rate = _from(whole, part.first, steps)
        own_mask = mask
        if mask is None and prior.middle and part.size != full and part.first < prior.stages[0][1] * steps:
            own_mask = discs(None, lambda _step: _MIDDLE, _EDGE)
        run = ascend(
            classifier,
            _counted(objective, part.first, steps),
            images,
            steps=part.steps,
            streams=streams,
            rate=own_rate,
            optimizer=optimizer,
            parametrization=Enlarged(full) if enlarged else None,
            augmentations=[
                *([in_turn(looks, part.first)] if looks else []),
                *prior.augmentations(full if enlarged else part.size),
            ],
            direction=[
                preconditioned(prior.power, prior.color, prior.lowest),
                *_masked(own_mask, scaled, weight, part),
                *([] if watch is None else [watch]),
            ],
            after=[*after, *prior.after(own_rate, mean)],
            residual=prior.residual,
            batch_size=batch_size,
            stage=stage if part.size == full else f"{stage}, {min(part.size)} px",
        )
        for step in part_of(run, part.first, steps):
            images = step.images
            yield step if images.shape[-2:] == full else replace(step, images=_for_show(images, full))


def resized(images: Tensor, size: Size) -> Tensor:
    """Images (N, C, H, W) in [0, 1] in another size; as they are where they have it."""
    if tuple(images.shape[-2:]) == tuple(size):
        return images
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def _for_show(images: Tensor, size: Size) -> Tensor:
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def _counted(objective: Objective, first: int, steps: int) -> Objective:
    """The objective of a part, told the number of its step in the whole drawing."""
    return Objective(
        lambda reading: objective(replace(reading, step=first + reading.step, steps=steps)), objective.layers
    )


def _from(schedule: Schedule, first: int, steps: int) -> Schedule:
    """A schedule of the whole drawing as a part sees it."""
    return lambda step, _steps: schedule(first + step, steps)


def _masked(mask: Mask | None, scaled: StepRule | None, weight: StepRule | None, part: Part) -> list[StepRule]:
    """A direction of its length, weighted, inside the mask."""
    extra = [] if weight is None else [weight]
    if mask is None:
        return [scaled or unit_rms(), *extra]

    def where(state: StepState) -> Tensor:
        return mask(part.size, part.first + state.step).to(state.gradient)

    return [scaled or unit_rms(where), *extra, multiply(where)]


def discs(places: Tensor | None, radius: Callable[[int], float], edge: float) -> Mask:
    """Discs about places (N, 2) in fractions of the sides, None for the middle; radius (of a step) and edge in shorter
    sides.

    Example:
        >>> mask = discs(None, lambda step: 0.25, 0.1)((65, 65), 0)
        >>> mask[0, 0, 32, 32].item(), mask[0, 0, 0, 0].item()
        (1.0, 0.0)
    """
    places = torch.full((1, 2), 0.5, device="cpu") if places is None else places

    def mask(size: Size, step: int) -> Tensor:
        sides = torch.tensor(size, dtype=torch.float32, device="cpu")
        centers = places * sides.to(places.device) - 0.5
        return disc(centers, radius(step) * min(size), size, edge * min(size))

    return mask
