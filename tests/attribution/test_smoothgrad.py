from __future__ import annotations

import math

import pytest
import torch

from phosphene.attribution.occlusion import occlusion
from phosphene.attribution.saliency import saliency
from phosphene.attribution.smoothgrad import smoothgrad
from phosphene.errors import NotFoundError, OptionError
from phosphene.pipeline import attribute
from phosphene.pipeline.explain import needed_view
from phosphene.registry import format_spec, parse_spec
from phosphene.targets import Target
from tests.comparing import map_error
from tests.networks import classifier_of, linear, vgg_f


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("statistic", ["mean", "mean_square", "variance"])
def test_is_the_statistic_of_noisy_maps(statistic):
    classifier, images = classifier_of(vgg_f()), torch.rand(2, 3, 16, 16)
    images[1] *= 0.5
    got = smoothgrad(
        classifier, images, Target.of([1, 3]), samples=6, noise=0.2, statistic=statistic, generator=seeded()
    )
    generator = seeded()
    maps = []
    torch.randint(2**62, (), generator=generator)  # the clean map's seed
    for _ in range(6):
        drawn = torch.randn(3, 16, 16, generator=generator)
        torch.randint(2**62, (), generator=generator)
        noisy = torch.stack([image + 0.2 * float(image.max() - image.min()) * drawn for image in images])
        maps.append(saliency(classifier, noisy, Target.of([1, 3])).maps.double())
    stacked = torch.stack(maps)
    expected = {
        "mean": stacked.mean(0),
        "mean_square": stacked.square().mean(0),
        "variance": stacked.var(0, unbiased=False),
    }[statistic]
    assert map_error(got.maps, expected) < 1e-4
    assert not got.signed
    assert torch.equal(got.score, saliency(classifier, images, Target.of([1, 3])).score)


def test_the_noise_is_what_it_says():
    """A linear network makes the wrapped input x gradient linear in the noise: mean 0, known variance."""
    net, images = linear(), torch.rand(1, 3, 16, 16)
    classifier = classifier_of(net)
    got = smoothgrad(
        classifier, images, Target.of(1), inner="input_x_gradient", samples=400, noise=0.3, statistic="variance"
    )
    weight = net[1].weight[1].detach().view(3, 16, 16) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    expected = (0.3 * float(images.max() - images.min())) ** 2 * weight.square().sum(0)
    ratio = got.maps[0] / expected
    assert float(ratio.mean()) == pytest.approx(1, abs=0.03)
    assert float(ratio.std()) == pytest.approx(math.sqrt(2 / 400), rel=0.3)


def test_wraps_any_method_with_its_grid_sign_and_evidence():
    classifier, images = classifier_of(vgg_f()), torch.rand(2, 3, 16, 16)
    coarse = attribute(classifier, images, Target.of(1), "smoothgrad(grad_cam:layer=4):samples=3")
    assert coarse.maps.shape == (2, 8, 8)
    assert (coarse.layer, coarse.stride, coarse.signed, coarse.display) == ("4", (2.0, 2.0), True, "positive")
    assert coarse.spec == "smoothgrad(grad_cam:layer=4):samples=3"
    covered = attribute(
        classifier, images, Target.of(1), "smoothgrad(occlusion:window=4,stride=4):samples=2,noise=1e-9"
    )
    plain = occlusion(classifier, images, Target.of(1), window=(4, 4), stride=(4, 4))
    assert map_error(covered.maps, plain.heat) < 1e-3
    saliency_map = attribute(classifier, images, Target.of(1), "smoothgrad:samples=2")
    assert (saliency_map.signed, saliency_map.display) == (False, "positive")
    random = [attribute(classifier, images, Target.of(1), "smoothgrad(rise:masks=5):samples=2", seed=1) for _ in "ab"]
    assert torch.equal(random[0].maps, random[1].maps)


def test_nested_spec_and_the_view_it_needs():
    text = "smoothgrad(saliency:crops=10):samples=8"
    spec = parse_spec(text)
    assert format_spec(spec) == text
    assert needed_view(spec, "center") == "margin"
    assert needed_view(parse_spec("smoothgrad(grad_cam)"), "whole") == "whole"


def test_misuse():
    classifier, images = classifier_of(vgg_f()), torch.rand(1, 3, 16, 16)
    with pytest.raises(OptionError, match="wraps a method itself"):
        smoothgrad(classifier, images, Target.of(1), inner="smoothgrad(saliency)")
    with pytest.raises(OptionError, match="samples=1"):
        smoothgrad(classifier, images, Target.of(1), samples=1, statistic="variance")
    with pytest.raises(OptionError, match="noise=0"):
        smoothgrad(classifier, images, Target.of(1), noise=0)
    with pytest.raises(NotFoundError, match="saliency"):
        smoothgrad(classifier, images, Target.of(1), inner="salency")
