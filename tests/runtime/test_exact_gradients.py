"""Exact gradients are those of the network as written, however many threads there are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from skimage.data import astronaut, chelsea, coffee
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.images import as_pictures, to_tensor
from phosphene.runtime import input_gradient, rule_gradient
from phosphene.runtime.passes import joined
from phosphene.types import Target
from phosphene.zoo import load_classifier


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_gradients_do_not_cross_a_kink(threads: int) -> None:
    classifier = load_classifier("embedded")
    pictures = [to_tensor(as_pictures(make())[0]) for make in (astronaut, chelsea, coffee)]
    crops = [picture[:, y : y + 224, x : x + 224] for picture in pictures for y in (0, 70) for x in (0, 90, 180)]
    for crop in crops:
        images = crop[None].clone().requires_grad_()
        logits = classifier.logits(images)
        best = int(logits.argmax())
        (expected,) = torch.autograd.grad(logits[0, best], images)
        _, got = input_gradient(classifier, crop[None], Target.of(best))
        assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max()), threads


def test_a_rule_adds_up_in_the_order_of_the_network_as_written() -> None:
    """Three layers of VGG's kind: sums of 2304 terms, which in another order end 1e-6 away from the library's."""
    torch.manual_seed(0)
    layers = [part for width in (3, 256, 256) for part in (nn.Conv2d(width, 256, 3, padding=1), nn.ReLU())]
    network, images = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.rand(2, 3, 16, 16)

    def deconvolve(gradient: Tensor, _through: object) -> Tensor:
        return gradient.clamp(min=0)

    _, got = rule_gradient(Classifier(network), images, Target.of(1), deconvolve)
    for relu in (part for part in network if isinstance(part, nn.ReLU)):
        relu.register_full_backward_hook(lambda _module, _inputs, outputs: (outputs[0].clamp(min=0),))
    (expected,) = torch.autograd.grad(network(images.requires_grad_())[:, 1].sum(), images)
    assert float((got - expected).abs().max()) <= 1e-7 * float(expected.abs().max())


def test_batches_are_joined_whatever_their_layout():
    parts = [torch.rand(2, 3, 4, 5), torch.rand(1, 3, 4, 5).to(memory_format=torch.channels_last)]
    whole = joined([parts[0], parts[1].bfloat16()])
    assert whole.is_contiguous()
    torch.testing.assert_close(whole, torch.cat([parts[0], parts[1].bfloat16().float()]), rtol=0, atol=0)
