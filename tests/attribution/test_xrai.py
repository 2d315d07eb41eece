"""XRAI: against algorithm 1 written out, scikit-image's segments and dilation, and the authors' own code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.data import chelsea
from skimage.morphology import dilation, disk
from skimage.segmentation import felzenszwalb
from skimage.transform import resize
from torch import Tensor

from phosphene import OptionError, Target, attribute
from phosphene.attribution.xrai import gain_densities, segments, xrai
from phosphene.classifier import Classifier, Preprocess
from tests.networks import RedDetector, classifier_of, one_channel, pooled, smooth
from tests.oracles.cams import path_shares


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def photograph(height: int, width: int) -> np.ndarray:
    """(height, width, 3) in [0, 1]."""
    return resize(chelsea()[:, 60:360] / 255.0, (height, width), anti_aliasing=True).astype(np.float32)


def by_hand(evidence: np.ndarray, masks: list[np.ndarray], least: int) -> np.ndarray:
    """Algorithm 1, set by set."""
    found, taken, left = np.full(evidence.shape, np.nan), np.zeros(evidence.shape, bool), list(masks)
    while True:
        left = [mask for mask in left if (mask & ~taken).sum() >= least]
        if not left:
            break
        best = max(left, key=lambda mask: evidence[mask & ~taken].mean())
        found[best & ~taken] = evidence[best & ~taken].mean()
        taken |= best
    found[~taken] = evidence[~taken].mean() if (~taken).any() else 0
    return found


@pytest.mark.parametrize("least", [1, 4, 30])
def test_regions_come_in_the_order_of_the_algorithm(least):
    draw = np.random.default_rng(least)
    evidence, masks = draw.normal(size=(9, 8)), draw.random((25, 9, 8)) < 0.2
    found = gain_densities(evidence, masks, least)
    assert np.abs(found - by_hand(evidence, list(masks), least)).max() < 1e-12
    assert found.sum() == pytest.approx(evidence.sum())


@pytest.mark.parametrize("size", [(224, 224), (260, 230)])
def test_segments_are_scikit_images_widened(size):
    picture = photograph(*size)
    found = segments(picture, (100.0, 1200.0), 5)
    stretched = 2 * (picture.astype(np.float64) - picture.min()) / (picture.max() - picture.min()) - 1
    small = resize(stretched, (224, 224), order=3, mode="constant", anti_aliasing=True)
    expected = []
    for scale in (100, 1200):
        labels = felzenszwalb(small if size != (224, 224) else stretched, scale=scale, sigma=0.8, min_size=150)
        labels = resize(labels, size, order=0, preserve_range=True, mode="constant", anti_aliasing=False).astype(int)
        expected += [dilation(labels == label, footprint=disk(5)) for label in np.unique(labels)]
    assert np.array_equal(found, np.stack(expected))
    assert found.any(axis=0).all()


def test_small_pictures_have_about_as_many_segments():
    large, small = (len(segments(photograph(side, side), (250.0,), 0)) for side in (224, 56))
    assert 0.4 < small / large < 2.5


@pytest.mark.parametrize(
    ("baseline", "colors", "reduce"),
    [("both", (0.0, 1.0), "max"), ("both", (0.0, 1.0), "sum"), ("black", (0.0,), "sum"), ("white", (1.0,), "max")],
)
def test_xrai_is_its_parts(baseline, colors, reduce, images):
    scales = (100.0, 1200.0)
    found = xrai(classifier_of(smooth()), images, Target.of([1, 2]), baseline=baseline, reduce=reduce, scales=scales)
    classifier = classifier_of(smooth().double())
    for index, goal in enumerate((1, 2)):

        def score(pictures: Tensor, goal: int = goal) -> Tensor:
            return classifier.module(classifier.preprocess.normalize(pictures))[:, goal]

        image = images[index].double()
        maps = [path_shares(score, image, torch.full_like(image, color), steps=70) for color in colors]
        mean = torch.stack(maps).mean(dim=0)
        evidence = (mean.amax(dim=0) if reduce == "max" else mean.sum(dim=0)).numpy()
        masks = segments(images[index].permute(1, 2, 0).numpy(), scales, 5 * 16 / 224)
        expected = by_hand(evidence, list(masks), 1)
        assert np.abs(found.maps[index].numpy() - expected).max() < 1e-4 * np.abs(expected).max()


def test_signed_values_add_up_to_the_difference_of_the_scores():
    classifier, images = classifier_of(smooth(), None), torch.from_numpy(photograph(64, 48)).permute(2, 0, 1)[None]
    found = attribute(classifier, images, 1, "xrai:reduce=sum")
    with torch.no_grad():
        ends = classifier.logits(torch.cat([images, torch.zeros_like(images), torch.ones_like(images)]))[:, 1]
    assert float(found.maps.sum()) == pytest.approx(float(ends[0] - ends[1:].mean()), rel=1e-3)


def test_what_the_network_looks_at_is_one_region():
    image = torch.full((1, 3, 64, 64), 0.5)
    image += 0.02 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    image[0, :, 20:40, 24:48] = torch.tensor([0.95, 0.05, 0.1])[:, None, None]
    classifier = Classifier(RedDetector(), Preprocess((64, 64), None, (0.0,) * 3, (1.0,) * 3))
    heat = xrai(classifier, image, Target.of(1), dilation=0.0).maps[0]
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[20:40, 24:48] = True
    assert float(heat[inside].mean()) > 10 * float(heat[~inside].mean())
    assert (heat[inside] >= heat[~inside].max()).float().mean() > 0.8


@pytest.mark.parametrize("channels", [1, 5])
def test_pictures_of_other_channels(channels):
    if channels == 1:
        classifier = one_channel()
    else:
        net = torch.nn.Sequential(torch.nn.Conv2d(5, 3, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        classifier = Classifier(net.eval(), Preprocess((16, 16), None, (0.5,) * 5, (0.25,) * 5))
    assert xrai(classifier, torch.rand(1, channels, 16, 16), Target.of(1), steps=2).maps.shape == (1, 16, 16)


def test_what_makes_no_sense_is_refused(images):
    for method in ("steps=0", "least=0", "scales=50x0", "dilation=-1", "dilation=inf"):
        with pytest.raises(OptionError, match="xrai: "):
            attribute(classifier_of(pooled()), images, 1, f"xrai:{method}")


def test_it_is_the_map_of_the_authors_code():
    core = pytest.importorskip("saliency.core", reason="PAIR's saliency is not installed", exc_type=ImportError)
    picture = photograph(224, 224)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    classifier, exact = classifier_of(smooth(), None), classifier_of(smooth().double(), None)

    def ask(pictures, call_model_args=None, expected_keys=None):
        leaf = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).double().requires_grad_()
        exact.module(exact.preprocess.normalize(leaf))[:, 1].sum().backward()
        return {key: leaf.grad.permute(0, 2, 3, 1).numpy() for key in expected_keys}

    theirs = core.XRAI().GetMask(
        picture.astype(np.float64), ask, batch_size=20,
        baselines=[np.zeros_like(picture, np.float64), np.ones_like(picture, np.float64)],
    )  # fmt: skip
    found = xrai(classifier, image, Target.of(1)).maps[0].numpy()
    # Their sum over a hundred steps counts both ends in full.
    assert np.corrcoef(found.ravel(), theirs.ravel())[0, 1] > 0.99
    evidence = np.random.default_rng(0).normal(size=picture.shape)
    same = core.XRAI().GetMask(picture.astype(np.float64), ask, base_attribution=evidence)
    masks = segments(picture, (50, 100, 150, 250, 500, 1200), 5)
    assert np.abs(gain_densities(evidence.max(axis=-1), masks, 50) - same).max() < 1e-9
