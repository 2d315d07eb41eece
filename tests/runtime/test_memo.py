"""What methods share gives the same bits as separate passes, and nothing is kept."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from skimage.data import chelsea, coffee
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.images import as_pictures
from phosphene.runtime import forward, head_features, input_gradient, layer_gradients, prepare
from phosphene.targets import Target
from phosphene.tasks.attributions import attribute, explain
from phosphene.zoo import load_classifier

METHODS = ["saliency", "grad_cam", "layer_cam", "cam", "eigen_cam", "input_x_gradient", "guided_grad_cam"]


class Counted(nn.Sequential):
    """Counts its runs."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).runs += 1
        return super().forward(x)


def _counted() -> Classifier:
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(Counted(*layers, nn.Linear(6, 3)))


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_maps_have_the_same_bits_as_alone(precision: Any) -> None:
    classifier, pictures = prepare(load_classifier("embedded"), precision=precision), [chelsea(), coffee()]
    together = explain(classifier, pictures, METHODS)
    plain = classifier.preprocessed(as_pictures(pictures), classifier.views(as_pictures(pictures)))
    target = Target.of(forward(classifier, plain).argmax(dim=1))
    for spec, found in together.items():
        alone = attribute(classifier, plain, target, spec)
        assert found.target == alone.target, spec
        assert torch.equal(found.maps, alone.maps), spec
        assert torch.equal(found.score, alone.score), spec


def test_one_pass_serves_all_that_look_at_the_last_layer() -> None:
    classifier, images = _counted(), torch.rand(2, 3, 16, 16)  # (of three one more would be run alone)
    prepare(classifier).remembering(images).default_layer  # noqa: B018  (known from here on)
    assert not prepare(classifier).remembering(images).looks.read_around(["3"])
    alone = head_features(classifier, images)
    Counted.runs = 0
    remembering = prepare(classifier).remembering(images)
    logits = forward(remembering, images)
    shared = head_features(remembering, images)
    passes = [
        layer_gradients(remembering, images, Target.of(label), ["3"], score=score)
        for label in (0, 1)
        for score in ("logit", "probability")
    ]
    for _ in range(2):
        layer_gradients(remembering, images, Target.of(0), ["0"])
        input_gradient(remembering, images, Target.of(0))
    assert Counted.runs == 1 + 1 + 1
    torch.testing.assert_close(logits, alone[0], rtol=1e-6, atol=1e-6)  # (recorded for a gradient: as written)
    assert torch.equal(shared[1], alone[1])
    assert not torch.equal(passes[0].gradients["3"], passes[2].gradients["3"])


def test_only_the_very_same_images_are_known_again() -> None:
    classifier, images = _counted(), torch.rand(2, 3, 16, 16)
    remembering = prepare(classifier).remembering(images)
    first = forward(remembering, images)
    assert not torch.equal(forward(remembering, images / 2), first)
    assert input_gradient(remembering, images[:1], Target.of(0))[1].shape[0] == 1
    Counted.runs = 0
    forward(remembering, images)
    assert Counted.runs == 0
    forward(prepare(classifier), images)
    assert Counted.runs == 1


def test_nothing_is_kept() -> None:
    classifier, images = _counted(), torch.rand(2, 3, 16, 16)
    remembering = prepare(classifier).remembering(images)
    kept = weakref.ref(input_gradient(remembering, images, Target.of(0))[1])
    logits = weakref.ref(forward(remembering, images))
    del remembering
    gc.collect()
    assert kept() is None
    assert logits() is None
