"""Fused images: features of two or more classes in one natural-looking image that is none of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import NotFoundError, OptionError
from phosphene.options import option
from phosphene.registry import register_recipe
from phosphene.synthesis.ascent import Step
from phosphene.synthesis.augment import Augmentation, Close
from phosphene.synthesis.background import Held
from phosphene.synthesis.canvas import canvas_size, class_count, noisy_mean
from phosphene.synthesis.objectives import Objective, all_scores, class_score, even_share, in_turn
from phosphene.synthesis.published import Published
from phosphene.synthesis.schedules import Schedule, linear
from phosphene.synthesis.staged import (
    START_NOISE,
    DrawingOptions,
    Mask,
    Prior,
    discs,
    draw,
    fading_logit,
    raised,
    resized,
)
from phosphene.synthesis.step_rules import StepRule, calmed, carried, within
from phosphene.synthesis.streams import Streams
from phosphene.synthesis.weights import WeightKind, saliency_weight
from phosphene.targets import Target
from phosphene.types import Size


@dataclass(frozen=True)
class FuseOptions(DrawingOptions):
    """Options of `fuse`."""

    steps: int = option("number of steps in all", best=240, paper=300, at_least=1)
    even: float = option(
        "share of the steps, the last, that raise all the classes at once", best=1.0, paper=0.0, at_least=0, at_most=1
    )
    close: float = option(
        "part of the side that is seen by those looks of them that are at the place of one class, and raise that class "
        "alone: each class in turn, twice, then all in the whole image; 1 for all in the whole image at each",
        best=0.65,
        paper=1.0,
        at_least=0,
        at_most=1,
    )
    turn: int = option(
        "one by one: steps of a class, about, before it is the next one's turn; 0 for all of its steps in one turn",
        best=0,
        paper=10,
        at_least=0,
    )
    weight: WeightKind = option(
        "one by one: map of step sizes by equations 2-4, reading A or B, from the class's own history, or none",
        best="none",
        paper="A",
    )
    tv: float = option(
        "one by one: size of a step down the total variation of the class's own region, in [0, 1] units; 0 for none",
        best=0.0,
        paper=0.004,
        at_least=0,
    )
    settle: int = option(
        "how many of these, the last, see the image as it is, without augmentation, and are small, so that the shares "
        "are even in the finished picture too",
        best=30,
        paper=0,
        at_least=0,
    )
    temperature: float = option("of the classes' log-probabilities under a prior", best=2.5, paper=1.6, at_least=0.01)
    distance: float = option(
        "of the places from the center, as a fraction of the shorter side", best=0.175, paper=0.25, at_least=0
    )
    radius: float = option("final radius of each disc, likewise", 150 / 224, at_least=0)
    first_radius: float = option("radius at the first step, likewise", 1 / 224, at_least=0)
    soft: float = option("width of the discs' edge, likewise", 0.0, at_least=0)


@register_recipe(title="Fused image", paper="addepalli2020", groups=True)
def fuse(
    classifier: Classifier,
    groups: Sequence[Sequence[int]],
    streams: Streams,
    options: FuseOptions,
) -> Iterator[Step]:
    """One image with features of several classes, grown from different places: a negative image for both.

    The places stand evenly on a circle about the image's center, turned by a random angle; each class is developed
    within a disc that grows at a place of its own. In the preset `paper` the classes take turns of a few iterations,
    each from a single pixel on, and a pixel belongs to the nearest place, so that the regions stay apart (ours). Each
    turn is what the paper proposes for one class: its gradient weighed by equations 2-4, its history kept from turn
    to turn, the moves of class impressions before each look, and the step down the total variation, which leaves
    the other classes' regions alone: over the whole picture it would wipe out what they have drawn. Steps, turns,
    rates, places and discs have no value in the paper: all are ours.

    In the preset `best` all classes are raised at once under the prior of photographs (synthesis.staged). Each has
    close looks of its own, at a part of the picture about its place, so that it is drawn as a thing that a network
    sees there; the parts overlap, and every fifth look of a pair is at the whole, where they grow into each other: the
    mean log-probability is highest where the classes share the probability evenly, so that none of them wins.

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
    count, size = _checked(groups, classifier), canvas_size(classifier)
    places = spread_places(streams, count, size, options.distance * min(size))
    drawn = options.prior == "photographs"
    images = (
        noisy_mean(classifier, streams, START_NOISE, "normal")
        if drawn
        else noisy_mean(classifier, streams, 1.0, "range")
    )
    prior = options.photographs(middle=options.even == 1 and options.close == 1) if drawn else Published.none()
    together, apart, held = round(options.steps * options.even), options.apart(classifier), Held()

    def run(images: Tensor) -> Iterator[Step]:
        for part in [
            *_one_by_one(classifier, groups, places, size, options, options.steps - together),
            *_evened(classifier, groups, (places + 0.5) / places.new_tensor(size), options, together),
        ]:
            still = prior
            if part.still:
                still = (
                    replace(prior, rotation=0.0, scale=(1.0, 1.0), shift=0.0, flips=False) if drawn else Prior.none()
                )
            # (At last only the shares count.)
            goal = part.objective if part.still else part.objective - apart
            for step in draw(
                classifier, goal, images, streams, options.steps, still, first=part.first, last=part.last,
                rate=part.rate, mask=part.mask, looks=part.looks, weight=part.weight, watch=held.see, after=part.after,
                stage=part.stage,
            ):  # fmt: skip
                images = step.images
                yield replace(step, extras={"places": places})

    yield from held.finished(run(images), options.background)


# How often each class is looked at closely before all are looked at in the whole image.
_CLOSE_ROUNDS = 2


@dataclass(frozen=True)
class _Part:
    """Steps `first` to before `last` of a fused image: what they raise, and where."""

    first: int
    last: int
    objective: Objective
    stage: str
    mask: Mask | None = None
    looks: Sequence[Augmentation | None] = ()
    rate: Schedule | None = None
    weight: StepRule | None = None
    after: Sequence[StepRule] = ()
    still: bool = False


@dataclass(frozen=True)
class Turn:
    """Steps `first` to before `last` of one class, of whose own `steps` so many came before.

    Args:
        index: which of the classes.
        number: which of its turns, from 0.
        first: the step it begins with.
        last: the step it ends before.
        before: steps of the class in earlier turns.
        steps: of the class in all.
    """

    index: int
    number: int
    first: int
    last: int
    before: int
    steps: int


def turns(steps: int, count: int, turn: int) -> list[Turn]:
    """Whose turn it is: some steps of the first class, of the second, and so on, in rounds in which all have one.

    Args:
        steps: in all.
        count: of classes.
        turn: about how many steps each is, as many rounds as come nearest to it; 0 for one round.

    Example:
        >>> [(turn.index, turn.first, turn.last, turn.before) for turn in turns(12, 2, 3)]
        [(0, 0, 3, 0), (1, 3, 6, 0), (0, 6, 9, 3), (1, 9, 12, 3)]
        >>> [(turn.index, turn.first, turn.last) for turn in turns(10, 3, 0)]
        [(0, 0, 3), (1, 3, 6), (2, 6, 10)]
    """
    rounds = max(1, round(steps / (count * turn))) if turn > 0 else 1
    edges = [steps * place // (rounds * count) for place in range(rounds * count + 1)]
    lengths = [last - first for first, last in pairwise(edges)]
    return [
        Turn(
            place % count,
            place // count,
            edges[place],
            edges[place + 1],
            sum(lengths[place % count : place : count]),
            sum(lengths[place % count :: count]),
        )
        for place in range(rounds * count)
    ]


def _one_by_one(
    classifier: Classifier,
    groups: Sequence[Sequence[int]],
    places: Tensor,
    size: Size,
    options: FuseOptions,
    steps: int,
) -> list[_Part]:
    """The classes in their turns, each in a growing disc within its own region."""
    count = places.shape[1]
    goals = [class_score(classifier, Target.of([group[index] for group in groups])) for index in range(count)]
    regions = [nearest(places, index, size).float() for index in range(count)]
    memories: list[dict[str, Tensor]] = [{} for _ in range(count)]
    drawn = options.prior == "photographs"
    calm = calmed(lambda _step: options.tv, 1, literal=not drawn) if options.tv else []

    def part(turn: Turn) -> _Part:
        region, grown = regions[turn.index], _disc(places[:, turn.index], size, options, turn)

        def own(at: Size) -> Tensor:
            return resized(region, at)

        def mask(at: Size, step: int) -> Tensor:
            return grown(at, step) * own(at)

        if drawn:  # (a turn may be of several resolutions, each with a history of its own)
            weight = saliency_weight(options.weight)
        else:
            weight = saliency_weight(options.weight, lambda state: mask(size, turn.first + state.step))
            weight = carried(weight, memories[turn.index], turn.before, turn.steps)
        return _Part(
            turn.first,
            turn.last,
            goals[turn.index],
            f"class {turn.index + 1}" + (f", turn {turn.number + 1}" if options.turn else ""),
            mask,
            rate=lambda _step, _steps: options.rate,
            weight=weight,
            after=[within(lambda state: own(_size_of(state.parameters)), rule) for rule in calm],
        )

    return [part(turn) for turn in turns(steps, count, options.turn)]


def _size_of(images: Tensor) -> Size:
    return int(images.shape[-2]), int(images.shape[-1])


def _evened(
    classifier: Classifier,
    groups: Sequence[Sequence[int]],
    places: Tensor,
    options: FuseOptions,
    together: int,
) -> list[_Part]:
    """The steps that raise all classes at once; the last of them small, at the image as it is."""
    if together == 0:
        return []
    drawn = options.prior == "photographs"
    temperature = options.temperature if drawn else 1.0
    goals, looks = [even_share(classifier, groups, temperature)], list[Augmentation | None]()
    if drawn:
        goals[0] = goals[0] + fading_logit(all_scores(classifier, groups))
    if options.close < 1:
        each = [Target.of([group[index] for group in groups]) for index in range(places.shape[1])]
        goals = [*[raised(classifier, target, temperature=temperature) for target in each] * _CLOSE_ROUNDS, *goals]
        looks = [*[Close(place, options.close) for place in places.unbind(dim=1)] * _CLOSE_ROUNDS, None]
    first, settle = options.steps - together, options.steps - min(options.settle, together)
    slow = linear(options.rate / 40, options.rate / 2000, max(1, options.settle))

    def small(step: int, steps: int) -> float:
        return slow(step - settle, steps)

    return [
        _Part(first, settle, in_turn(goals), "together", looks=looks),
        _Part(settle, options.steps, even_share(classifier, groups), "settle", rate=small, still=True),
    ]


def _disc(centers: Tensor, size: Size, options: FuseOptions, turn: Turn) -> Mask:
    """A disc about each image's place (N, 2), which grows over a class's own steps, of which a turn is a part."""
    radii = linear(options.first_radius, options.radius, max(1, turn.steps - 1))
    sides = torch.tensor(size, dtype=torch.float32, device="cpu")
    return discs((centers + 0.5) / sides, lambda step: radii(turn.before + step - turn.first, turn.steps), options.soft)


def _checked(groups: Sequence[Sequence[int]], classifier: Classifier) -> int:
    """How many classes each image has, all of them among the network's."""
    lengths = {len(group) for group in groups}
    if len(lengths) != 1:
        raise OptionError(f"groups of {sorted(lengths)} classes in one run; give every image the same number")
    count = lengths.pop()
    if count < 2:
        raise OptionError("a fused image needs two classes or more; for one class use impress")
    for group in groups:
        if len(set(group)) != count:
            raise OptionError(f"the classes {tuple(group)} of a fused image are not all different")
    known, last = class_count(classifier), max(map(max, groups))
    if last >= known:
        raise NotFoundError(f"no class {last}; {classifier.name} has {known} classes, 0 to {known - 1}")
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
