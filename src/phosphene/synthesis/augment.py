"""What is done to the images before each look of the network, so that they hold under small changes.

An augmentation is a function (images, draws) -> images, differentiable; its random numbers come from the images' own
streams. All moves of an image are one affine warp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene.errors import OptionError
from phosphene.synthesis.streams import Draws

Augmentation = Callable[[Tensor, Draws], Tensor]


@dataclass(frozen=True)
class Affine:
    """Rotated, scaled and shifted about the centre, each image by its own amount, in one bilinear warp.

    Args:
        rotation: degrees, uniform in [-rotation, rotation]; whole degrees with `whole_degrees`.
        scale: (low, high), log-uniform; or with `scales` one of several.
        shift: pixels, uniform in [-shift, shift] along each axis.
        scales: the scales to choose among, instead of a range.
        whole_degrees: whether only whole degrees are drawn.
        whole_pixels: whether only whole pixels are drawn.
        padding: what is seen beyond the border: "border", "reflection" or "zeros".
    """

    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    scales: tuple[float, ...] = ()
    whole_degrees: bool = False
    whole_pixels: bool = False
    padding: str = "border"

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        matrices = self.matrices(draws, (int(height), int(width))).to(images)
        grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode=self.padding, align_corners=False)

    def matrices(self, draws: Draws, size: tuple[int, int]) -> Tensor:
        """(N, 2, 3) from places in the output to places in the input, in units of half the sides."""
        angle, zoom, y, x = draws.uniform("affine", 4).double().unbind(dim=1)
        degrees = (2 * angle - 1) * self.rotation
        if self.whole_degrees:
            degrees = torch.floor(angle * (2 * self.rotation + 1)) - self.rotation
        shifts = [(2 * u - 1) * self.shift for u in (y, x)]
        if self.whole_pixels:
            shifts = [torch.floor(u * (2 * self.shift + 1)) - self.shift for u in (y, x)]
        cosine, sine = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
        smaller, (height, width) = 1 / self._zoom(zoom), size
        rows = [
            torch.stack([cosine * smaller, sine * smaller * height / width, -2 * shifts[1] / width], dim=1),
            torch.stack([-sine * smaller * width / height, cosine * smaller, -2 * shifts[0] / height], dim=1),
        ]
        return torch.stack(rows, dim=1)

    def _zoom(self, uniform: Tensor) -> Tensor:
        if self.scales:
            index = (uniform * len(self.scales)).long()
            return torch.tensor(self.scales, dtype=uniform.dtype, device="cpu")[index]
        low, high = (math.log(value) for value in self.scale)
        return torch.exp(low + (high - low) * uniform)


@dataclass(frozen=True)
class Flip:
    """The mirror image, left for right, of each image or not, by a throw of its own."""

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        turned = draws.uniform("flip")[:, :1, None, None] < 0.5
        return torch.where(turned.to(images.device), images.flip(3), images)


@dataclass(frozen=True)
class Close:
    """A part of each image about a place of its own, enlarged to the image's size; beyond the border its reflection.

    Args:
        places: (N, 2) of all images of the run, in fractions of the sides: 0.5 is the middle.
        part: of the sides.

    Example:
        >>> from phosphene.synthesis.streams import Streams
        >>> ramp = torch.linspace(0, 1, 9).expand(1, 1, 9, 9)
        >>> close = Close(torch.tensor([[0.5, 0.5]]), 0.5)(ramp, Streams.of(0, [1]).at(0))
        >>> [round(value.item(), 3) for value in close.aminmax()]
        [0.25, 0.75]
    """

    places: Tensor
    part: float

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        middles = 2 * draws.own(self.places) - 1
        matrices = torch.zeros(len(middles), 2, 3, device=middles.device)
        matrices[:, 0, 0] = matrices[:, 1, 1] = self.part
        matrices[:, :, 2] = middles.flip(1)
        grid = F.affine_grid(matrices.to(images), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


@dataclass(frozen=True)
class ColorOffset:
    """One random amount per image and channel added to the whole channel, uniform in [-amount, amount]."""

    amount: float

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        offsets = (2 * draws.uniform("color", int(images.shape[1])) - 1) * self.amount
        return images + offsets[:, :, None, None].to(images)


@dataclass(frozen=True)
class Noise:
    """A random amount added to every value, uniform in [-amount, amount]."""

    amount: float

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return images + ((2 * draws.field("noise", images.shape[1:]) - 1) * self.amount).to(images)


@dataclass(frozen=True)
class Pad:
    """`pixels` more on each side, by reflection."""

    pixels: int

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return F.pad(images, (self.pixels,) * 4, mode="reflect")


@dataclass(frozen=True)
class Crop:
    """Cut out `size` (height, width): at a random place, or at `corner`."""

    size: tuple[int, int]
    corner: tuple[int, int] | None = None

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        room = [int(full - part) for full, part in zip(images.shape[-2:], self.size, strict=True)]
        if min(room) < 0:
            raise OptionError(f"a crop of {self.size} out of images of {tuple(images.shape[-2:])}; pad them first")
        if self.corner is not None:
            top, left = self.corner
            return images[..., top : top + self.size[0], left : left + self.size[1]]
        free = torch.tensor(room, device="cpu") + 1
        return _cut(images, (draws.uniform("crop", 2) * free).long(), self.size)


@dataclass(frozen=True)
class CropAbout:
    """Cut out `size` (height, width) about a center of each image's own, moved inwards where it would leave the image.

    Args:
        centers: (N, 2) row and column in pixels, for all images of the run.
        size: height and width in pixels, at most the images'.
    """

    centers: Tensor
    size: tuple[int, int]

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        sides = zip(self.centers.unbind(1), images.shape[-2:], self.size, strict=True)
        corners = [(center - (part - 1) / 2).round().long().clamp(0, full - part) for center, full, part in sides]
        return _cut(images, draws.own(torch.stack(corners, dim=1)), self.size)


def _cut(images: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, *size): a part of each image, with its upper left corner at corners (N, 2)."""
    rows, columns = (
        (corner[:, None] + torch.arange(part, device=corner.device)).to(images.device)
        for corner, part in zip(corners.unbind(1), size, strict=True)
    )  # (N, h), (N, w)
    tall = images.gather(2, rows[:, None, :, None].expand(-1, images.shape[1], -1, images.shape[3]))
    return tall.gather(3, columns[:, None, None, :].expand(-1, images.shape[1], size[0], -1))


def until(step: int, augmentation: Augmentation) -> Augmentation:
    """An augmentation that is done before a step only, so that a run may end on the image as it is."""
    return lambda images, draws: augmentation(images, draws) if draws.step < step else images


def in_turn(augmentations: Sequence[Augmentation | None], first: int = 0) -> Augmentation:
    """One of several augmentations at each step, in turn, none for None; counted from a step `first` of a run."""

    def one(images: Tensor, draws: Draws) -> Tensor:
        augmentation = augmentations[(first + draws.step) % len(augmentations)]
        return images if augmentation is None else augmentation(images, draws)

    return one


def augmented(images: Tensor, augmentations: Sequence[Augmentation], draws: Draws) -> Tensor:
    """The images after all augmentations in turn."""
    for index, augmentation in enumerate(augmentations):
        images = augmentation(images, draws.under(index))
    return images
