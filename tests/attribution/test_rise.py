from __future__ import annotations

import pytest
import torch

from phosphene.attribution.rise import random_masks, rise
from phosphene.errors import OptionError
from phosphene.targets import Target
from tests.comparing import exact_score, map_error
from tests.networks import MEAN, classifier_of, pooled, vgg_f
from tests.oracles import attribution as oracle


@pytest.mark.parametrize("make", [vgg_f, pooled])
def test_equals_the_literal_formula_given_the_masks(make):
    classifier, images = classifier_of(make()), torch.rand(2, 3, 16, 16)
    masks = random_masks(12, 3, 0.4, (16, 16), torch.Generator().manual_seed(3))
    got = rise(
        classifier,
        images,
        Target.of([3, 1]),
        masks=12,
        cells=3,
        keep=0.4,
        generator=torch.Generator().manual_seed(3),
        batch_size=5,
    )
    fill = torch.tensor(MEAN).view(3, 1, 1)
    expected = [
        oracle.rise(exact_score(classifier, c, "probability"), x, masks, fill, 0.4)
        for x, c in zip(images, (3, 1), strict=True)
    ]
    assert map_error(got.maps, torch.stack(expected)) < 1e-5


def test_masks_have_the_mean_and_shape_they_should():
    masks = random_masks(3000, 5, 0.3, (13, 17), torch.Generator().manual_seed(1))
    assert masks.shape == (3000, 13, 17)
    assert float(masks.min()) >= 0.0
    assert float(masks.max()) <= 1.0
    # Every pixel is visible with the same probability: the standard error of the mean is below .009.
    assert float((masks.mean(0) - 0.3).abs().max()) < 0.04


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 7), (8, 8), (15, 31)])
@pytest.mark.parametrize("cells", [1, 7])
def test_masks_fit_every_size(size, cells):
    assert random_masks(3, cells, 0.5, size, torch.Generator().manual_seed(1)).shape == (3, *size)


def test_same_seed_same_map_other_seed_other_map():
    classifier, images = classifier_of(pooled()), torch.rand(1, 3, 16, 16)

    def run(seed: int) -> torch.Tensor:
        return rise(classifier, images, Target.of(1), masks=8, generator=torch.Generator().manual_seed(seed)).maps

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert torch.equal(rise(classifier, images, Target.of(1), masks=8).maps, run(0))


@pytest.mark.parametrize("options", [{"masks": 0}, {"cells": 0}, {"keep": 0.0}, {"keep": 1.0}, {"keep": float("nan")}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(OptionError, match="rise"):
        rise(classifier_of(pooled()), torch.rand(1, 3, 16, 16), Target.of(0), **options)
