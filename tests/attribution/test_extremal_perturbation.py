"""Extremal perturbations: mask, blur and ascent against their formulas written out, and the authors' code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from phosphene import OptionError, Target, attribute
from phosphene.attribution.extremal_perturbation import (
    MaskGrid,
    blur_pyramids,
    extremal_perturbation,
    perturbed,
    wanted,
)
from phosphene.classifier import Classifier, Preprocess
from tests.networks import MEAN, RedDetector, classifier_of, pooled, smooth


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def smooth_maximum(cells: np.ndarray, y: float, x: float, step: int, sigma: float) -> float:
    """The mask at one place: cells within 1 + ceil(sigma / step) of the one at or before it, nothing beyond them."""
    radius = 1 + math.ceil(sigma / step)
    values = []
    for i in range(math.floor(y / step) - radius, math.floor(y / step) + radius + 1):
        for j in range(math.floor(x / step) - radius, math.floor(x / step) + radius + 1):
            cell = cells[i, j] if 0 <= i < cells.shape[0] and 0 <= j < cells.shape[1] else 0.0
            z = math.hypot(y - step * i, x - step * j) / sigma
            values.append(math.exp(-2 * max(0.0, z - 0.5) ** 2) * cell)
    powers = [math.exp(20 * value) for value in values]
    return sum(value * power for value, power in zip(values, powers, strict=True)) / sum(powers)


@pytest.mark.parametrize(("step", "sigma", "spacing"), [(4, 8.0, 1), (5, 7.0, 1), (4, 6.0, 3)])
def test_the_mask_is_the_smooth_maximum_of_the_cells_around(step, sigma, spacing):
    grid = MaskGrid.of((17, 14), step, sigma, spacing, torch.zeros(1))
    cells = torch.rand(1, 1, *grid.cells, generator=torch.Generator().manual_seed(0))
    assert grid.cells == (math.ceil(17 / step), math.ceil(14 / step))
    canvas, margin = grid.canvas(cells)[0, 0], round(sigma)
    for row in range(canvas.shape[0]):
        for column in range(canvas.shape[1]):
            expected = smooth_maximum(
                cells[0, 0].numpy(), row * spacing - margin, column * spacing - margin, step, sigma
            )
            assert float(canvas[row, column]) == pytest.approx(expected, abs=1e-5)
    # Between the places the mask is linear.
    axes = [np.arange(count) * spacing - margin for count in canvas.shape]
    whole = ndimage.map_coordinates(
        canvas.numpy(), [(at + margin) / spacing for at in np.meshgrid(np.arange(17), np.arange(14), indexing="ij")],
        order=1,
    )  # fmt: skip
    assert axes[0][-1] >= 16
    assert axes[1][-1] >= 13
    assert np.abs(grid.pixels(grid.canvas(cells))[0, 0].numpy() - whole).max() < 1e-5
    ones = canvas.numel() - grid.zeros(0.3)
    assert abs(ones * spacing**2 - 0.3 * 17 * 14) <= spacing**2 / 2


def test_the_image_is_as_sharp_as_the_mask_is_high(images):
    mean = torch.tensor(MEAN)[:, None, None]
    pyramids = blur_pyramids(images.double(), 5.0, mean)
    mask = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    seen, change = perturbed(pyramids, mask)
    levels = [
        np.stack([ndimage.gaussian_filter(image - mean.numpy(), (0, s, s), mode="constant") + mean.numpy() for image in
                  images.double().numpy()])
        for s in (5 * (1 - level / 7) for level in range(7))
    ] + [images.double().numpy()]  # fmt: skip
    for index, row, column in ((0, 3, 4), (1, 0, 15), (1, 8, 8)):
        at = float(mask[0, index, row, column]) * 7
        low = math.floor(at)
        below, above = (levels[level][index, :, row, column] for level in (low, low + 1))
        expected = (1 - (at - low)) * below + (at - low) * above
        assert np.abs(seen[0, index, :, row, column].numpy() - expected).max() < 1e-4
    moved, _ = perturbed(pyramids, mask + 1e-7)
    assert float(((moved - seen) / 1e-7 - change).abs().median()) < 1e-4
    whole, _ = perturbed(pyramids, torch.ones_like(mask))
    assert torch.equal(whole[0], pyramids[:, -1])


def shared_reference(mask: Tensor, zeros: int) -> Tensor:
    """For each place the mean of 0, ..., 0, 1, ..., 1 over the places of the sorted mask within 0.001 of it."""
    order = mask.argsort()
    reference = torch.zeros_like(mask)
    reference[order[zeros:]] = 1
    return torch.stack([reference[(mask - value).abs() <= 1e-3].mean() for value in mask])


def ascent(
    image: Tensor, goal: int, area: float, variant: str, iterations: int, step: int, sigma: float, blur: float
) -> Tensor:
    """The mask by autograd through the whole energy, in float64, with PyTorch's own optimizer."""
    classifier = classifier_of(smooth().double())
    grid = MaskGrid.of((16, 16), step, sigma, 1, image)
    pyramid = blur_pyramids(image[None], blur, torch.tensor(MEAN, dtype=torch.float64)[:, None, None])[0]
    cells = torch.ones(1, 1, *grid.cells, dtype=torch.float64, requires_grad=True)
    pace = min(16, 800 / iterations)
    optimizer = torch.optim.SGD([cells], lr=0.01 * pace * cells.numel() / 1024, momentum=0.9, dampening=0.9)
    weight = 300.0

    def score(mask: Tensor) -> Tensor:
        levels = torch.arange(8)[:, None, None]
        hats = (1 - (7 * mask - levels).abs()).clamp(min=0)
        seen = (hats[:, None] * pyramid).sum(dim=0)
        return classifier.module(classifier.preprocess.normalize(seen[None]))[0, goal]

    for _ in range(iterations):
        canvas = grid.canvas(cells)
        mask = grid.pixels(canvas)[0, 0]
        reward = {"preserve": lambda m: score(m), "delete": lambda m: -score(1 - m),
                  "dual": lambda m: score(m) - score(1 - m)}[variant](mask)  # fmt: skip
        miss = canvas.flatten() - shared_reference(canvas.detach().flatten(), grid.zeros(area))
        optimizer.zero_grad()
        (weight * (miss**2).mean() - reward).backward()
        optimizer.step()
        with torch.no_grad():
            cells.clamp_(0, 1)
        weight *= 1.0035**pace
    return grid.pixels(grid.canvas(cells))[0, 0].detach()


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_the_ascent_is_that_of_the_whole_energy(variant, images):
    found = extremal_perturbation(
        classifier_of(smooth()), images, Target.of([1, 2]), areas=(0.2, 0.5), variant=variant, iterations=40, step=3,
        sigma=4.0, blur=3.0, spacing=1,
    )  # fmt: skip
    for index, goal in enumerate((1, 2)):
        masks = [ascent(images[index].double(), goal, area, variant, 40, 3, 4.0, 3.0) for area in (0.2, 0.5)]
        expected = torch.stack(masks).mean(dim=0)
        # Two places all but equally high may change their order for the last bit.
        assert float((found.maps[index] - expected).abs().mean()) < 1e-3


class Strong(torch.nn.Module):
    """Scores so high that they, not the pull of the area on equal places, decide where the mask goes."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return 300 * self.net(images)


def test_the_area_is_kept_and_lies_where_the_network_looks():
    image = torch.full((1, 3, 64, 64), 0.5)
    image[0, :, 10:30, 30:52] = torch.tensor([0.95, 0.05, 0.1])[:, None, None]
    classifier = Classifier(Strong(RedDetector()).eval(), Preprocess((64, 64), None, (0.4,) * 3, (1.0,) * 3))
    found = extremal_perturbation(classifier, image, Target.of(1), areas=(20 * 22 / 64**2,), iterations=150)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[10:30, 30:52] = True
    assert float(found.maps[0][inside].mean()) > 0.5
    assert float(found.maps[0][~inside].mean()) < 0.07
    assert found.checks["area_error"][0] < 0.02
    assert found.checks["score_left"][0] > 0.6 * float(found.score[0])


def test_the_order_of_equal_places_decides_nothing():
    draw = torch.Generator().manual_seed(0)
    mask, zeros = torch.rand(2, 3, 40, generator=draw).round(decimals=1), torch.tensor([30, 4])
    found, order = wanted(mask, zeros), torch.randperm(40, generator=draw)
    assert torch.equal(wanted(mask[..., order], zeros), found[..., order])
    for area, image in np.ndindex(2, 3):
        assert torch.allclose(found[area, image], shared_reference(mask[area, image], int(zeros[area])))
    assert torch.allclose(found.sum(dim=2), torch.tensor([10.0, 36.0])[:, None].expand(2, 3))


def test_several_areas_are_their_mean(images):
    classifier, options = classifier_of(smooth()), {"iterations": 30}
    both, *single = (
        extremal_perturbation(classifier, images, Target.of([1, 2]), areas=areas, **options).maps
        for areas in ((0.1, 0.4), (0.1,), (0.4,))
    )
    assert torch.allclose(both, (single[0] + single[1]) / 2, atol=1e-5)


def test_what_makes_no_sense_is_refused(images):
    for method in ("areas=0", "areas=0.1x1", "iterations=0", "step=0", "sigma=0.5,step=2", "blur=0", "spacing=0"):
        with pytest.raises(OptionError, match="extremal_perturbation: "):
            attribute(classifier_of(pooled()), images, 1, f"extremal_perturbation:{method}")


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("variant", ["preserve", "dual"])
def test_it_is_the_mask_of_the_authors_code(variant, monkeypatch):
    theirs = pytest.importorskip(
        "torchray.attribution.extremal_perturbation", reason="TorchRay is not installed", exc_type=ImportError
    )
    for name, value in (("_ITERATIONS", 60), ("_CELLS", 12 * 12)):  # theirs are the same for any number
        monkeypatch.setattr(f"phosphene.attribution.extremal_perturbation.{name}", value)
    image = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(image[..., ::8, ::8], (48, 48), mode="bicubic").clamp(0, 1)
    classifier = classifier_of(Strong(smooth()).eval(), None)
    grid = MaskGrid.of((48, 48), 4, 8.0, 1, image)
    places = grid.canvas(torch.zeros(1, 1, *grid.cells)).numel()
    area = (places - grid.zeros(0.2) - 0.5) / places  # of all places, those beyond the border too
    expected, _ = theirs.extremal_perturbation(
        classifier.module, classifier.preprocess.normalize(image), 1, areas=[area], step=4, sigma=8, variant=variant,
        jitter=True, max_iter=60,
    )  # fmt: skip
    found = extremal_perturbation(
        classifier, image, Target.of(1), areas=(0.2,), step=4, sigma=8.0, blur=20.0, spacing=1, variant=variant,
        flips=True, iterations=60,
    )  # fmt: skip
    assert float(expected.std()) > 0.2
    assert float((found.maps[0] - expected[0, 0]).abs().mean()) < 0.005
