"""ROAD: remove what a map ranks first, or last, and fill it in so that the picture does not tell where it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from phosphene.devices import wide
from phosphene.errors import OptionError
from phosphene.registry import register_metric

Scores = Callable[[Tensor], Tensor]

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Of each neighbor (row, column) of a pixel in the mean that a missing pixel is.
_NEIGHBORS = {
    (rows, columns): 1 / 6 if rows == 0 or columns == 0 else 1 / 12
    for rows in (-1, 0, 1)
    for columns in (-1, 0, 1)
    if rows or columns
}


@dataclass(frozen=True)
class Road:
    """What a classifier says of one image of which a part was removed and filled in.

    Args:
        fractions: share of the pixels removed.
        most: (M,) probability of the class without the pixels that the map ranks first; low is good.
        least: (M,) without those that it ranks last; high is good.
    """

    fractions: tuple[float, ...]
    most: Tensor
    least: Tensor

    @property
    def difference(self) -> float:
        """Half the mean of least - most, in [-0.5, 0.5]; high is good."""
        return float((self.least - self.most).mean()) / 2


@register_metric(title="ROAD", paper="rong2022", family="faithfulness")
def road(
    image: Tensor,
    heat: Tensor,
    scores: Scores,
    *,
    fractions: Sequence[float] = FRACTIONS,
    noise: float = 0.01,
    generator: torch.Generator | None = None,
    batch_size: int = 8,
) -> Road:
    """Does the class fade with what the map ranks first, and stay without what it ranks last, edges aside?

    What is removed becomes the weighted mean of its neighbors (1/6 each beside and above, 1/12 at the corners), all
    missing pixels at once, with a little noise: unlike a gray hole it does not show where the map said to look, so that
    a network cannot answer by the hole's shape.

    Args:
        image: (C, H, W) in [0, 1].
        heat: (H, W); of equal values the first in reading order are ranked higher.
        scores: maps copies (M, C, H, W) to the probability (M,) of the class.
        fractions: shares of the pixels that are removed, each between 0 and 1.
        noise: standard deviation of what is added to filled pixels, in units of the image.
        generator: source of the noise on the CPU; None starts a new one with seed 0.
        batch_size: copies per call of `scores`.

    Returns:
        A Road.

    Raises:
        OptionError: if the shapes do not fit, or for shares that leave nothing or everything.

    Example:
        >>> image, heat = torch.rand(1, 6, 6), torch.rand(6, 6)
        >>> found = road(image, heat, lambda copies: copies.mean((1, 2, 3)), fractions=(0.25, 0.5))
        >>> found.most.shape, -0.5 <= found.difference <= 0.5
        (torch.Size([2]), True)

    References:
        rong2022, sections 4 and 5.
    """
    if heat.shape != image.shape[-2:]:
        raise OptionError(f"a map of {tuple(heat.shape)} for an image of {tuple(image.shape)}; bring it to its size")
    counts = [round(fraction * heat.numel()) for fraction in fractions]
    if not counts or not all(0 < count < heat.numel() for count in counts):
        raise OptionError(f"fractions={tuple(fractions)}: each has to remove some pixels, and to leave some")
    generator = generator or torch.Generator().manual_seed(0)
    order = heat.flatten().argsort(descending=True, stable=True).cpu()
    found = []
    for ranked in (order, order.flip(0)):
        copies = torch.stack([_without(image, ranked[:count], noise, generator) for count in counts])
        found.append(torch.cat([scores(part) for part in torch.split(copies, batch_size)]))
    return Road(tuple(fractions), *(wide(values).float() for values in found))


def _without(image: Tensor, places: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    missing = torch.zeros(image.shape[-2:], dtype=torch.bool, device="cpu")
    missing.view(-1)[places] = True
    filled = filled_in(image, missing)
    drawn = torch.randn(image.shape, generator=generator, device="cpu", dtype=torch.float32).to(image)
    return torch.where(missing.to(image.device), filled + noise * drawn, filled)


def filled_in(image: Tensor, missing: Tensor) -> Tensor:
    """(C, H, W): the image with each missing pixel the weighted mean of its neighbors, of those that there are.

    Args:
        image: (C, H, W).
        missing: (H, W), True where a pixel is missing; not everywhere.

    Example:
        >>> image = torch.tensor([[[0.0, 9.0, 1.0]]])
        >>> filled_in(image, torch.tensor([[False, True, False]]))
        tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    gone = missing.cpu().numpy()
    values = wide(image).cpu().numpy().reshape(len(image), -1)
    height, width = gone.shape
    places = np.flatnonzero(gone)
    number = np.full(gone.size, -1)
    number[places] = np.arange(len(places))
    whole, known = np.zeros(len(places)), np.zeros((len(places), len(image)))
    entries: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    for (down, right), weight in _NEIGHBORS.items():
        rows, columns = places // width + down, places % width + right
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        neighbors = (rows * width + columns)[inside]
        here = np.flatnonzero(inside)
        whole[here] += weight
        open_ = number[neighbors] >= 0
        entries.append((here[open_], number[neighbors[open_]], np.full(int(open_.sum()), -weight)))
        known[here[~open_]] += weight * values[:, neighbors[~open_]].T
    entries.append((np.arange(len(places)), np.arange(len(places)), whole))
    rows, columns, weights = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    system = coo_matrix((weights, (rows, columns)), shape=(len(places), len(places))).tocsc()
    values = values.copy()
    values[:, places] = splu(system, permc_spec="MMD_AT_PLUS_A").solve(known).T
    return torch.from_numpy(values).view(image.shape).to(image)
