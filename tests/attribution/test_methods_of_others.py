"""What a method that somebody else registers may give back, and what it is told where that is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from phosphene import contrast, explain, register_attribution
from phosphene.attribution.result import attribution
from phosphene.errors import OptionError
from phosphene.registry import unregister
from tests.networks import classifier_of, pooled

Given = Callable[[Tensor, Tensor], object]


@pytest.fixture
def method() -> Iterator[Callable[[Given], str]]:
    """Registers a method that gives what a function makes of the images and their scores."""

    def register(given: Given) -> str:
        @register_attribution(title="Mine", family="gradient", paper="me2026", name="mine")
        def mine(classifier, images, target, *, power=2, about="none", sides=(1, 2), smooth=False):  # type: ignore[no-untyped-def]
            assert (type(power), type(about), sides[1], type(smooth)) == (int, str, 2, bool)
            score = images.flatten(1).sum(1)
            found = given(images, score)
            return attribution(found[0], images, target, found[1]) if isinstance(found, tuple) else found

        return "mine"

    yield register
    unregister("attribution", "mine")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda images, score: images.mean(1), "method 'mine' returned a Tensor; let it return .*attribution"),
        (
            lambda images, score: (images.mean(1).numpy(), score),
            r"takes maps \(N, h, w\) as a tensor.* came as ndarray",
        ),
        (lambda images, score: (images, score), r"maps \(N, h, w\) .* came of shape \(2, 3, 16, 16\)"),
        (lambda images, score: (images.mean(1)[:1], score[:1]), r"of 2 images takes maps .* of shape \(1, 16, 16\)"),
        (lambda images, score: (images.mean(1), score.sum()), r"takes scores \(N,\) .* of shape \(\)"),
        (lambda images, score: (images.mean(1), None), r"takes scores \(N,\) .* came as NoneType"),
    ],
)
def test_what_is_no_attribution_of_the_images_is_refused(method, given: Given, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        explain(classifier_of(pooled()), torch.rand(2, 3, 16, 16), method(given), target=1)


def test_options_without_annotation_have_the_type_of_their_default(method) -> None:
    name = method(lambda images, score: (images.mean(1), score))
    images = torch.rand(2, 3, 16, 16)
    found = explain(classifier_of(pooled()), images, f"{name}:power=4,about=x,sides=5x2,smooth=true", target=1)
    torch.testing.assert_close(found.maps, images.mean(1))
    with pytest.raises(OptionError, match="mine:power: 'x' is not a whole number"):
        explain(classifier_of(pooled()), images, f"{name}:power=x", target=1)


def test_a_method_that_does_not_look_at_the_class_tells_no_class_from_another(method) -> None:
    images = torch.rand(2, 3, 16, 16)
    for blind in (method(lambda images, score: (images.mean(1), score)), "eigen_cam:layer=0"):
        with pytest.raises(OptionError, match=r"gives the same map for both classes .* use grad_cam"):
            contrast(classifier_of(pooled()), images, 1, 2, blind)
    assert contrast(classifier_of(pooled()), images, 1, 2, "saliency").difference.maps.any()


def test_what_cannot_be_drawn_or_called_is_not_registered() -> None:
    with pytest.raises(OptionError, match="'mine': display='nope' is none of signed, positive, range, percentile"):
        register_attribution(title="", family="", paper="", name="mine", display="nope")(print)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="attribution without a name"):
        register_attribution(title="", family="", paper="")(lambda: None)
