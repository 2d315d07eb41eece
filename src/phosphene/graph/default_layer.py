"""The layer that heat maps of classes look at unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn

from phosphene.errors import ModelError
from phosphene.graph.spatial import spatial_size
from phosphene.types import Layer, Size

# What only passes on what came before: no place to stop at.
_PASSIVE = {
    kind.__name__
    for kind in (
        *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Dropout2d, nn.AlphaDropout),
        *(nn.Flatten, nn.Identity, nn.Softmax, nn.LogSoftmax),
    )
}

# What makes no block of what is made of nothing else.
_LINEAR = {kind.__name__ for kind in (nn.Linear, nn.Dropout, nn.Identity)}

# Candidates that one pass looks at: more would have to be recorded from further down.
_AT_ONCE = 8


def default_layer(
    layers: Sequence[Layer],
    size: Size,
    positions_reached: Callable[[Sequence[str]], Mapping[str, int]],
    *,
    network: str,
) -> str:
    """The last layer with a spatial map that still reaches the scores.

    A convolutional network's last features; what a transformer's last block hands on, or its last norm before the
    tokens are mixed for the last time: after that a class token has taken what it wants, and the patches no longer
    matter.

    Args:
        layers: what ran, in the order of completion (hooks.survey).
        size: (height, width) of the images.
        positions_reached: at how many positions of the maps of some layers a change reaches the scores; without those
            that lie off the way to them. Asked for few candidates at once, the last first.
        network: its name, for the message.

    Raises:
        ModelError: if no layer has a spatial map.
    """
    candidates = candidate_layers(layers, size)
    if not candidates:
        raise ModelError(
            f"no layer of {network} has an output with places: (N, C, h, w), (N, h, w, C) or tokens of the "
            "image's patches; name one with layer=, or use a method without layers (saliency, occlusion)"
        )
    reached: dict[str, int] = {}
    for first in range(0, len(candidates), _AT_ONCE):
        asked = candidates[first : first + _AT_ONCE]
        reached |= positions_reached(asked)
        found = next((name for name in asked if reached.get(name, 0) >= 2), None)
        if found is not None:
            return found
        if reached and not any(reached.values()):  # the scores are constant: no layer would do better
            break
    return candidates[0]


def candidate_layers(layers: Sequence[Layer], size: Size) -> list[str]:
    """The layers whose output is a map of the image's places, the last first.

    Those of which it is known that axes are places come before those that merely have the proportions of a map: by
    chance weights, learned queries, or heads by tokens by channels, have them too.
    """
    blocks = {name for layer in layers if layer.kind not in _LINEAR for name in _around(layer.name)}
    mapped = [layer for layer in reversed(layers) if _is_map(layer, size)]
    fitting = [layer for layer in mapped if _ends_block(layer, layer.name in blocks)]
    # (Rather the pixels by themselves, behind a linear layer, than what is known to be no places.)
    known = [[layer for layer in fitting if places_known(layer) == known] for known in (2, 1, 0)]
    known[0] = known[0] or [layer for layer in mapped if places_known(layer) == 2 and layer.kind == "Linear"]
    found = [layer.name for layers_known in known for layer in layers_known]
    # A network that squeezes one side alone has grids of other proportions than its images.
    return found or [
        layer.name for layer in reversed(layers) if layer.rows == 1 and len(layer.shape) == 3 and _has_extent(layer)
    ]


def places_known(layer: Layer) -> int:
    """How much is known of a layer's places: that there are some (2), which axes they would be (1), nothing (0)."""
    return 0 if layer.layout is None else 1 + layer.placed


def is_passive(layer: Layer) -> bool:
    """Whether a layer only passes on what came before, as dropout does."""
    return layer.kind in _PASSIVE


def _is_map(layer: Layer, size: Size) -> bool:
    there = layer.rows == 1 and not is_passive(layer) and layer.made is None
    return there and spatial_size(layer.shape, size, layer.layout) is not None


def _ends_block(layer: Layer, is_block: bool) -> bool:
    # Inside a block many tokens are queries, keys or mixtures, also where a linear layer is put together of several
    # (LoRA); its norms stand where it is entered and left, and what is made of parts gives what they add up to.
    return len(layer.shape) == 3 or "Norm" in layer.kind or is_block


def _around(name: str) -> Iterator[str]:
    """The names of the modules that one lies in."""
    while name := name.rpartition(".")[0]:
        yield name


def _has_extent(layer: Layer) -> bool:
    rows, columns = layer.shape[:2] if layer.layout == "NHWC" else layer.shape[1:]
    return not is_passive(layer) and rows * columns > 1
