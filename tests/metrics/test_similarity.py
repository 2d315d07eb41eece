import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from phosphene.errors import OptionError
from phosphene.metrics.spearman import spearman
from phosphene.metrics.ssim import ssim
from tests.oracles import metrics as oracle


def pairs(side=14):
    """Unrelated, related, reversed and heavily tied maps."""
    a = torch.randn(4, side, side + 1, dtype=torch.float64)
    b = torch.stack([torch.randn(side, side + 1, dtype=torch.float64), a[1].exp() + 0.1, -a[2], a[3]])
    a[3], b[3] = (a[3] * 1.5).round(), (b[3] * 0.7 + 0.3).round()
    return a, b


@pytest.mark.parametrize(("fast", "slow"), [(spearman, oracle.spearman), (ssim, oracle.ssim)])
def test_equals_the_slow_formula(fast, slow):
    a, b = pairs()
    expected = [slow(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert fast(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_spearman_equals_scipy():
    a, b = pairs(40)
    expected = [spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert spearman(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_ssim_equals_scikit_image():
    a, b = pairs(40)
    expected = []
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        x, y = ((m - m.min()) / np.ptp(m) for m in (x, y))
        expected.append(
            structural_similarity(x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
        )
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_constant_map_has_no_order_and_some_likeness():
    flat, other = torch.ones(1, 12, 12), torch.rand(1, 12, 12)
    assert spearman(flat, other).isnan().all()
    assert torch.isfinite(ssim(flat, other)).all()


def test_each_map_is_compared_by_itself():
    a, b = pairs()
    assert torch.equal(torch.cat([spearman(a[i : i + 1], b[i : i + 1]) for i in range(4)]), spearman(a, b))


@pytest.mark.parametrize("measure", [spearman, ssim])
def test_shapes_that_do_not_fit_are_named(measure):
    with pytest.raises(OptionError, match=r"\(2, 12, 12\) and \(1, 12, 12\)"):
        measure(torch.rand(2, 12, 12), torch.rand(1, 12, 12))


def test_ssim_refuses_maps_smaller_than_its_window():
    with pytest.raises(OptionError, match="enlarge"):
        ssim(torch.rand(1, 7, 7), torch.rand(1, 7, 7))
