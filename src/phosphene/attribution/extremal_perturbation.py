"""Extremal perturbations: the part of the image, of a given area, that keeps the score highest by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from phosphene.attribution.blur_ig import blurred
from phosphene.attribution.result import attribution, per_image
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.grids import in_proportion
from phosphene.registry import register_attribution
from phosphene.runtime import input_gradient, plain_mode, prepare
from phosphene.runtime.micro_batches import batches, usual_size
from phosphene.targets import Target
from phosphene.types import Attribution

Variant = Literal["preserve", "delete", "dual"]

# As in the authors' code: levels of blur; how sharply the smooth maximum prefers the largest; gradient ascent with
# momentum, and the weight of the area, which grows from step to step so that in the end it is kept. These are for
# 32 x 32 cells: of fewer the area pulls on each as much harder, and each goes as much less far.
_LEVELS, _COLDNESS = 8, 20.0
_ITERATIONS, _RATE, _MOMENTUM, _CELLS = 800, 0.01, 0.9, 32 * 32
# Of fewer iterations each goes as much further, but no more than this, or the mask would leap from end to end.
_FURTHEST = 16.0
_WEIGHT, _GROWTH = 300.0, 1.0035
# Values of the mask that differ by no more are equal when they are sorted.
_EQUAL = 1e-3


@register_attribution(
    title="Extremal perturbation",
    family="perturbation",
    paper="fong2019",
    signed=False,
    display="positive",
    caveat="One good mask of that area, not the only one: of several objects it may keep one and leave the others.",
)
def extremal_perturbation(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    areas: tuple[float, ...] = (0.1,),
    variant: Variant = "preserve",
    iterations: int = 300,
    step: int | None = None,
    sigma: float | None = None,
    blur: float | None = None,
    spacing: int | None = None,
    flips: bool = False,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """The mask of a given area behind which the score stays highest, all else blurred; of several areas their mean.

    ``m = argmax S(I blurred by m) - w * mean (sort(m) - r)^2``: r is 0 but for the `areas` last, where it is 1, so
    that the mask comes to cover that part of the image, and w grows. Where the mask is 1 the image is sharp, where it
    is 0 blurred by a Gaussian of `blur` pixels, beyond the border the mean image. The mask is the smooth maximum
    ``sum f exp(20 f) / sum exp(20 f)`` of ``f = k(distance / sigma) * cell`` over the cells around, which stand
    `step` pixels apart, ``k(z) = exp(-2 max(0, z - 1/2)^2)``: it has no fine structure that could fool the network.
    What it would cover beyond the border counts as area too. Numbers are those of the authors' code, but for 300
    iterations instead of 800 and the mask at every second pixel; they are meant for scores of the size of logits:
    where the score hardly moves, the area decides alone. The checks are `area_error`, by how much of the image the
    area is missed, and `score_left`, the score of the image that the mask of the largest area leaves.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is kept.
        areas: shares of the image, each between 0 and 1; several as 0.05x0.1x0.2.
        variant: keep what makes the score high (preserve), take away what makes it low (delete), or both (dual).
        iterations: steps of the ascent, 1 or more; of fewer than 800 each goes further.
        step: pixels from cell to cell; None for 7, of sides below 224 pixels less.
        sigma: radius of smoothness in pixels, at least `step`; None for 21, of sides below 224 pixels less.
        blur: of what is masked, in pixels; None for 20, of sides below 224 pixels less.
        spacing: pixels between the places where the mask is computed, linear between; None for 2, below 224 less.
        flips: show the mirror image at every other step, as the authors' code; not for targets that have a place.
        batch_size: masks at a time; None chooses.
        progress: called with (steps done, steps in all).

    Returns:
        Maps (N, H, W) in [0, 1], 1 where the image is kept.

    Raises:
        OptionError: for areas outside (0, 1), fewer than one step, or lengths that are not above 0.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> found = extremal_perturbation(Classifier(net), torch.rand(1, 3, 8, 8), Target.of(1), iterations=4)
        >>> found.maps.shape, 0 <= float(found.maps.min()) <= float(found.maps.max()) <= 1
        (torch.Size([1, 8, 8]), True)

    References:
        fong2019, section 3.
    """
    size = (int(images.shape[-2]), int(images.shape[-1]))
    step = min(in_proportion(7, size)) if step is None else step
    sigma = float(min(in_proportion(21, size))) if sigma is None else sigma
    blur = float(min(in_proportion(20, size))) if blur is None else blur
    spacing = min(in_proportion(2, size)) if spacing is None else spacing
    _check(areas, iterations, step, sigma, blur, spacing)
    classifier = prepare(classifier).settled()
    classifier.check_images(images)
    target = target.expand(len(images))
    images = images.detach().to(classifier.device, torch.float32)
    masks, left, errors = [], [], []
    with plain_mode(classifier.device, gradients=False):
        grid = MaskGrid.of(size, step, sigma, spacing, images)
        zeros = torch.tensor([grid.zeros(area) for area in areas], device=images.device)
        at_a_time = max(1, usual_size(batch_size, classifier.device) // len(areas))
        for first, last in batches(len(images), at_a_time, classifier.device):
            own = target.rows(first, last)
            pyramids = blur_pyramids(images[first:last], blur, classifier.mean_image)
            cells = images.new_ones(len(areas), last - first, *grid.cells)
            velocity = torch.zeros_like(cells)
            weight, pace = _WEIGHT, min(_FURTHEST, _ITERATIONS / iterations)
            rate = _RATE * pace * cells[0, 0].numel() / _CELLS
            for iteration in range(iterations):
                found = _ascent(
                    classifier, own, pyramids, grid, cells, zeros, weight, variant,
                    mirrored=flips and iteration % 2 == 0, batch_size=batch_size,
                )  # fmt: skip
                velocity = found if iteration == 0 else _MOMENTUM * velocity + (1 - _MOMENTUM) * found
                cells = (cells + rate * velocity).clamp(0, 1)
                weight *= _GROWTH**pace
                if progress is not None:
                    progress(first * iterations + (last - first) * (iteration + 1), len(images) * iterations)
            canvas = grid.canvas(cells)
            mask = grid.pixels(canvas)
            masks.append(mask.mean(dim=0))
            errors.append((grid.area(canvas) - images.new_tensor(areas)[:, None]).abs().amax(dim=0))
            kept = mask[areas.index(max(areas))]
            seen, _ = perturbed(pyramids, (1 - kept if variant == "delete" else kept)[None])
            left.append(input_gradient(classifier, seen[0], own, batch_size=batch_size)[0])
    score = input_gradient(classifier, images, target, batch_size=batch_size)[0]
    checks = per_image(area_error=torch.cat(errors), score_left=torch.cat(left))
    return attribution(torch.cat(masks), images, target, score, checks=checks)


def _check(areas: tuple[float, ...], iterations: int, step: int, sigma: float, blur: float, spacing: int) -> None:
    if not areas or not all(0 < area < 1 for area in areas) or iterations < 1:
        raise OptionError(
            f"extremal_perturbation: areas={'x'.join(map(str, areas))} must lie between 0 and 1 and "
            f"iterations={iterations} be at least 1"
        )
    if step < 1 or spacing < 1 or not sigma >= step or not blur > 0:
        raise OptionError(
            f"extremal_perturbation: step={step} and spacing={spacing} must be at least 1, sigma={sigma} at least "
            f"step and blur={blur} above 0"
        )


def _ascent(
    classifier: Classifier,
    target: Target,
    pyramids: Tensor,
    grid: MaskGrid,
    cells: Tensor,
    zeros: Tensor,
    weight: float,
    variant: Variant,
    *,
    mirrored: bool,
    batch_size: int | None,
) -> Tensor:
    """(A, n, h, w) the gradient of score and area with respect to the cells."""
    with plain_mode(classifier.device, gradients=True):
        leaf = cells.detach().requires_grad_()
        canvas = grid.canvas(leaf)
        mask = grid.pixels(canvas)
    slope = torch.zeros_like(mask)
    for sharp in {"preserve": (True,), "delete": (False,), "dual": (True, False)}[variant]:
        # Taking away: the score counts negative and the mask is turned round, so that the signs are the same.
        seen, change = perturbed(pyramids, mask.detach() if sharp else 1 - mask.detach())
        found = _slopes(classifier, seen.flip(-1) if mirrored else seen, target, batch_size)
        slope += ((found.flip(-1) if mirrored else found) * change).sum(dim=2)
    flat = canvas.detach().flatten(2)
    pull = (-2 * weight / flat.shape[-1]) * (flat - wanted(flat, zeros))
    (gradient,) = torch.autograd.grad([mask, canvas], [leaf], [slope, pull.view_as(canvas)])
    return gradient


def _slopes(classifier: Classifier, seen: Tensor, target: Target, batch_size: int | None) -> Tensor:
    """(A, n, C, H, W) the score's gradient at pictures of that shape: of one image all areas are one batch."""
    if seen.shape[1] == 1:
        return input_gradient(classifier, seen[:, 0], target, batch_size=batch_size)[1][:, None]
    return torch.stack([input_gradient(classifier, each, target, batch_size=batch_size)[1] for each in seen])


def wanted(mask: Tensor, zeros: Tensor) -> Tensor:
    """(A, n, P): 0 for the lowest places of a mask of that shape, `zeros` (A,) in number, 1 for the others.

    Of places all but equal each gets their mean, so that their order in memory decides nothing.
    """
    ordered = mask.sort(dim=2).values
    below = torch.searchsorted(ordered, mask - _EQUAL)
    upto = torch.searchsorted(ordered, mask + _EQUAL, right=True)
    return ((upto - zeros[:, None, None]) / (upto - below)).clamp(0, 1)


def blur_pyramids(images: Tensor, sigma: float, mean: Tensor) -> Tensor:
    """(n, 8, C, H, W): each image, first blurred by a Gaussian of `sigma` pixels, last as it is; mean around it."""
    mean, sigmas = mean.to(images), [sigma * (1 - level / (_LEVELS - 1)) for level in range(_LEVELS)]
    return torch.stack([torch.stack([mean + blurred(image - mean, each) for each in sigmas]) for image in images])


def perturbed(pyramids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(pictures, their derivative by the mask), both (A, n, C, H, W): as sharp as the mask (A, n, H, W) is high."""
    level = mask * (_LEVELS - 1)
    lower = level.floor().clamp(max=_LEVELS - 2)
    count, _, channels, height, width = pyramids.shape
    index = lower.nan_to_num().long()[:, :, None, None].expand(-1, -1, 1, channels, -1, -1)
    known = pyramids.expand(len(mask), count, _LEVELS, channels, height, width)
    dull, sharp = known.gather(2, index)[:, :, 0], known.gather(2, index + 1)[:, :, 0]
    change = sharp - dull
    return dull + (level - lower)[:, :, None] * change, (_LEVELS - 1) * change


@dataclass(frozen=True)
class MaskGrid:
    """How cells become a smooth mask, at places that reach beyond the border by the radius of smoothness.

    Args:
        size: (H, W) of the image.
        spacing: pixels from place to place.
        near: along rows and columns, (places * cells around, cells): 1 where a cell is that one of those around.
        weights: (rows, cells around, columns, cells around): how much each counts at a place.
        between: along rows and columns, (pixels, places): linear between the places.
    """

    size: tuple[int, int]
    spacing: int
    near: tuple[Tensor, Tensor]
    weights: Tensor
    between: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, size: tuple[int, int], step: int, sigma: float, spacing: int, like: Tensor) -> MaskGrid:
        """The grid for images of a size, of the type and on the device of `like`."""
        rows, columns = (_places(side, step, sigma, spacing) for side in size)
        (down, first), (across, second) = (_cells_around(places, step, sigma) for places in (rows, columns))
        distance = torch.hypot(down[:, :, None, None], across) / sigma
        weights = torch.exp(-2 * (distance - 0.5).clamp(min=0) ** 2)
        counts = (-(-side // step) for side in size)
        near = [_picked(index, count).to(like) for index, count in zip((first, second), counts, strict=True)]
        between = [_between(side, places).to(like) for side, places in zip(size, (rows, columns), strict=True)]
        return cls(size, spacing, (near[0], near[1]), weights.to(like), (between[0], between[1]))

    @property
    def cells(self) -> tuple[int, int]:
        """How many cells there are, (h, w)."""
        return int(self.near[0].shape[1]), int(self.near[1].shape[1])

    def canvas(self, cells: Tensor) -> Tensor:
        """(A, n, rows, columns): the mask of cells (A, n, h, w) at the places, the smooth maximum of those around."""
        around = self.near[0] @ cells @ self.near[1].T
        seen = self.weights * around.reshape(*cells.shape[:2], *self.weights.shape)
        power = (_COLDNESS * seen).exp()
        return (seen * power).sum(dim=(3, 5)) / power.sum(dim=(3, 5))

    def pixels(self, canvas: Tensor) -> Tensor:
        """(A, n, H, W): the mask at the pixels of the image."""
        found: Tensor = self.between[0] @ canvas @ self.between[1].T
        return found

    def area(self, canvas: Tensor) -> Tensor:
        """(A, n): what masks cover, beyond the border too, as a share of the image."""
        return canvas.sum(dim=(2, 3)) * (self.spacing**2 / (self.size[0] * self.size[1]))

    def zeros(self, area: float) -> int:
        """How many places, those beyond the border too, a mask of that share of the image leaves out."""
        ones = max(1, round(area * self.size[0] * self.size[1] / self.spacing**2))
        return self.weights.shape[0] * self.weights.shape[2] - ones


def _places(side: int, step: int, sigma: float, spacing: int) -> Tensor:
    """(P,) where the mask is computed along a side, in pixels: from the first cell to the last, sigma beyond both."""
    margin, last = round(sigma), (-(-side // step) - 1) * step
    return torch.arange(-margin, last + margin + spacing, spacing, dtype=torch.float64, device="cpu")


def _cells_around(places: Tensor, step: int, sigma: float) -> tuple[Tensor, Tensor]:
    """(distance in pixels, index) of the cells around each place along a side, both (P, cells around)."""
    radius = 1 + math.ceil(sigma / step)
    index = (places / step).floor()[:, None] + torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    return places[:, None] - step * index, index.long()


def _picked(index: Tensor, count: int) -> Tensor:
    """(P * cells around, count): the matrix that picks cells; nothing where there is none."""
    return (index.flatten()[:, None] == torch.arange(count, device="cpu")).double()


def _between(side: int, places: Tensor) -> Tensor:
    """(side, P): the matrix that reads places at pixels, linearly between."""
    where = ((torch.arange(side, dtype=torch.float64, device="cpu") - places[0]) / (places[1] - places[0]))[:, None]
    return (1 - (where - torch.arange(len(places), device="cpu")).abs()).clamp(min=0)
