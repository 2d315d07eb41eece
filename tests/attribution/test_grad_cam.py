from __future__ import annotations

import pytest
import torch

from phosphene.attribution.cam import cam
from phosphene.attribution.grad_cam import grad_cam
from phosphene.errors import ModelError, NotFoundError
from phosphene.targets import Target, Unit
from tests.comparing import map_error
from tests.networks import classifier_of, functional_relu, pooled, vgg_f
from tests.oracles import attribution as oracle


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("make", "layer"), [(vgg_f, 3), (vgg_f, 0), (pooled, 5), (pooled, 1)])
def test_equals_the_literal_formula(make, layer, relu):
    """Layers before an in-place ReLU included: what the layer returned counts, not what became of it."""
    classifier, images = classifier_of(make()), torch.rand(2, 3, 16, 16)
    got = grad_cam(classifier, images, Target.of([3, 1]), layer=str(layer), relu=relu)
    module = make().double()
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1)
        for v in (classifier.preprocess.mean, classifier.preprocess.std)
    )
    expected = [
        oracle.grad_cam(
            lambda x: module[: layer + 1]((x - mean) / std),
            lambda a, c=c: module[layer + 1 :](a.clone())[0, c],
            image,
            relu,
        )
        for image, c in zip(images, (3, 1), strict=True)
    ]
    assert map_error(got.maps, torch.stack(expected)) < 1e-5
    assert got.layer == str(layer)


def test_is_cam_up_to_the_number_of_places_where_cam_exists():
    """Selvaraju et al., section 3: with global average pooling the weights are those of CAM, divided by h w."""
    classifier, images = classifier_of(pooled()), torch.rand(2, 3, 16, 16)
    one = cam(classifier, images, Target.of(2)).maps
    two = grad_cam(classifier, images, Target.of(2), layer="5").maps
    assert torch.allclose(one, two * one[0].numel(), atol=1e-5)


def test_default_layer_is_the_last_with_places_and_is_reported():
    classifier = classifier_of(vgg_f())
    got = grad_cam(classifier, torch.rand(1, 3, 16, 16), Target.of(2))
    assert got.layer == "5"
    assert got.maps.shape == (1, 4, 4)
    assert (got.offset, got.stride) == ((2.0, 2.0), (4.0, 4.0))


def test_layer_as_module_and_wrong_layers():
    classifier, images = classifier_of(functional_relu()), torch.rand(1, 3, 16, 16)
    named = grad_cam(classifier, images, Target.of(2), layer="two")
    given = grad_cam(classifier, images, Target.of(2), layer=classifier.module.two)
    assert torch.equal(named.maps, given.maps)
    with pytest.raises(NotFoundError, match="three"):
        grad_cam(classifier, images, Target.of(2), layer="thre")
    with pytest.raises(ModelError, match="no places"):
        grad_cam(classifier, images, Target.of(2), layer="fc")


def test_of_a_unit_and_of_a_layer_the_target_does_not_depend_on():
    classifier, images = classifier_of(vgg_f()), torch.rand(1, 3, 16, 16)
    unit = grad_cam(classifier, images, Target(unit=Unit("3", 2, (1, 1))), layer="0")
    assert unit.maps.any()
    above = grad_cam(classifier, images, Target(unit=Unit("0", 2)), layer="3")
    assert "zero everywhere at layer 3" in above.problems[0]
