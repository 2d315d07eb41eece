"""Where in the picture the places of a layer lie, of a network that cuts, turns or moves what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from phosphene.types import Size

Moved = Literal["mirrored", "turned"]

# Quarters of a picture, (0 or 1 down, 0 or 1 across), in whose middles the cells lie that are looked at: three say how
# it is turned.
QUARTERS = ((0, 0), (0, 1), (1, 0))
# Fewer cells have no middle of a quarter.
FEWEST = 4
# Share of a side that has to be left out for a map to be laid on the rest: less may be rounding of a resize.
_LEAST_CUT = 0.02
# How much more a cell has to answer to another quarter than to its own.
_CLEARLY = 3.0
# Which quarters of the picture those three are of a picture that is turned over in one of seven ways.
_TURNS: dict[tuple[tuple[int, int], ...], Moved] = {
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
        seen: (top, left, bottom, right) of the pixels that the layer sees anything of; None for all.
        moved: how its places are turned against the picture's, or None.
    """

    seen: tuple[int, int, int, int] | None = None
    moved: Moved | None = None

    def grid(self, size: Size, cells: Size) -> tuple[tuple[float, float], tuple[float, float]]:
        """(offset, stride) of cells that divide what is seen of an image evenly.

        Example:
            >>> Placement((32, 32, 192, 192)).grid((224, 224), (5, 5)), Placement().grid((224, 224), (7, 7))
            (((48.0, 48.0), (32.0, 32.0)), ((16.0, 16.0), (32.0, 32.0)))
        """
        top, left, bottom, right = self.seen or (0, 0, *size)
        down, across = (bottom - top) / cells[0], (right - left) / cells[1]
        return (top + down / 2, left + across / 2), (down, across)


def placement(cells: Tensor, whole: Tensor) -> Placement:
    """What gradients at the image say of a layer's places.

    Args:
        cells: (3, H, W) how much a cell in the middle of each of the QUARTERS answers to each pixel; (0, H, W) of a map
            of too few cells.
        whole: (H, W) the same of all cells together.

    Example:
        >>> whole = torch.ones(8, 8)
        >>> right = torch.zeros(8, 8).index_fill(1, torch.tensor([6]), 1.0)  # all three look to the right
        >>> placement(right.expand(3, 8, 8), whole * (torch.arange(8) > 1))
        Placement(seen=(0, 2, 8, 8), moved=None)
    """
    rows, columns = (whole.ne(0).any(dim=dim).nonzero().flatten().tolist() for dim in (1, 0))
    if not rows:
        return Placement()
    height, width = whole.shape
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    cut = max(1 - (bottom - top) / height, 1 - (right - left) / width) > _LEAST_CUT
    inside = cells[:, top:bottom, left:right]
    return Placement((top, left, bottom, right) if cut else None, _moved(inside) if len(cells) else None)


def _moved(cells: Tensor) -> Moved | None:
    """How the quarters that cells answer to most are those of the picture turned over; None where they are not.

    A cell that answers to nothing says nothing, and one that sees the whole picture may answer most to any quarter.
    """
    middle, center = cells.shape[1] // 2, cells.shape[2] // 2
    found = []
    for own, cell in zip(QUARTERS, cells, strict=True):
        parts = {
            (down, across): float((half[:, center:] if across else half[:, :center]).sum())
            for down, half in enumerate((cell[:middle], cell[middle:]))
            for across in (0, 1)
        }
        best = max(parts, key=lambda quarter: parts[quarter])
        if not parts[best] or (best != own and parts[best] < _CLEARLY * parts[own]):
            return None
        found.append(best)
    return _TURNS.get(tuple(found))
