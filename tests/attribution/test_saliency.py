from __future__ import annotations

import pytest
import torch

from phosphene.attribution.saliency import saliency
from phosphene.classifier import Preprocess
from phosphene.errors import OptionError
from phosphene.targets import Target, Unit
from tests.comparing import exact_score, map_error
from tests.networks import STD, classifier_of, functional_relu, linear, pooled, vgg_f
from tests.oracles import attribution as oracle


@pytest.mark.parametrize("make", [vgg_f, pooled, functional_relu])
@pytest.mark.parametrize("sign", ["abs", "positive", "negative"])
def test_equals_the_literal_formula(make, sign):
    classifier, images = classifier_of(make()), torch.rand(2, 3, 16, 16)
    got = saliency(classifier, images, Target.of([3, 1]), sign=sign)
    expected = [oracle.saliency(exact_score(classifier, c), x, sign) for x, c in zip(images, (3, 1), strict=True)]
    assert map_error(got.maps, torch.stack(expected)) < 1e-5


def test_of_a_linear_model_is_its_weight_for_any_image():
    module = linear()
    weight = module[1].weight[2].view(3, 16, 16) / torch.tensor(STD)[:, None, None]
    for images in (torch.rand(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)):
        got = saliency(classifier_of(module), images, Target.of(2))
        assert torch.allclose(got.maps[0], weight.abs().amax(0), rtol=1e-6)


def test_ten_crops_equal_the_literal_formula():
    classifier, images = classifier_of(vgg_f()), torch.rand(2, 3, 21, 24)
    got = saliency(classifier, images, Target.of([0, 4]), crops=10)
    expected = [
        oracle.ten_crop_saliency(exact_score(classifier, c), x, (16, 16)) for x, c in zip(images, (0, 4), strict=True)
    ]
    assert map_error(got.maps, torch.stack(expected)) < 1e-5


def test_ten_crops_leave_uncovered_pixels_at_zero_and_mirror_back():
    """Crops of half the side leave gaps; the map of a mirrored image is the mirrored map."""
    classifier, images = classifier_of(vgg_f()), torch.rand(1, 3, 40, 40)
    got = saliency(classifier, images, Target.of(1), crops=10).maps
    assert not got[0, 0, 16:24].any()
    mirrored = saliency(classifier, images.flip(-1), Target.of(1), crops=10).maps
    assert torch.allclose(mirrored.flip(-1), got, atol=1e-6)


def test_ten_crops_of_an_image_that_is_too_small_are_refused():
    with pytest.raises(OptionError, match="larger than the network's input"):
        saliency(classifier_of(vgg_f()), torch.rand(1, 3, 16, 16), Target.of(0), crops=10)


def test_ten_crop_view_has_room_around_the_crop():
    view = Preprocess((224, 224), 256).view((300, 451), "margin")
    assert view.crop == (0, 64, 256, 256)


def test_scores_and_units():
    classifier, images = classifier_of(vgg_f()), torch.rand(1, 3, 16, 16)
    score = exact_score(classifier, 2, "probability")
    got = saliency(classifier, images, Target.of(2, score="probability"))
    assert map_error(got.maps, oracle.saliency(score, images[0])[None]) < 1e-5
    assert float(got.score[0]) == pytest.approx(float(score(images.double()).detach()), abs=1e-6)
    unit = saliency(classifier, images, Target(unit=Unit("8", 3)))
    assert unit.maps.any()
    assert "zero everywhere" not in (unit.problems[0] or "")


def test_versus_is_the_difference_of_the_two_classes():
    classifier, images = classifier_of(linear()), torch.rand(1, 3, 16, 16)
    got = saliency(classifier, images, Target.of(0, versus=2))
    rows = classifier.module[1].weight[0] - classifier.module[1].weight[2]
    expected = (rows.view(3, 16, 16) / torch.tensor(STD)[:, None, None]).abs().amax(0)
    assert torch.allclose(got.maps[0], expected, rtol=1e-5)
