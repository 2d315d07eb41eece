"""ROAD and pixel flipping: against their formulas written out, and Quantus and pytorch-grad-cam where installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from phosphene import OptionError
from phosphene.metrics.pixel_flipping import pixel_flipping
from phosphene.metrics.road import filled_in, road

WEIGHTS = {(0, 1): 1 / 6, (1, 0): 1 / 6, (1, 1): 1 / 12}


@pytest.fixture
def image() -> Tensor:
    return torch.rand(3, 9, 11, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def heat() -> Tensor:
    return torch.rand(9, 11, generator=torch.Generator().manual_seed(4))


def scores(copies: Tensor) -> Tensor:
    return copies[:, 0, 2:6, 3:8].mean(dim=(1, 2)) + 0.3 * copies[:, 2].std(dim=(1, 2))


def mean_of_neighbors(image: np.ndarray, row: int, column: int) -> np.ndarray:
    total, whole = np.zeros(len(image)), 0.0
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            y, x = row + down, column + right
            if (down or right) and 0 <= y < image.shape[1] and 0 <= x < image.shape[2]:
                weight = WEIGHTS[tuple(sorted((abs(down), abs(right))))]
                total, whole = total + weight * image[:, y, x], whole + weight
    return total / whole


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_every_filled_pixel_is_the_mean_of_its_neighbors(share, image, heat):
    missing = heat > heat.quantile(1 - share)
    filled = filled_in(image, missing).double().numpy()
    for row, column in missing.nonzero().tolist():
        assert np.allclose(filled[:, row, column], mean_of_neighbors(filled, row, column), atol=1e-5)
    assert torch.equal(filled_in(image, missing)[:, ~missing], image[:, ~missing])


def test_road_is_its_definition(image, heat):
    found = road(image, heat, scores, fractions=(0.2, 0.6), noise=0.0)
    order = heat.flatten().argsort(descending=True)
    for place, share in enumerate((0.2, 0.6)):
        for values, ranked in ((found.most, order), (found.least, order.flip(0))):
            missing = torch.zeros(99, dtype=torch.bool)
            missing[ranked[: round(share * 99)]] = True
            expected = scores(filled_in(image, missing.view(9, 11))[None])
            assert float(values[place]) == pytest.approx(float(expected), abs=1e-6)
    assert found.difference == pytest.approx(float((found.least - found.most).mean()) / 2)


def test_road_fills_in_as_the_published_imputation(image, heat):
    published = pytest.importorskip(
        "pytorch_grad_cam.metrics.road", reason="pytorch-grad-cam is not installed", exc_type=ImportError
    )
    for share in (0.3, 0.8):
        missing = heat > heat.quantile(1 - share)
        system, known = published.NoisyLinearImputer.setup_sparse_system(
            (~missing).float().numpy(), image.numpy(), published.neighbors_weights
        )
        expected = spsolve(csc_matrix(system), known)  # (missing pixels, channels)
        assert np.allclose(filled_in(image, missing)[:, missing].T.numpy(), expected, atol=1e-5)


def test_road_has_the_figures_of_quantus():
    """How often the class stays of pictures of one channel: of more it ranks each channel's values by themselves."""
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed", exc_type=ImportError)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(100, 4)).eval()
    images = torch.rand(12, 1, 10, 10, generator=torch.Generator().manual_seed(7))
    heats = torch.rand(12, 10, 10, generator=torch.Generator().manual_seed(8))
    best = network(images).argmax(dim=1)
    metric = quantus.ROAD(
        percentages=[20, 50, 80],
        noise=0.0,
        normalise=False,
        abs=False,
        display_progressbar=False,
        disable_warnings=True,
    )
    theirs = metric(
        model=network, x_batch=images.numpy(), y_batch=best.numpy(), a_batch=heats[:, None].numpy(), softmax=True
    )
    ours: dict[int, list[bool]] = {20: [], 50: [], 80: []}
    for one, own, goal in zip(images, heats, best.tolist(), strict=True):
        said: list[Tensor] = []

        def likely(copies: Tensor, said: list[Tensor] = said, goal: int = goal) -> Tensor:
            rows = network(copies).detach()
            said.append(rows)
            return rows.softmax(dim=1)[:, goal]

        road(one, own, likely, fractions=(0.2, 0.5, 0.8), noise=0.0)
        for share, row in zip(ours, said[0], strict=True):
            ours[share].append(int(row.argmax()) == goal)
    for share, kept in ours.items():
        assert np.mean(kept) == pytest.approx(theirs[share], abs=1e-9)


def test_the_noise_is_drawn_and_can_be_drawn_again(image, heat):
    one, other, third = (
        road(image, heat, scores, noise=noise, generator=torch.Generator().manual_seed(seed)).most
        for noise, seed in ((0.1, 1), (0.1, 1), (0.1, 2))
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_pixel_flipping_is_its_definition(image, heat):
    found = pixel_flipping(image, heat, scores, cell=3, steps=5, generator=torch.Generator().manual_seed(6))
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(6))
    corners = [(y, x) for y in range(0, 9, 3) for x in range(0, 11, 3)]
    corners.sort(key=lambda corner: -float(heat[corner[0] : corner[0] + 3, corner[1] : corner[1] + 3].sum()))
    copy, values = image.clone(), [float(scores(image[None]))]
    for y, x in corners[:5]:
        copy[:, y : y + 3, x : x + 3] = noise[:, y : y + 3, x : x + 3]
        values.append(float(scores(copy[None])))
    assert found.values.tolist() == pytest.approx(values, abs=1e-6)
    assert found.aopc == pytest.approx(values[0] - sum(values) / 6, abs=1e-6)
    assert len(pixel_flipping(image, heat, scores, cell=5, steps=100).values) == 7


def test_pixel_flipping_of_single_pixels_is_quantus_curve(image, heat):
    quantus = pytest.importorskip("quantus", reason="Quantus is not installed", exc_type=ImportError)
    given = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(99, 4)).eval()
    image = image[:1]  # of colors it would flip each channel by itself
    metric = quantus.PixelFlipping(
        features_in_step=1, perturb_baseline="black", return_auc_per_sample=False, normalise=False, abs=False,
        display_progressbar=False, disable_warnings=True,
    )  # fmt: skip
    theirs = metric(
        model=given, x_batch=image[None].numpy(), y_batch=np.array([1]), a_batch=heat[None, None].numpy(), softmax=True
    )[0]

    def likely(copies: Tensor) -> Tensor:
        return given(copies).softmax(dim=1)[:, 1].detach()

    order = heat.flatten().argsort(descending=True)
    copy, values = image.clone(), []
    for place in order.tolist():
        copy.view(1, -1)[:, place] = image.min()  # its "black"
        values.append(float(likely(copy[None])))
    assert np.allclose(np.ravel(theirs)[-len(values) :], values, atol=1e-5)


def test_what_makes_no_sense_is_refused(image, heat):
    for fractions in ((), (0.0,), (1.0,)):
        with pytest.raises(OptionError, match="has to remove some pixels, and to leave some"):
            road(image, heat, scores, fractions=fractions)
    for measure in (road, pixel_flipping):
        with pytest.raises(OptionError, match="bring it to its size"):
            measure(image, heat[1:], scores)
    with pytest.raises(OptionError, match="cell=0"):
        pixel_flipping(image, heat, scores, cell=0)
