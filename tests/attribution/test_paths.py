"""Integrated gradients along other ways: against their formulas written out, and the authors' own code where it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from phosphene import InputError, OptionError, Target, attribute
from phosphene.attribution.blur_ig import blur_ig, blurred
from phosphene.attribution.expected_gradients import expected_gradients
from phosphene.attribution.guided_ig import guided_ig
from phosphene.types import Attribution
from tests.networks import classifier_of, pooled, smooth


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def slope(classifier, point: np.ndarray, goal: int) -> np.ndarray:
    """The gradient of one class's logit at one image (C, H, W), in float64."""
    leaf = torch.from_numpy(point)[None].requires_grad_()
    logits = classifier.module.double()(classifier.preprocess.normalize(leaf))
    (found,) = torch.autograd.grad(logits[0, goal], leaf)
    return found[0].numpy()


@pytest.mark.parametrize("sigma", [0.1, 0.3, 2.0, 9.0])
def test_the_blur_is_scipys_with_either_border(sigma, images):
    for border, mode in (("black", "constant"), ("mirror", "reflect")):
        expected = ndimage.gaussian_filter(images[0].double().numpy(), sigma=(0, sigma, sigma), mode=mode)
        assert np.abs(blurred(images[0].double(), sigma, border).numpy() - expected).max() < 1e-6


def test_blur_ig_is_its_sum(images):
    found = blur_ig(classifier_of(smooth()), images, Target.of([1, 2]), steps=7, sigma=4.0)
    classifier = classifier_of(smooth())
    for index, goal in enumerate((1, 2)):
        image, total = images[index].double().numpy(), np.zeros((3, 16, 16))
        for step in range(7):
            sharp, middle, dull = (
                ndimage.gaussian_filter(image, sigma=(0, at, at), mode="constant") if at else image
                for at in (4 * step / 7, 4 * (step + 0.5) / 7, 4 * (step + 1) / 7)
            )
            total += (sharp - dull) * slope(classifier, middle, goal)
        assert np.abs(found.maps[index].numpy() - total.sum(0)).max() < 1e-4 * np.abs(total.sum(0)).max()


@pytest.mark.parametrize("method", ["blur_ig:steps=100,sigma=6", "guided_ig:steps=100"])
def test_the_shares_add_up(method, images):
    found = attribute(classifier_of(smooth()), images, [1, 2], method)
    assert max(found.checks["completeness_error"]) < 0.02 * float(found.maps.abs().sum(dim=(1, 2)).min())


def test_blur_ig_comes_near_the_authors_code(images):
    core = pytest.importorskip("saliency.core", reason="PAIR's saliency is not installed", exc_type=ImportError)
    found = blur_ig(classifier_of(smooth()), images[:1], Target.of(1), steps=100, sigma=4.0)
    classifier = classifier_of(smooth())
    theirs = core.BlurIG().GetMask(
        images[0].permute(1, 2, 0).double().numpy(), _asked(core, classifier), max_sigma=4.0, steps=2000, batch_size=1
    )
    expected = theirs.sum(-1)
    # Their small difference of two blurs jumps where the cut-off of the Gaussian does.
    assert np.corrcoef(found.maps[0].numpy().ravel(), expected.ravel())[0, 1] > 0.995


@pytest.mark.parametrize("options", [{}, {"fraction": 0.5, "distance": 0.2}, {"distance": 1.0}, {"distance": 0.0}])
def test_guided_ig_takes_the_way_of_the_authors_code(options, images):
    core = pytest.importorskip("saliency.core", reason="PAIR's saliency is not installed", exc_type=ImportError)
    guided = pytest.importorskip("saliency.core.guided_ig", reason="PAIR's saliency is not installed")
    found = guided_ig(classifier_of(smooth()), images[:1], Target.of(1), steps=30, baseline="white", **options)
    classifier = classifier_of(smooth())
    with pytest.MonkeyPatch.context() as patch:  # (numpy 2 renamed an argument that the code still uses)
        quantile = np.quantile
        patch.setattr(guided.np, "quantile", lambda *given, interpolation: quantile(*given, method=interpolation))
        theirs = core.GuidedIG().GetMask(
            images[0].permute(1, 2, 0).double().numpy(), _asked(core, classifier), x_steps=30,
            x_baseline=np.ones((16, 16, 3)), fraction=options.get("fraction", 0.25),
            max_dist=options.get("distance", 0.02),
        )  # fmt: skip
    expected = theirs.sum(-1)
    assert np.abs(found.maps[0].numpy() - expected).max() < 2e-3 * np.abs(expected).max()


def _asked(core, classifier):
    """What PAIR's code asks a network: gradients of pictures (N, H, W, C)."""

    def ask(pictures, call_model_args=None, expected_keys=None):
        found = [slope(classifier, np.ascontiguousarray(picture.transpose(2, 0, 1)), 1) for picture in pictures]
        return {key: np.stack(found).transpose(0, 2, 3, 1) for key in expected_keys}

    return ask


def guided_by_hand(
    classifier, image: np.ndarray, goal: int, steps: int, fraction: float, distance: float
) -> np.ndarray:
    """Algorithm 1, value by value, from black."""
    image = image.ravel().astype(np.float64)
    x, total, whole = np.zeros_like(image), np.zeros_like(image), np.abs(image).sum()
    for step in range(1, steps + 1):
        low, high = image * max(step / steps - distance, 0), image * min(step / steps + distance, 1)
        g = slope(classifier, x.reshape(3, 16, 16), goal).ravel()
        rank, goal_distance = np.abs(g).copy(), whole * (1 - step / steps)
        while True:
            old = x.copy()
            for i in range(len(x)):
                if image[i] and x[i] / image[i] < max(step / steps - distance, 0):
                    x[i] = low[i]
            missing = np.abs(image - x).sum() - goal_distance
            if missing <= 1e-9 * whole:
                total += (x - old) * g
                break
            rank[x == high] = np.inf
            bound = np.sort(rank)[int(fraction * (len(rank) - 1))]
            chosen = [i for i in range(len(x)) if rank[i] <= bound and np.isfinite(rank[i])]
            reach = sum(abs(high[i] - x[i]) for i in chosen)
            part = min(missing / reach, 1)
            for i in chosen:
                x[i] = high[i] if part == 1 else x[i] + part * (high[i] - x[i])
            total += (x - old) * g
            if missing / reach <= 1:
                break
    return total.reshape(3, 16, 16).sum(0)


@pytest.mark.parametrize(("fraction", "distance"), [(0.25, 0.02), (0.5, 0.3)])
def test_guided_ig_is_its_algorithm(fraction, distance, images):
    found = guided_ig(classifier_of(smooth()), images[:1], Target.of(1), steps=6, fraction=fraction, distance=distance)
    expected = guided_by_hand(classifier_of(smooth()), images[0].numpy(), 1, 6, fraction, distance)
    assert np.abs(found.maps[0].numpy() - expected).max() < 2e-3 * np.abs(expected).max()


def test_guided_ig_without_leeway_is_integrated_gradients(images):
    found = guided_ig(classifier_of(smooth()), images, Target.of(1), steps=100, distance=0.0)
    straight = attribute(classifier_of(smooth()), images, 1, "integrated_gradients:steps=20")
    assert torch.allclose(found.maps, straight.maps, atol=0.02 * float(straight.maps.abs().max()))


def test_expected_gradients_is_its_mean(images, tmp_path):
    from PIL import Image

    names = ("a.png", "b.png")
    shots = [np.random.default_rng(index).integers(0, 255, (16, 16, 3), np.uint8) for index in range(2)]
    for name, shot in zip(names, shots, strict=True):
        Image.fromarray(shot).save(tmp_path / name)
    found = expected_gradients(
        classifier_of(smooth()), images, Target.of([1, 2]), samples=9, references=str(tmp_path),
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    references = [shot.transpose(2, 0, 1) / 255 for shot in shots]
    references += [reference[:, :, ::-1] for reference in references]
    generator = torch.Generator().manual_seed(5)
    drawn, places = torch.randint(4, (9,), generator=generator), torch.rand(9, generator=generator)
    classifier = classifier_of(smooth())
    for index, goal in enumerate((1, 2)):
        image = images[index].double().numpy()
        total = np.zeros((3, 16, 16))
        for base, place in zip(drawn.tolist(), places.tolist(), strict=True):
            way = image - references[base]
            total += way * slope(classifier, references[base] + place * way, goal)
        expected = total.sum(0) / 9
        assert np.abs(found.maps[index].numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def test_expected_gradients_come_near_completeness(images):
    def missing(samples: int) -> float:
        found: Attribution = expected_gradients(classifier_of(smooth()), images, Target.of(1), samples=samples)
        return max(found.checks["completeness_error"])

    assert missing(150) < 0.5 * missing(6)


def test_what_makes_no_sense_is_refused(images, tmp_path):
    classifier = classifier_of(pooled())
    for method in ("blur_ig:steps=0", "blur_ig:sigma=0", "blur_ig:sigma=inf", "guided_ig:fraction=0",
                   "guided_ig:distance=2", "expected_gradients:samples=0"):  # fmt: skip
        with pytest.raises(OptionError, match=r"must be|above"):
            attribute(classifier, images, 1, method)
    with pytest.raises(InputError, match="no such folder"):
        attribute(classifier, images, 1, f"expected_gradients:references={tmp_path / 'nowhere'}")
