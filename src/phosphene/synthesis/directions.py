"""Small pictures of many channels or directions of a layer at once, for sheets of them: one batch, two low stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import NumericalError
from phosphene.synthesis.ascent import Step
from phosphene.synthesis.canvas import noisy_mean
from phosphene.synthesis.objectives import Objective, channel, toward
from phosphene.synthesis.staged import START_NOISE, Prior, draw
from phosphene.synthesis.streams import Streams

# Drawn small, as they are shown small: what is seen of them on a sheet is there at half of the network's side.
_PRIOR = Prior(stages=((0.5, 0.6), (5 / 7, 0.4)), middle=False)

Watch = Callable[[Step], None]


def draw_channels(
    classifier: Classifier,
    sources: Sequence[str],
    channels: Sequence[int],
    *,
    steps: int,
    seed: int = 0,
    watch: Watch | None = None,
) -> list[Tensor | None]:
    """A picture (C, H, W) of each channel: its mean over places raised; None for one without a gradient anywhere.

    Args:
        classifier: whose layers they are.
        sources: the layer, and the layers that feed it with the same channels, nearest first: a channel that a ReLU
            keeps silent at the gray start is drawn before it.
        channels: of the layer.
        steps: number of steps.
        seed: of each picture's random numbers.
        watch: called after each step.

    Returns:
        One for each channel, each the same whatever is drawn beside it but for last bits.

    Example:
        >>> from phosphene.classifier import Preprocess
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier(net, Preprocess((16, 16)))
        >>> [picture.shape for picture in draw_channels(classifier, ["0"], [0, 2], steps=2)]
        [torch.Size([3, 16, 16]), torch.Size([3, 16, 16])]
    """
    for layer in sources:
        try:
            names = [f"{layer}={number}" for number in channels]
            return list(_drawn(classifier, channel(layer, channels), names, steps, seed, watch))
        except NumericalError:
            continue
    if len(channels) == 1:
        return [None]
    alone = [draw_channels(classifier, sources, [number], steps=steps, seed=seed, watch=watch) for number in channels]
    return [picture for (picture,) in alone]


def draw_directions(
    classifier: Classifier,
    layer: str,
    directions: Tensor,
    names: Sequence[str],
    *,
    steps: int,
    seed: int = 0,
    watch: Watch | None = None,
) -> Tensor:
    """(N, C, H, W): a picture for each direction (N, k) of a layer: its output made to point there.

    Args:
        classifier: whose layer it is.
        layer: dotted name.
        directions: of the layer's output averaged over its places.
        names: of the directions, which name their random numbers.
        steps: number of steps.
        seed: of each picture's random numbers.
        watch: called after each step.

    Raises:
        NumericalError: if a gradient is zero, NaN or infinite.

    Example:
        >>> from phosphene.classifier import Preprocess
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> classifier = Classifier(net, Preprocess((16, 16)))
        >>> draw_directions(classifier, "0", torch.rand(2, 4), ["a", "b"], steps=2).shape
        torch.Size([2, 3, 16, 16])

    References:
        carter2019.
    """
    return _drawn(classifier, toward(layer, directions), names, steps, seed, watch)


def _drawn(
    classifier: Classifier, goal: Objective, names: Sequence[str], steps: int, seed: int, watch: Watch | None
) -> Tensor:
    streams = Streams.of(seed, names)
    start = noisy_mean(classifier, streams, START_NOISE, "normal")
    last = start
    for step in draw(classifier, goal, start, streams, steps, _PRIOR):
        last = step.images
        if watch is not None:
            watch(step)
    return last.cpu()
