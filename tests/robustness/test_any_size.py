"""A network that takes any size: what is said of a picture does not hang on the sizes of those before it."""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from phosphene import attribute
from phosphene.classifier import Classifier, Preprocess
from phosphene.runtime import prepare
from phosphene.types import Attribution


class Stack(nn.Module):
    """Of stride 32; `written` code asks for the size, and is no graph."""

    def __init__(self, *, written: bool = False) -> None:
        super().__init__()
        widths = (3, 8, 8, 8, 8, 8)
        blocks = (nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in itertools.pairwise(widths))
        self.stages, self.fc, self.written = nn.Sequential(*blocks), nn.Linear(8, 4), written

    def forward(self, x: Tensor) -> Tensor:
        if self.written and x.shape[-1] > 100_000:
            x = x[..., :100_000]
        return self.fc(self.stages(x).mean((2, 3)))


class Center(nn.Module):
    """Looks at 32 x 32 pixels in the middle; of pictures of that size at all."""

    def __init__(self, *, written: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.fc, self.written = nn.Linear(8, 4), written

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if not self.written or height > 32:
            top, left = (height - 32) // 2, (width - 32) // 2
            x = x[..., top : top + 32, left : left + 32]
        return self.fc(self.features(x).mean((2, 3)))


SIZES = [(32, 32), (128, 128), (64, 64), (33, 96), (160, 40), (128, 128), (32, 32)]


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("kind", [Stack, Center])
@pytest.mark.parametrize("method", ["grad_cam", "layer_saliency", "eigen_cam"])
def test_the_sizes_before_change_nothing(kind: type[nn.Module], written: bool, method: str) -> None:
    network = kind(written=written).eval()  # type: ignore[call-arg]
    used = Classifier.of(network)
    for size in [size for size in SIZES if kind is Stack or min(size) >= 32]:
        images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(sum(size)))
        got, fresh = (attribute(classifier, images, 1, method) for classifier in (used, Classifier.of(network)))
        assert (got.layer, got.maps.shape) == (fresh.layer, fresh.maps.shape)
        assert (got.offset, got.stride, got.notes) == (fresh.offset, fresh.stride, fresh.notes)
        torch.testing.assert_close(got.maps, fresh.maps, rtol=0, atol=1e-6)


def test_a_size_of_its_own_and_pictures_of_another() -> None:
    classifier = Classifier(Center().eval(), Preprocess((32, 32)))
    attribute(classifier, torch.rand(1, 3, 32, 32), 1, "grad_cam")
    found = attribute(classifier, torch.rand(1, 3, 64, 64), 1, "grad_cam")
    assert (found.offset, found.stride) == ((18.0, 18.0), (4.0, 4.0))


def test_few_sizes_are_looked_at() -> None:
    classifier = Classifier.of(Stack().eval())
    for side in (224, 225, 240, 255, 1000, 900):
        attribute(classifier, torch.rand(1, 3, side, side // 2), 1, "grad_cam")
    network = prepare(classifier).network
    assert set(network._surveys) == {(224, 112), (448, 448)}
    for side in range(64, 900):
        network.looks((side, 64))
    assert len(network._looks) < 30
    assert len(network._sizes) <= 256


class Patches(nn.Module):
    """Takes multiples of 14 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.fc = nn.Conv2d(3, 8, 14, 14), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 14 or x.shape[-2] % 14:
            raise ValueError("give multiples of 14")
        return self.fc(self.patches(x).relu().mean((2, 3)))


def test_where_it_does_not_run_in_a_size_near_it_is_looked_at_in_the_very_size() -> None:
    classifier = Classifier.of(Patches().eval())
    for size in ((70, 98), (98, 98)):
        assert attribute(classifier, torch.rand(1, 3, *size), 1, "grad_cam").maps.shape[1:] == (size[0] // 14, 7)
        assert prepare(classifier).network.looks(size).size == size


@pytest.mark.parametrize("method", ["grad_cam", "layer_saliency", "cam"])
def test_threads_with_other_sizes(method: str) -> None:
    """Each has the map of a classifier of its own, and none waits for another for good."""
    network = Stack().eval()
    shared = Classifier.of(network)
    batches = [
        torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(side)) for side in (32, 64, 96, 160)
    ]
    expected = [attribute(Classifier.of(network), images, 1, method) for images in batches]

    def asked(number: int) -> Attribution:
        return attribute(shared, batches[number % 4], 1, method)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(5) as pool:
            found = list(pool.map(asked, range(60), timeout=120))
    finally:
        sys.setswitchinterval(before)
    for number, got in enumerate(found):
        want = expected[number % 4]
        assert (got.layer, got.offset, got.stride) == (want.layer, want.offset, want.stride)
        torch.testing.assert_close(got.maps, want.maps, rtol=0, atol=1e-6)


def test_a_linear_head_is_looked_for_once() -> None:
    classifier, images = Classifier.of(Stack().eval()), torch.rand(1, 3, 96, 96)
    attribute(classifier, images, 1, "cam")
    before = len(prepare(classifier).network._graphs)
    for side in (96, 64, 128):
        attribute(classifier, torch.rand(1, 3, side, side), 1, "cam")
    assert len(prepare(classifier).network._graphs) == before
    assert prepare(classifier, precision="fast").network is prepare(classifier).network
