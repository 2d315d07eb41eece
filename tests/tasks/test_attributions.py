"""What explain gives for several methods, slices of results, and attribute on tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from phosphene import Attributions, Classifier, Preprocess, attribute, capture, contrast, draw, explain
from phosphene.errors import ModelError, NotFoundError, OptionError
from phosphene.registry import parse_spec
from phosphene.targets import Target, Unit
from phosphene.types import Attribution
from tests.networks import classifier_of, pooled

SPECS = ["saliency:sign=abs", "cam", "saliency", "saliency:sign=positive"]


@pytest.fixture
def found() -> Attributions:
    result = explain(classifier_of(pooled()), torch.rand(3, 3, 16, 16), SPECS, target=[0, 1, 2])
    assert isinstance(result, Attributions)
    return result


def test_results_are_found_by_position_by_the_given_text_and_by_spec(found):
    assert len(found) == 4
    assert [key for key, _ in found.items()] == SPECS
    assert found["saliency:sign=abs"] is found[0]
    assert found["saliency"] is found[2]
    assert found[np.int64(-1)] is found["saliency:sign=positive"]
    assert found[parse_spec("saliency:sign=positive")] is found[3]
    assert found[parse_spec("cam")] is found["cam"]
    assert list(found) == list(found.results)
    assert "cam" in found
    assert "rise" not in found
    with pytest.raises(NotFoundError, match="no attribution 'salience'; did you mean 'saliency"):
        found["salience"]
    with pytest.raises(IndexError):
        found[4]


def test_methods_can_be_sliced(found):
    assert [one.spec for one in found[1:3]] == ["cam", "saliency"]
    assert found[1:3].given == ("cam", "saliency")


def test_images_can_be_sliced(found):
    whole = found["cam"]
    last = whole[1:]
    assert (len(last), last.target.classes) == (2, (1, 2))
    assert torch.equal(last.maps, whole.maps[1:])
    assert torch.equal(last.score, whole.score[1:])
    assert (len(last.pictures), len(last.views), len(last.problems)) == (2, 2, 2)
    assert last.checks == {name: values[1:] for name, values in whole.checks.items()}
    assert whole[::2].target.classes == (0, 2)
    assert torch.equal(whole[-1].maps, last[1].maps)
    assert [one.target.classes for one in whole] == [(0,), (1,), (2,)]
    for nothing in (slice(3, 5), slice(None, None, -1), 3, -4):
        with pytest.raises(IndexError, match="image"):
            whole[nothing]


def test_a_unit_has_no_classes_to_slice():
    result = explain(classifier_of(pooled()), torch.rand(3, 3, 16, 16), "saliency", target=Unit("0", 1))
    assert result[1:].target == result.target


def test_a_contrast_can_be_sliced():
    whole = contrast(classifier_of(pooled()), torch.rand(3, 3, 16, 16), [0, 1, 2], 3, "cam")
    part = whole[1:]
    assert (len(part), part.labels) == (2, whole.labels[1:])
    assert torch.equal(part.difference.maps, whole.difference.maps[1:])
    assert len(whole[0]) == 1


def test_several_methods_are_drawn_as_a_row_for_each_picture(found):
    both, alone = draw(found[:2]), draw(found[:1])
    assert both.height == alone.height > 3 * 256  # three pictures, which are enlarged
    assert both.width - alone.width == 256 + 8  # a picture more and the gap beside it
    assert draw(found["cam"][0]).size == (256, 256)
    assert draw(found["cam"][0], side=100).size == (96, 96)
    assert isinstance(found._repr_png_(), bytes)


def test_upsampled_has_a_value_for_each_pixel(found):
    coarse = explain(classifier_of(pooled()), torch.rand(3, 3, 16, 16), "occlusion:window=4,stride=4")
    assert coarse.maps.shape == (3, 4, 4)
    assert torch.equal(coarse.upsampled(), coarse.evidence)
    shallow = explain(classifier_of(pooled()), torch.rand(3, 3, 16, 16), "grad_cam")
    up = shallow.upsampled()
    assert up.shape == (3, 16, 16)
    assert up.amax() <= shallow.maps.amax()
    assert torch.equal(found["saliency"].upsampled(), found["saliency"].maps)


def test_attribute_takes_tensors_as_they_are():
    net, images = pooled(), torch.randn(2, 3, 16, 16)
    bare = Classifier.of(net, ["a", "b", "c", "d", "e"])
    result = attribute(bare, images, "b", "input_x_gradient")
    leaf = images.clone().requires_grad_()
    net(leaf)[:, 1].sum().backward()
    torch.testing.assert_close(result.maps, (images * leaf.grad).sum(dim=1), rtol=1e-4, atol=1e-6)
    best = attribute(bare, images, None, "saliency")
    assert best.target.classes == tuple(net(images).argmax(dim=1).tolist())
    assert attribute(bare, images, [0, 2], "cam").target.classes == (0, 2)
    assert torch.equal(
        attribute(bare, images, Target.of(1), "saliency").maps, attribute(bare, images, 1, "saliency").maps
    )
    with pytest.raises(OptionError, match="expected a tensor"):
        attribute(bare, images[0], 1, "saliency")
    with pytest.raises(ModelError, match=r"needs a torch\.nn\.Module"):
        Classifier.of(lambda images: images)


def test_the_baseline_of_a_bare_network_is_zero():
    net, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.randn(1, 3, 2, 2)
    maps = attribute(Classifier.of(net), images, 1, "integrated_gradients:baseline=mean,steps=4").maps
    assert torch.allclose(maps, (images * net[1].weight[1].view(3, 2, 2)).sum(dim=1), atol=1e-5)


def test_attribute_and_explain_agree_on_what_the_network_sees():
    classifier = Classifier(pooled(), Preprocess((16, 16), mean=(0.5,) * 3, std=(0.2,) * 3))
    images = torch.rand(2, 3, 16, 16)
    got = attribute(classifier, images, 1, "grad_cam")
    assert isinstance(got, Attribution)
    assert torch.equal(got.maps, explain(classifier, images, "grad_cam", target=1).maps)


def test_a_method_that_is_named_twice_is_asked_once():
    found = explain(classifier_of(pooled()), np.zeros((16, 16, 3), np.uint8), ["saliency", "grad_cam", "saliency"])
    assert list(found.keys()) == ["saliency", "grad_cam"]


def test_capture_of_a_classifier_says_what_to_give():
    says = r"Classifier is no nn.Module; of a classifier give prepare\(classifier\)"
    with pytest.raises(OptionError, match=says), capture(classifier_of(pooled()), ["0"]):
        pass
