"""Fused images: features of two or more classes in one natural-looking image that is none of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.registry import register_recipe
from phosphene.synthesis.ascent import Moment, Rule, Step, ascend, clip, multiply, part_of, preconditioned, unit_rms
from phosphene.synthesis.augment import Affine, Augmentation, CropAbout
from phosphene.synthesis.canvas import Preset, canvas_size, noisy_mean, settings_of, takes_size
from phosphene.synthesis.masks import disc
from phosphene.synthesis.norms import norm_statistics
from phosphene.synthesis.objectives import class_score, even_share
from phosphene.synthesis.priors import total_variation_step
from phosphene.synthesis.schedules import Schedule, linear
from phosphene.synthesis.streams import Streams
from phosphene.types import Size, Target


@dataclass(frozen=True)
class Settings:
    """The numbers of a preset; see `fuse`."""

    steps: int
    rate: float
    last_rate: float
    even: float
    settle: int
    distance: float
    radius: float
    first_radius: float
    soft: float
    precondition: float
    color: float
    noise: float
    tv: float
    view: float
    looks: int
    statistics: float
    rotation: float
    scale: tuple[float, float]
    shift: float


PRESETS = {
    "best": Settings(
        steps=256,
        rate=0.04,
        last_rate=0.006,
        even=0.25,
        settle=20,
        distance=0.25,
        radius=0.28,
        first_radius=0.05,
        soft=0.04,
        precondition=1.0,
        color=0.5,
        noise=0.05,
        tv=0.0012,
        view=128 / 224,
        looks=3,
        statistics=0.0,
        rotation=12.0,
        scale=(0.8, 1.15),
        shift=0.05,
    ),
    "paper": Settings(
        steps=300,
        rate=0.02,
        last_rate=0.02,
        even=0.0,
        settle=0,
        distance=0.25,
        radius=150 / 224,
        first_radius=1 / 224,
        soft=0.0,
        precondition=0.0,
        color=0.0,
        noise=1.0,
        tv=0.004,
        view=1.0,
        looks=1,
        statistics=0.0,
        rotation=5.0,
        scale=(0.95, 1.05),
        shift=16 / 224,
    ),
}


@register_recipe(title="Fused image", paper="addepalli2020", presets=tuple(PRESETS), groups=True)
def fuse(
    classifier: Classifier,
    groups: Sequence[Sequence[int]],
    streams: Streams,
    *,
    preset: Preset = "best",
    steps: int | None = None,
    rate: float | None = None,
    last_rate: float | None = None,
    even: float | None = None,
    settle: int | None = None,
    distance: float | None = None,
    radius: float | None = None,
    first_radius: float | None = None,
    soft: float | None = None,
    precondition: float | None = None,
    color: float | None = None,
    noise: float | None = None,
    tv: float | None = None,
    view: float | None = None,
    looks: int | None = None,
    statistics: float | None = None,
    rotation: float | None = None,
    scale: tuple[float, float] | None = None,
    shift: float | None = None,
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
        preset: best or paper.
        steps: number of steps in all.
        rate: root mean square inside the mask of the first step, in [0, 1] units.
        last_rate: of the last step; linear between.
        even: share of the steps that even out the classes.
        settle: how many of these, the last, see the image as it is, without augmentation, so that the shares are even
            in the finished picture too; their steps shrink from a quarter to a fortieth of `last_rate`.
        distance: of the places from the centre, as a fraction of the shorter side.
        radius: final radius of each disc, likewise.
        first_radius: radius at the first step, likewise.
        soft: width of the discs' edge, likewise.
        precondition: power of 1/f on the gradient; 0 for the plain gradient.
        color: power of the natural colors' covariance on the gradient, where it is preconditioned.
        noise: the start image is the mean image +- noise; from 1 on uniform over the whole range.
        tv: size of a step down the total variation on the whole image, in [0, 1] units; in proportion to the rate, so
            that it does not take away what the small last steps draw.
        view: side of the part, about each class's place, that the network looks at while the class is developed, as a
            fraction of the image's; only where the network takes images of other sizes.
        looks: how many differently augmented looks a step is the mean of; each costs as much as a step with one.
        statistics: weight of the distance to the statistics in the network's batch norms (norm_statistics) while the
            classes are developed; a tenth of it in the steps that even them out, whose objective is a log-probability.
        rotation: augmentation: degrees.
        scale: augmentation: low and high.
        shift: augmentation: fraction of the shorter side.

    Yields:
        Steps; extras: `places` (N, classes, 2) in pixels.

    Raises:
        OptionError: for fewer than two classes, one class twice, or groups of different lengths.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        >>> from phosphene.classifier import Preprocess
        >>> classifier = Classifier(net, Preprocess((32, 32), mean=(0.5,) * 3, std=(0.2,) * 3))
        >>> last = list(fuse(classifier, [(0, 2)], Streams.of(0, ["0+2"]), steps=10))[-1]
        >>> last.images.shape, last.extras["places"].shape
        (torch.Size([1, 3, 32, 32]), torch.Size([1, 2, 2]))

    References:
        addepalli2020, section 4.1.
    """
    given = {name: value for name, value in locals().items() if name in Settings.__dataclass_fields__}
    own = settings_of(PRESETS, preset, **given)
    count = _checked(groups)
    size = canvas_size(classifier)
    places = spread_places(streams, count, size, own.distance * min(size))
    images = noisy_mean(classifier, streams, own.noise, "range" if own.noise >= 1 else "uniform")
    side = float(min(size))
    last_steps = round(own.steps * own.even)
    lengths = [(own.steps - last_steps) // count + (index < (own.steps - last_steps) % count) for index in range(count)]
    regions = [nearest(places, index, size) for index in range(count)]
    done = 0
    settling = min(own.settle, last_steps)
    moves = [Affine(own.rotation, own.scale, own.shift * side)]
    for index, length in enumerate([*lengths, last_steps - settling, settling]):
        together = index >= count
        looked_at: list[Augmentation] = []
        step_rate = _slice(linear(own.rate, own.last_rate), done, own.steps)
        if index > count:  # without augmentation the shares swing at steps of the usual size
            step_rate = linear(own.last_rate / 4, own.last_rate / 40)
        if together:
            mask = _together(places, own.radius * side, size, own.soft * side)
            objective = even_share(classifier, groups)
        else:
            mask = _growing(places[:, index], regions[index], own, side, size)
            looked_at = _looking(classifier, places[:, index], own.view, size)
            objective = class_score(classifier, Target.of([group[index] for group in groups]))
        if own.statistics > 0:
            weight = own.statistics / 10 if together else own.statistics
            objective = objective - weight * norm_statistics(classifier)
        run = ascend(
            classifier,
            objective,
            images,
            steps=length,
            streams=streams,
            looks=own.looks if index <= count else 1,
            rate=step_rate,
            augmentations=[*looked_at, *moves] if index <= count else [],
            direction=[preconditioned(own.precondition, own.color), unit_rms(mask), multiply(mask)],
            after=[_fading(own.tv / max(own.rate, 1e-30), step_rate), clip],
            stage="together" if together else f"class {index + 1}",
        )
        for step in part_of(run, done, own.steps, places=places):
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


def _growing(centers: Tensor, region: Tensor, own: Settings, side: float, size: Size) -> Callable[[Moment], Tensor]:
    radii = linear(own.first_radius * side, own.radius * side)

    def mask(moment: Moment) -> Tensor:
        grown = disc(centers, radii(moment.step, moment.steps), size, own.soft * side) * region
        return grown.to(moment.gradient)

    return mask


def _looking(classifier: Classifier, centers: Tensor, view: float, size: Size) -> list[Augmentation]:
    """The part about each image's place that the network looks at; all of it where the network takes one size only."""
    part = (round(view * size[0]), round(view * size[1]))
    if view >= 1 or not takes_size(classifier, part):
        return []
    return [CropAbout(centers, part)]


def _together(places: Tensor, radius: float, size: Size, soft: float) -> Callable[[Moment], Tensor]:
    discs = [disc(centers, radius, size, soft) for centers in places.unbind(dim=1)]
    whole = torch.stack(discs).amax(dim=0)
    return lambda moment: whole.to(moment.gradient)


def _fading(share: float, rate: Schedule) -> Rule:
    """Down the total variation by a share of the step's rate, so that small last steps are not taken away by it."""
    return lambda images, moment: total_variation_step(images, share * rate(moment.step, moment.steps))


def _slice(whole: Schedule, done: int, steps: int) -> Schedule:
    """The part of a schedule over all steps that a later run sees."""
    return lambda step, _steps: whole(done + step, steps)
