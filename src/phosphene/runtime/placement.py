"""Where in the picture the places of a layer lie, of a network that cuts or turns what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from phosphene.axes import WHOLE, Part
from phosphene.types import Size

Moved = Literal["mirrored", "turned", "in another order", "in parts that lie over each other"]

# Quarters of a picture, (0 or 1 down, 0 or 1 across), in whose middles the cells lie that are looked at.
QUARTERS = ((0, 0), (0, 1), (1, 0), (1, 1))
# Fewer cells have no middle of a quarter.
FEWEST = 4
# How much more a cell has to answer to another quarter than to its own.
_CLEARLY = 3.0
# Which quarters of the picture the first three are of a picture that is turned over in one of seven ways.
_TURNS: dict[tuple[tuple[int, int] | None, ...], Moved] = {
    ((0, 1), (0, 0), (1, 1)): "mirrored",
    ((1, 0), (1, 1), (0, 0)): "mirrored",
    ((1, 1), (1, 0), (0, 1)): "turned",
    ((0, 1), (1, 1), (0, 0)): "turned",
    ((1, 0), (0, 0), (1, 1)): "turned",
    ((0, 0), (1, 0), (0, 1)): "turned",
    ((1, 1), (0, 1), (1, 0)): "turned",
}


@dataclass(frozen=True)
class Placement:
    """Where the places of a layer lie.

    Args:
        seen: (from, to) along rows and columns of the part of the picture that the layer is made of, as shares.
    """

    seen: Part = WHOLE

    def grid(self, size: Size, cells: Size) -> tuple[tuple[float, float], tuple[float, float]]:
        """(offset, stride) of cells that divide what is seen of an image evenly.

        Example:
            >>> Placement(((0.125, 0.875), (0.0, 1.0))).grid((224, 224), (6, 7))
            ((42.0, 16.0), (28.0, 32.0))
        """
        starts, strides = zip(
            *(
                (side * low, side * (high - low) / count)
                for side, count, (low, high) in zip(size, cells, self.seen, strict=True)
            ),
            strict=True,
        )
        return (starts[0] + strides[0] / 2, starts[1] + strides[1] / 2), (strides[0], strides[1])


def middle_of(half: int, cells: int) -> int:
    """The cell in the middle of one half of a side; where there is room one of the two is even and the other odd.

    Example:
        >>> [[middle_of(half, cells) for half in (0, 1)] for cells in (4, 7, 8, 14)]
        [[1, 3], [1, 5], [2, 5], [3, 10]]
    """
    cell = (1 + 2 * half) * cells // 4
    return cell - 1 if half and cells >= 8 and cell % 2 == cells // 4 % 2 else cell


def how_moved(answers: Tensor, layered: bool = False) -> Moved | None:
    """How cells lie that clearly answer to another quarter of the picture than their own; None where none does.

    A cell that answers to nothing says nothing, and one that sees the whole picture may answer most to any quarter.

    Args:
        answers: (4, H, W) how much a cell in the middle of each of the QUARTERS answers to each pixel.
        layered: whether parts of the picture may lie over each other, so that it has to answer clearly to its own.

    Example:
        >>> corners = torch.zeros(4, 8, 8)
        >>> corners[0, 1, 6] = corners[1, 1, 1] = corners[2, 6, 6] = corners[3, 6, 1] = 1.0
        >>> how_moved(corners), how_moved(corners.flip(2)), how_moved(corners[[0, 0, 2, 2]])
        ('mirrored', None, 'in another order')
    """
    middle, center = answers.shape[1] // 2, answers.shape[2] // 2
    found: list[tuple[int, int] | None] = []
    for own, cell in zip(QUARTERS, answers, strict=True):
        parts = {
            (down, across): float((half[:, center:] if across else half[:, :center]).sum())
            for down, half in enumerate((cell[:middle], cell[middle:]))
            for across in (0, 1)
        }
        best = max(parts, key=lambda quarter: parts[quarter])
        if layered and _CLEARLY * max(answer for quarter, answer in parts.items() if quarter != own) > parts[own]:
            return "in parts that lie over each other"
        found.append(best if parts[best] and (best == own or parts[best] >= _CLEARLY * parts[own]) else None)
    turned = _TURNS.get(tuple(found[:3]))
    elsewhere = any(best not in (None, own) for own, best in zip(QUARTERS, found, strict=True))
    return turned or ("in another order" if elsewhere else None)
