"""Fused images: features of two or more classes in one natural-looking image that is none of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.options import Options, option
from phosphene.registry import register_recipe
from phosphene.synthesis.ascent import Step, ascend, part_of
from phosphene.synthesis.augment import Affine, Augmentation, CropAbout
from phosphene.synthesis.canvas import canvas_size, close_view, noisy_mean
from phosphene.synthesis.masks import disc
from phosphene.synthesis.norms import norm_statistics
from phosphene.synthesis.objectives import class_score, even_share
from phosphene.synthesis.priors import total_variation_step
from phosphene.synthesis.schedules import Schedule, linear
from phosphene.synthesis.step_rules import StepRule, StepState, clip, multiply, preconditioned, unit_rms
from phosphene.synthesis.streams import Streams
from phosphene.targets import Target
from phosphene.types import Size


@dataclass(frozen=True)
class FuseOptions(Options):
    """Options of `fuse`."""

    steps: int = option("number of steps in all", best=256, paper=300, at_least=1)
    rate: float = option("root mean square inside the mask of the first step, in [0, 1] units", best=0.04, paper=0.02)
    last_rate: float = option("of the last step; linear between", best=0.006, paper=0.02)
    even: float = option("share of the steps that even out the classes", best=0.25, paper=0.0)
    settle: int = option(
        "how many of these, the last, see the image as it is, without augmentation, so that the shares are even in "
        "the finished picture too; their steps shrink from a quarter to a fortieth of `last_rate`",
        best=20,
        paper=0,
    )
    distance: float = option("of the places from the centre, as a fraction of the shorter side", 0.25)
    radius: float = option("final radius of each disc, likewise", best=0.28, paper=150 / 224)
    first_radius: float = option("radius at the first step, likewise", best=0.05, paper=1 / 224)
    soft: float = option("width of the discs' edge, likewise", best=0.04, paper=0.0)
    precondition: float = option("power of 1/f on the gradient; 0 for the plain gradient", best=1.0, paper=0.0)
    color: float = option(
        "power of the natural colors' covariance on the gradient, where it is preconditioned", best=0.5, paper=0.0
    )
    noise: float = option(
        "the start image is the mean image +- noise; from 1 on uniform over the whole range", best=0.05, paper=1.0
    )
    tv: float = option(
        "size of a step down the total variation on the whole image, in [0, 1] units; in proportion to the rate, so "
        "that it does not take away what the small last steps draw",
        best=0.0012,
        paper=0.004,
    )
    view: float = option(
        "side of the part, about each class's place, that the network looks at while the class is developed, as a "
        "fraction of the image's; only where the network takes images of other sizes",
        best=128 / 224,
        paper=1.0,
    )
    views_per_step: int = option(
        "augmented views of the image whose mean gradient makes a step; each costs as much as a step with one",
        best=3,
        paper=1,
    )
    statistics: float = option(
        "weight of the distance to the statistics in the network's batch norms (norm_statistics) while the classes "
        "are developed; a tenth of it in the steps that even them out, whose objective is a log-probability",
        0.0,
    )
    rotation: float = option("augmentation: degrees", best=12.0, paper=5.0)
    scale: tuple[float, float] = option("augmentation: low and high", best=(0.8, 1.15), paper=(0.95, 1.05))
    shift: float = option("augmentation: fraction of the shorter side", best=0.05, paper=16 / 224)


@register_recipe(title="Fused image", paper="addepalli2020", groups=True)
def fuse(
    classifier: Classifier,
    groups: Sequence[Sequence[int]],
    streams: Streams,
    options: FuseOptions,
) -> Iterator[Step]:
    """One image with features of several classes, grown from different places: a negative image for both.

    Each class in turn is developed for some iterations within a disc that grows from a single pixel at a place of its
    own; the places stand evenly on a circle about the image's centre, turned by a random angle. A pixel belongs to
    the nearest place, so the regions stay apart (ours). Steps, rates, places and discs have no value in the paper:
    all are ours. In the preset `best` a last share of the steps raises the mean log-probability of all the
    classes at once over all regions: highest where they share the probability evenly, so that none of them wins.

    Args:
        classifier: the network that remembers.
        groups: the classes of each image, two or more, the same number for all.
        streams: the images' random numbers.
        options: see FuseOptions.

    Yields:
        Steps; extras: `places` (N, classes, 2) in pixels.

    Raises:
        OptionError: for fewer than two classes, one class twice, or groups of different lengths.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((32, 32), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> last = list(fuse(classifier, [(0, 2)], Streams.of(0, ["0+2"]), FuseOptions(steps=10)))[-1]
        >>> last.images.shape, last.extras["places"].shape
        (torch.Size([1, 3, 32, 32]), torch.Size([1, 2, 2]))

    References:
        addepalli2020, section 4.1.
    """
    count = _checked(groups)
    size = canvas_size(classifier)
    places = spread_places(streams, count, size, options.distance * min(size))
    images = noisy_mean(classifier, streams, options.noise, "range" if options.noise >= 1 else "uniform")
    side = float(min(size))
    last_steps = round(options.steps * options.even)
    lengths = [
        (options.steps - last_steps) // count + (index < (options.steps - last_steps) % count) for index in range(count)
    ]
    regions = [nearest(places, index, size) for index in range(count)]
    done = 0
    settling = min(options.settle, last_steps)
    moves = [Affine(options.rotation, options.scale, options.shift * side)]
    for index, length in enumerate([*lengths, last_steps - settling, settling]):
        together = index >= count
        close_up: list[Augmentation] = []
        step_rate = _slice(linear(options.rate, options.last_rate), done, options.steps)
        if index > count:  # without augmentation the shares swing at steps of the usual size
            step_rate = linear(options.last_rate / 4, options.last_rate / 40)
        if together:
            mask = _together(places, options.radius * side, size, options.soft * side)
            objective = even_share(classifier, groups)
        else:
            mask = _growing(places[:, index], regions[index], options, side, size)
            close_up = _close_up(classifier, places[:, index], options.view, size)
            objective = class_score(classifier, Target.of([group[index] for group in groups]))
        if options.statistics > 0:
            weight = options.statistics / 10 if together else options.statistics
            objective = objective - weight * norm_statistics(classifier)
        run = ascend(
            classifier,
            objective,
            images,
            steps=length,
            streams=streams,
            views_per_step=options.views_per_step if index <= count else 1,
            rate=step_rate,
            augmentations=[*close_up, *moves] if index <= count else [],
            direction=[preconditioned(options.precondition, options.color), unit_rms(mask), multiply(mask)],
            after=[_fading(options.tv / max(options.rate, 1e-30), step_rate), clip],
            stage="together" if together else f"class {index + 1}",
        )
        for step in part_of(run, done, options.steps, places=places):
            images = step.images
            yield step
        done += length


def _checked(groups: Sequence[Sequence[int]]) -> int:
    """How many classes each image has."""
    lengths = {len(group) for group in groups}
    if len(lengths) != 1:
        raise OptionError(f"groups of {sorted(lengths)} classes in one run; give every image the same number")
    count = lengths.pop()
    if count < 2:
        raise OptionError("a fused image needs two classes or more; for one class use impress")
    for group in groups:
        if len(set(group)) != count:
            raise OptionError(f"the classes {tuple(group)} of a fused image are not all different")
    return count


def spread_places(streams: Streams, count: int, size: Size, distance: float) -> Tensor:
    """(N, count, 2) pixels (row, column), evenly on a circle about the middle, turned by each image's own angle."""
    turn = streams.at(0).under("places").uniform("turn").double()  # (N, 1)
    angles = 2 * math.pi * (turn + torch.arange(count, dtype=torch.float64, device="cpu") / count)
    middle = torch.tensor([(side - 1) / 2 for side in size], dtype=torch.float64, device="cpu")
    return (middle + distance * torch.stack([angles.sin(), angles.cos()], dim=2)).float()


def nearest(places: Tensor, index: int, size: Size) -> Tensor:
    """(N, 1, H, W) bool: the pixels that are nearer to the place `index` than to any other; of equals the first's."""
    rows = torch.arange(size[0], device=places.device)[:, None]
    columns = torch.arange(size[1], device=places.device)[None, :]
    squares = (rows - places[:, :, 0, None, None]) ** 2 + (columns - places[:, :, 1, None, None]) ** 2
    return (squares.argmin(dim=1) == index)[:, None]


def _growing(
    centers: Tensor, region: Tensor, options: FuseOptions, side: float, size: Size
) -> Callable[[StepState], Tensor]:
    radii = linear(options.first_radius * side, options.radius * side)

    def mask(state: StepState) -> Tensor:
        grown = disc(centers, radii(state.step, state.steps), size, options.soft * side) * region
        return grown.to(state.gradient)

    return mask


def _close_up(classifier: Classifier, centers: Tensor, view: float, size: Size) -> list[Augmentation]:
    """The part about each image's place that the network looks at; all of it where the network takes one size only."""
    part = close_view(classifier, view, size)
    return [] if part is None else [CropAbout(centers, part)]


def _together(places: Tensor, radius: float, size: Size, soft: float) -> Callable[[StepState], Tensor]:
    discs = [disc(centers, radius, size, soft) for centers in places.unbind(dim=1)]
    whole = torch.stack(discs).amax(dim=0)
    return lambda state: whole.to(state.gradient)


def _fading(share: float, rate: Schedule) -> StepRule:
    """Down the total variation by a share of the step's rate, so that small last steps are not taken away by it."""
    return lambda images, state: total_variation_step(images, share * rate(state.step, state.steps))


def _slice(whole: Schedule, done: int, steps: int) -> Schedule:
    """The part of a schedule over all steps that a later run sees."""
    return lambda step, _steps: whole(done + step, steps)
