"""A network that takes any size: what is said of a picture does not hang on the sizes of those before it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from phosphene import attribute
from phosphene.classifier import Classifier, Preprocess
from phosphene.runtime import prepare


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
        assert (got.offset, got.stride) == (fresh.offset, fresh.stride)
        torch.testing.assert_close(got.maps, fresh.maps, rtol=0, atol=1e-6)


def test_a_size_of_its_own_and_pictures_of_another() -> None:
    classifier = Classifier(Center().eval(), Preprocess((32, 32)))
    attribute(classifier, torch.rand(1, 3, 32, 32), 1, "grad_cam")
    found = attribute(classifier, torch.rand(1, 3, 64, 64), 1, "grad_cam")
    assert (found.offset, found.stride) == ((18.0, 18.0), (4.0, 4.0))


def test_sizes_between_two_that_are_alike_are_looked_at_no_further() -> None:
    classifier = Classifier.of(Stack().eval())
    for side in (256, 192, 320, 224, 200, 240):
        attribute(classifier, torch.rand(1, 3, side, side), 1, "grad_cam")
    looked = prepare(classifier).network._surveys
    assert set(looked) == {(256, 256), (192, 192), (320, 320)}
    for side in range(400, 480):
        prepare(classifier).network.looks((side, 1))
    assert len(prepare(classifier).network._looks) <= 64
