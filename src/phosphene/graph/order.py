"""Which layer runs before another."""

from __future__ import annotations

from collections.abc import Sequence

from phosphene.errors import NotFoundError, suggest
from phosphene.types import Layer


def layer_before(layers: Sequence[Layer], name: str) -> str | None:
    """The layer that finished last before a layer began: its neighbour or that of the block it begins, or None.

    What lies inside the layer does not count, and a block that the layer is part of has not finished yet.

    Args:
        layers: what ran, in the order of completion (hooks.survey).
        name: one of them.

    Raises:
        NotFoundError: if no such layer ran.

    Example:
        >>> names = ("stem", "block.0.conv", "block.0", "block.1.conv", "block.1", "block")
        >>> ran = [Layer(name, "Module", (1,), turn) for turn, name in enumerate(names)]
        >>> [layer_before(ran, name) for name in ("block.1", "block.1.conv", "block", "stem")]
        ['block.0', 'block.0', 'stem', None]
    """
    names = [layer.name for layer in layers]
    if name not in names:
        raise NotFoundError(f"layer '{name}' did not run{suggest(name, names)}")
    inside = f"{name}."
    before = [other for other in names[: names.index(name)] if not other.startswith(inside)]
    return before[-1] if before else None


def layers_feeding(layers: Sequence[Layer], name: str) -> list[str]:
    """Layers of the same shape that ran right before a layer, the nearest first, at most three.

    What a ReLU keeps silent can be drawn before it: there its channels are the same.

    Example:
        >>> shapes = {"pool": (8, 2, 2), "conv": (4, 2, 2), "norm": (4, 2, 2), "relu": (4, 2, 2)}
        >>> ran = [Layer(name, "Module", shape, turn) for turn, (name, shape) in enumerate(shapes.items())]
        >>> layers_feeding(ran, "relu")
        ['norm', 'conv']
    """
    number = next(number for number, found in enumerate(layers) if found.name == name)
    names: list[str] = []
    for found in reversed(layers[:number]):
        if found.shape != layers[number].shape or len(names) == 3:
            break
        names.append(found.name)
    return names
