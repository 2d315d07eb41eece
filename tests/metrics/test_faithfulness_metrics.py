import numpy as np
import pytest
import torch
from torch import nn

from phosphene.errors import OptionError
from phosphene.metrics.average_drop import average_drop, average_increase, explanation_images
from phosphene.metrics.evidence_share import evidence_share
from phosphene.metrics.insertion_deletion import deletion, insertion, rise_blur
from tests.oracles import metrics as oracle


def small_network():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )
    return net.double().eval().requires_grad_(False)


def probability(net, mean, index):
    return lambda copies: net(copies.double() - mean.double()).softmax(dim=1)[:, index]


@pytest.mark.parametrize("step", [1, 7, 30, None])
def test_curves_equal_the_slow_loop(step):
    net, mean = small_network(), torch.full((3, 1, 1), 0.5, dtype=torch.float64)
    image, heat = torch.rand(3, 6, 10, dtype=torch.float64), torch.randn(6, 10, dtype=torch.float64).round(decimals=1)
    score = probability(net, mean, 1)
    blank, blurred = mean.expand_as(image), rise_blur(image, mean)
    for curve, start, end in (
        (deletion(image, heat, score, blank=mean, step=step), image, blank),
        (insertion(image, heat, score, start=blurred, step=step, batch_size=3), blurred, image),
    ):
        slow_score = lambda picture: float(score(torch.from_numpy(picture)[None])[0])  # noqa: E731
        values, area = oracle.pixel_curve(start.numpy(), end.numpy(), heat.numpy(), slow_score, step or 2)
        assert curve.values.tolist() == pytest.approx(values, abs=1e-6)
        assert curve.area == pytest.approx(area, abs=1e-12)


def test_a_perfect_order_beats_the_reversed_one():
    weight = torch.linspace(0, 1, 64).view(8, 8)
    image = torch.ones(1, 8, 8)
    score = lambda copies: (copies[:, 0] * weight).sum((1, 2)) / weight.sum()  # noqa: E731
    black = torch.zeros(1, 1, 1)
    assert (
        deletion(image, weight, score, blank=black).area < 0.4 < 0.6 < deletion(image, -weight, score, blank=black).area
    )
    # What deletion takes away first, insertion brings first: for a linear score from black they mirror each other.
    inserted = insertion(image, weight, score, start=torch.zeros(1, 8, 8))
    assert inserted.area == pytest.approx(1 - deletion(image, weight, score, blank=black).area, abs=1e-6)


def test_blur_keeps_flat_pictures_and_pads_with_the_mean_image():
    mean = torch.full((3, 1, 1), 0.25)
    flat = torch.full((3, 31, 31), 0.75)
    blurred = rise_blur(flat, mean)
    assert torch.allclose(blurred[:, 5:-5, 5:-5], flat[:, 5:-5, 5:-5], atol=1e-6)
    assert bool((blurred[:, 0, 0] < 0.5).all())
    assert torch.allclose(rise_blur(mean.expand(3, 9, 9), mean), mean.expand(3, 9, 9))


def test_drop_and_increase_equal_the_slow_formula():
    clean, explained = torch.rand(9, dtype=torch.float64) + 0.01, torch.rand(9, dtype=torch.float64)
    assert average_drop(clean, explained) == pytest.approx(oracle.average_drop(clean.tolist(), explained.tolist()))
    expected = oracle.average_increase(clean.tolist(), explained.tolist())
    assert average_increase(clean, explained) == pytest.approx(expected)


def test_explanation_images_equal_the_papers_product_in_normalized_units():
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), 0.5
    images, maps = torch.rand(2, 3, 4, 5), torch.randn(2, 4, 5)
    share = torch.stack([(m - m.min()) / (m.max() - m.min()) for m in maps])[:, None]
    product = (images - mean) / std * share
    assert torch.allclose((explanation_images(images, maps, mean) - mean) / std, product, atol=1e-6)


def test_evidence_share_equals_the_slow_formula():
    values, mask = torch.randn(3, 5, 4, dtype=torch.float64), torch.rand(3, 5, 4) > 0.5
    expected = [oracle.evidence_share(v, m) for v, m in zip(values.numpy(), mask.numpy(), strict=True)]
    assert evidence_share(values, mask).tolist() == pytest.approx(expected)
    assert (evidence_share(values, mask) + evidence_share(values, ~mask)).tolist() == pytest.approx([1, 1, 1])
    assert evidence_share(-values.abs(), mask).isnan().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: deletion(torch.rand(3, 4, 4), torch.rand(2, 2), len, blank=torch.zeros(3, 1, 1)), r"\(2, 2\)"),
        (lambda: deletion(torch.rand(3, 4, 4), torch.rand(4, 4), len, blank=torch.zeros(3, 1, 1), step=0), "step=0"),
        (lambda: average_drop(torch.rand(2), torch.rand(3)), r"\(2,\) and \(3,\)"),
        (lambda: average_increase(torch.zeros(1), torch.rand(1)), "cannot drop"),
        (lambda: evidence_share(torch.rand(1, 2, 2), torch.ones(1, 3, 3)), r"\(1, 3, 3\)"),
    ],
)
def test_what_does_not_fit_is_named(wrong, message):
    with pytest.raises(OptionError, match=message):
        wrong()


def torchcam_metrics():
    return pytest.importorskip("torchcam.metrics", reason="the comparison needs the extra phosphene[test]")


class FixedMap:
    """A torch-cam extractor that gives out maps made beforehand, so that the metrics alone are compared."""

    def __init__(self, model, maps):
        self.model, self.maps = model, maps

    def __call__(self, class_idx=None, scores=None, **_ignored):
        return [self.maps]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return torch.no_grad()


def test_the_same_numbers_as_torchcam():
    metrics = torchcam_metrics()
    net = small_network()
    images, heat = torch.rand(3, 3, 12, 12, dtype=torch.float64), torch.rand(3, 12, 12, dtype=torch.float64)
    heat = torch.stack([(m - m.min()) / (m.max() - m.min()) for m in heat])
    mean = torch.zeros(3, 1, 1, dtype=torch.float64)
    index, softmax = 2, lambda logits: logits.softmax(dim=-1)
    score = probability(net, mean, index)

    theirs = metrics.DeletionInsertionMetric(FixedMap(net, heat), softmax, steps=9, baseline=None)
    theirs.update(images, index)
    step = -(-144 // 9)
    deleted = [deletion(i, m, score, blank=mean, step=step).area for i, m in zip(images, heat, strict=True)]
    blank = torch.zeros_like(images[0])
    inserted = [insertion(i, m, score, start=blank, step=step).area for i, m in zip(images, heat, strict=True)]
    assert np.mean(deleted) == pytest.approx(theirs.summary()["deletion_auc"], abs=1e-6)
    assert np.mean(inserted) == pytest.approx(theirs.summary()["insertion_auc"], abs=1e-6)

    theirs = metrics.ClassificationMetric(FixedMap(net, heat), softmax)
    theirs.update(images, index)
    clean, explained = score(images), score(explanation_images(images, heat, mean))
    assert average_drop(clean, explained) == pytest.approx(theirs.summary()["avg_drop"], abs=1e-6)
    assert average_increase(clean, explained) == theirs.summary()["conf_increase"]
