from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from phosphene import Classifier, Preprocess
from phosphene.attribution.occlusion import _corners, _spread, occlusion
from phosphene.errors import OptionError
from phosphene.targets import Target
from tests.comparing import exact_score, map_error
from tests.networks import MEAN, RedDetector, classifier_of, linear, pooled, vgg_f
from tests.oracles import attribution as oracle

FILLS = {"mean": MEAN, "black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}


@pytest.mark.parametrize("make", [vgg_f, pooled])
@pytest.mark.parametrize(
    ("window", "stride", "fill"), [((5, 5), (3, 3), "mean"), ((4, 7), (5, 2), "black"), ((16, 3), (8, 1), "white")]
)
def test_equals_the_literal_procedure(make, window, stride, fill):
    """Windows clipped at the edge, gaps between windows (stride 5 of 4), the raw map and the average per pixel."""
    classifier, images = classifier_of(make()), torch.rand(2, 3, 16, 16)
    got = occlusion(classifier, images, Target.of([3, 1]), window=window, stride=stride, fill=fill, batch_size=3)
    for index, c in enumerate((3, 1)):
        score = exact_score(classifier, c, "probability")
        values, drops = oracle.occlusion(score, images[index], window, stride, torch.tensor(FILLS[fill]))
        assert map_error(got.maps[index][None], values[None]) < 1e-5
        assert float((got.evidence[index].double() - drops).abs().max()) < 1e-6


def test_covering_positions_equal_the_literal_procedure():
    """The fewest corners whose windows cover the image; the last window is clipped."""
    classifier, images = classifier_of(pooled(), (20, 20)), torch.rand(1, 3, 20, 20)
    got = occlusion(classifier, images, Target.of(2), window=(7, 7), stride=(6, 6), positions="covering")
    corners = [0, 6, 12, 18]
    values, drops = oracle.occlusion(
        exact_score(classifier, 2, "probability"), images[0], (7, 7), (6, 6), torch.tensor(MEAN), corners, corners
    )
    assert map_error(got.maps, values[None]) < 1e-5
    assert map_error(got.evidence, drops[None]) < 1e-4


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.cat(tensors=[self.one(x).relu(), self.other(x).relu()], dim=1).mean((2, 3)))


def test_branches_joined_by_named_arguments():
    classifier, images = classifier_of(Joined()), torch.rand(1, 3, 24, 24)
    got = occlusion(classifier, images, Target.of(1), window=(6, 6), stride=(5, 5), fill="black")
    score = exact_score(classifier, 1, "probability")
    values, _ = oracle.occlusion(score, images[0], (6, 6), (5, 5), torch.tensor(FILLS["black"]))
    assert map_error(got.maps, values[None]) < 1e-5


def test_position_grid_of_the_report():
    """(10, 5) at 224 pixels: 45 x 45 positions; (10, 10): 23 x 23."""
    assert len(_corners(224, 10, 5, "all")) == 45
    assert len(_corners(224, 10, 10, "all")) == 23
    assert len(_corners(224, 32, 16, "covering")) == 13


@given(
    st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.integers(1, 12), st.booleans()
)
def test_corners_start_inside_and_cover(length_window, stride, covering):
    length, window = length_window
    corners = _corners(length, window, stride, "covering" if covering else "all")
    assert corners[0] == 0
    assert all(b - a == stride for a, b in itertools.pairwise(corners))
    if covering or stride <= window:
        assert corners[-1] + window >= length
    if covering:
        assert len(corners) == 1 or corners[-2] + window < length
    else:
        assert corners[-1] < length <= corners[-1] + stride


@given(st.data())
def test_spread_is_the_mean_over_covering_windows(data):
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    boxes = []
    for _ in range(data.draw(st.integers(1, 8))):
        y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        boxes.append((y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width))))
    values = torch.rand(2, len(boxes))
    got = _spread(values, boxes, (height, width))
    for y in range(height):
        for x in range(width):
            on = [i for i, (y0, x0, y1, x1) in enumerate(boxes) if y0 <= y < y1 and x0 <= x < x1]
            expected = values[:, on].mean(1) if on else torch.zeros(2)
            assert torch.allclose(got[:, y, x], expected, atol=1e-6)


def test_of_a_linear_model_is_the_weight_under_the_window():
    classifier, images = classifier_of(linear()), torch.rand(1, 3, 16, 16)
    got = occlusion(classifier, images, Target.of(1, score="logit"), window=(1, 1), stride=(1, 1), fill="mean")
    normal = classifier.preprocess.normalize(images)[0]
    expected = (classifier.module[1].weight[1].view(3, 16, 16) * normal).sum(0)
    assert torch.allclose(got.evidence[0], expected, atol=1e-4)


def test_positive_where_covering_lowers_the_score():
    images = torch.zeros(1, 3, 16, 16)
    images[:, 0, 4:8, 8:12] = 1.0
    classifier = classifier_of(RedDetector())
    classifier = type(classifier)(classifier.module)
    got = occlusion(classifier, images, Target.of(1), window=(4, 4), stride=(4, 4), fill="black")
    assert (got.evidence[0, 4:8, 8:12] > 0).all()
    assert float(got.evidence.abs().sum()) == pytest.approx(float(got.evidence[0, 4:8, 8:12].sum()))


@pytest.mark.parametrize(
    "options", [{"window": (0, 3)}, {"stride": (1, 0)}, {"window": (17, 3)}, {"window": (3, 17)}, {"stride": (-1, 1)}]
)
def test_windows_that_make_no_sense_are_refused(options):
    with pytest.raises(OptionError, match="occlusion"):
        occlusion(classifier_of(linear()), torch.rand(1, 3, 16, 16), Target.of(0), **{"window": (3, 3)} | options)


def test_progress_counts_every_window_and_can_cancel():
    calls = []
    occlusion(
        classifier_of(linear()),
        torch.rand(2, 3, 16, 16),
        Target.of(0),
        window=(4, 4),
        stride=(4, 4),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1] == (32, 32)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        occlusion(classifier_of(linear()), torch.rand(1, 3, 16, 16), Target.of(0), window=(4, 4), progress=stop)


@pytest.mark.parametrize(("side", "window", "stride", "cells"), [(224, 32, 16, 14), (32, 5, 2, 16), (28, 4, 2, 14)])
def test_windows_of_small_pictures_are_in_proportion(side, window, stride, cells):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
    net.append(torch.nn.Flatten())
    classifier = Classifier(net.eval(), Preprocess((side, side), None, (0.4,), (0.2,)))
    images = torch.rand(1, 1, side, side)
    found = occlusion(classifier, images, Target.of(1))
    told = occlusion(classifier, images, Target.of(1), window=(window, window), stride=(stride, stride))
    assert found.maps.shape == (1, cells, cells)
    assert torch.equal(found.maps, told.maps)
