"""RISE: the mean of random masks, each weighted by what the classifier still says behind it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene.attribution.result import attribution
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.registry import register_attribution
from phosphene.runtime import blended_scores, plain_mode
from phosphene.targets import Target
from phosphene.types import Attribution


@register_attribution(
    title="RISE",
    family="perturbation",
    paper="petsiuk2018",
    signed=False,
    display="range",
    caveat="An estimate from random masks: few give a spotted map; no place is near zero, so its own range is shown.",
)
def rise(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    masks: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """How probable the class is, on average, when a pixel is left visible by a random mask.

    ``S[i, j] = 1 / (n * keep) * sum_m p_c(I * M_m) * M_m[i, j]``; masks are random grids of `cells` x `cells`, enlarged
    bilinearly and shifted; what is masked shows the classifier's mean image. All images see the same masks.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is watched; its probability unless the target says otherwise.
        masks: number of random masks.
        cells: cells of a mask along each side.
        keep: probability that a cell is left visible.
        generator: source of randomness on the CPU; None starts a new one with seed 0.
        batch_size: masked images per pass; None chooses.
        progress: called with (masks done, masks in all).

    Returns:
        Maps (N, H, W), never negative for probabilities.

    Raises:
        OptionError: for no masks, no cells, or keep outside (0, 1).

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
        >>> rise(Classifier(net), torch.rand(1, 3, 8, 8), Target.of(1), masks=10).maps.shape
        torch.Size([1, 8, 8])

    References:
        petsiuk2018, section 3.
    """
    if masks < 1 or cells < 1 or not 0 < keep < 1:
        raise OptionError(f"rise: masks={masks} and cells={cells} must be at least 1, keep={keep} between 0 and 1")
    generator = generator or torch.Generator().manual_seed(0)
    size = (int(images.shape[-2]), int(images.shape[-1]))
    drawn = random_masks(masks, cells, keep, size, generator)
    clean, values = blended_scores(
        classifier, images, target, drawn, classifier.mean_image, batch_size=batch_size, progress=progress
    )
    drawn = drawn.to(values)
    with plain_mode(values.device, gradients=False):
        maps = torch.einsum("nm,mhw->nhw", values, drawn) / (masks * keep)
    return attribution(maps, images, target, clean)


def random_masks(count: int, cells: int, keep: float, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(count, H, W) in [0, 1]: random grids, enlarged by one cell beyond the image and cut out at a random shift."""
    grids = (torch.rand(count, 1, cells, cells, generator=generator, device="cpu", dtype=torch.float32) < keep).float()
    step = (-(-size[0] // cells), -(-size[1] // cells))
    enlarged = ((cells + 1) * step[0], (cells + 1) * step[1])
    drawn = [torch.randint(0, side, (count,), generator=generator, device="cpu") for side in step]
    shifts = torch.stack(drawn, dim=1).tolist()
    # Rounding puts some weights a bit above 1.
    large = F.interpolate(grids, enlarged, mode="bilinear", align_corners=False)[:, 0].clamp(max=1)
    return torch.stack([mask[y : y + size[0], x : x + size[1]] for mask, (y, x) in zip(large, shifts, strict=True)])
