"""Networks in files of another runtime: what they take, and those that have scores but neither layers nor gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.score_function import ScoreFunction
from phosphene.types import Size
from phosphene.zoo.card import Unstated
from phosphene.zoo.weights import Weights


@dataclass(frozen=True)
class Taken:
    """The batch of pictures that a file takes.

    Args:
        shape: of it; what is no whole number may be any.
        kind: NumPy's type of its values.
        last: whether channels come last where the shape leaves it open.
        mean: per channel, that is taken off unless a card says otherwise.
        std: likewise, what it is divided by.
    """

    shape: tuple[Any, ...]
    kind: type
    last: bool = False
    mean: float = 0.0
    std: float = 1.0

    @property
    def channels_last(self) -> bool:
        """Whether the last axis holds the channels: the one that differs from the other two, or the shorter."""
        first, middle, last = self.shape[1:]
        if not (isinstance(first, int) and isinstance(last, int)):
            return isinstance(last, int) or (self.last and not isinstance(first, int))
        if (first == middle) != (middle == last):
            return bool(first == middle)
        return bool(last < first) if last != first else self.last

    @property
    def size(self) -> Size | None:
        """(height, width) of a picture; None where any will do."""
        rows, columns = self.shape[1:3] if self.channels_last else self.shape[2:]
        return (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None

    @property
    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std per channel."""
        channels = self.shape[3 if self.channels_last else 1]
        count = channels if isinstance(channels, int) else 3
        return (self.mean,) * count, (self.std,) * count


def network_file(name: str, weights: Weights, kind: str) -> Path:
    """The path of a file that holds a network.

    Raises:
        ModelError: if it is not there, or weights are given besides.
    """
    path = Path(name)
    if weights is not None:
        raise ModelError(f"{path} holds its own weights; give weights= to a network made by code")
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give a file of {kind}: {kind}:net.{kind}")
    return path


def one_input(path: Path, inputs: Sequence[tuple[str, Sequence[Any]]]) -> None:
    """Refuse a file that takes something else than one batch of pictures.

    Args:
        path: of the file.
        inputs: name and shape of each.

    Raises:
        ModelError: naming them.
    """
    if len(inputs) != 1 or len(inputs[0][1]) != 4:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in inputs)
        hint = "" if len(inputs) == 1 else "; of several inputs, call it in a function: ScoreFunction"
        raise ModelError(f"{path}: takes {shapes}, not one batch of pictures (N, C, H, W){hint}")


def classifier_of(path: Path, taken: Taken, run: Callable[[NDArray[Any]], dict[str, NDArray[Any]]]) -> Classifier:
    """The network as a ScoreFunction; how it is fed stands in the JSON card beside it.

    Args:
        path: of the file.
        taken: what it takes.
        run: batch of pictures as it takes them -> outputs by name.
    """
    return ScoreFunction(
        _InBatches(taken, run),
        Unstated(taken.size, None, *taken.scale),
        takes="pictures" if taken.kind is np.uint8 else "array",
        name=path.name,
        identity=hashlib.sha256(path.read_bytes()).digest(),
    )


class _InBatches:
    """What a file gives for any number of pictures: its outputs by name, or its only one."""

    def __init__(self, taken: Taken, run: Callable[[NDArray[Any]], dict[str, NDArray[Any]]]) -> None:
        self.run, self.kind = run, taken.kind
        self.batch = taken.shape[0] if isinstance(taken.shape[0], int) else None
        # Pictures of whole numbers come with the channels last, arrays with the channels first.
        last, whole = taken.channels_last, taken.kind is np.uint8
        self.axes = None if last == whole else ((0, 2, 3, 1) if last else (0, 3, 1, 2))

    def __call__(self, images: NDArray[Any]) -> Any:
        given = images if self.axes is None else images.transpose(self.axes)
        given = np.ascontiguousarray(given.astype(self.kind, copy=False))
        size = self.batch or len(given)
        parts = [self._part(given[start : start + size], size) for start in range(0, len(given), size)]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return found if len(found) > 1 else next(iter(found.values()))

    def _part(self, given: NDArray[Any], size: int) -> dict[str, NDArray[Any]]:
        """The outputs of at most `size` pictures, the last repeated where the file asks for that many."""
        rows = np.minimum(np.arange(size), len(given) - 1)
        return {name: values[: len(given)] for name, values in self.run(given[rows]).items()}
