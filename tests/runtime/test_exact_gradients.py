"""Exact gradients are those of the network as written, however many threads there are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from skimage.data import astronaut, chelsea, coffee

from phosphene.images import as_pictures, to_tensor
from phosphene.runtime import input_gradient
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
