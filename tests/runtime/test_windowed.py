"""Windowed inference gives what the network gives on each covered copy, and computes less."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import skimage.data
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.attribution.occlusion import occlusion
from phosphene.classifier import Classifier
from phosphene.images import preprocess
from phosphene.runtime import masked_scores, prepare, windowed
from phosphene.targets import Target, Unit
from phosphene.zoo import load_classifier
from phosphene.zoo.efficientnet_lite import SamePadConv2d


class Residual(nn.Module):
    """A block that adds in place, pools, joins two branches and reads constants."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1, groups=3), nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.average, self.end = nn.AvgPool2d(2, 2), nn.Linear(12, 4)
        self.register_buffer("shift", torch.full((1, 6, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norm(self.stem(x))))
        y = self.first(x)
        y += x
        y = F.relu(y) * 0.5 + self.shift
        z = torch.cat([F.hardswish(self.second(y)), x.sigmoid()], dim=1)
        return self.end(self.average(z).mean((2, 3)))


class Gated(nn.Module):
    """Squeeze and excitation: a global gate on every place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.end = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x * self.gate(F.adaptive_avg_pool2d(x, 1)).sigmoid()
        return {"logits": self.end(x).flatten(2).mean(2)}  # type: ignore[return-value]


class InPlace(nn.Module):
    """Changes in place what it reads again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = x.relu_()
        return (x + y).mean((2, 3))


class Unreadable(nn.Module):
    """Its code depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x if x.sum() > 0 else -x).mean((2, 3))


def _same_padded() -> nn.Module:
    return nn.Sequential(
        *(SamePadConv2d(3, 6, 3, 2, bias=False), nn.BatchNorm2d(6), nn.ReLU6()),
        *(SamePadConv2d(6, 6, 5, 2, groups=6), nn.BatchNorm2d(6), nn.Hardswish(), nn.Dropout(0.3)),
        *(nn.Conv2d(6, 5, (1, 3), (1, 2)), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "same_padded": _same_padded,
    "residual": Residual,
    "gated": Gated,
    "strides_past": lambda: nn.Sequential(nn.Conv2d(3, 4, 1, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten(2), _Mean()),
    "strides_far": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 3, 11), nn.Flatten(2), _Mean()),
    "ceil_pool": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, ceil_mode=True), nn.Flatten(2), _Mean()),
    "local": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Flatten(2), _Mean()),
    "flat": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
}


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1)


def _classifier(name: str, images: Tensor) -> Classifier:
    torch.manual_seed(1)
    network = NETWORKS[name]().eval()
    network(images)  # lazy layers take their shape
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return Classifier(network)


def _boxes(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Windows of two sizes, at every place of a coarse grid, some cut off at the edges."""
    corners = itertools.product(range(0, height, 3), range(0, width, 4))
    return [
        (y, x, min(y + size, height), min(x + size + 1, width))
        for (y, x), size in zip(corners, itertools.cycle((4, 4, 7)), strict=False)
    ]


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("sides", [(33, 40), (24, 25)])
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_each_covered_copy(name: str, sides: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *sides)
    classifier, boxes, fill = _classifier(name, images), _boxes(*sides), torch.tensor([0.2, 0.9, 0.5]).view(3, 1, 1)
    found = masked_scores(classifier, images, Target.of([1, 2]), boxes, fill, score="logit", batch_size=7)
    assert found.note is None
    for row, (image, label) in enumerate(zip(images, (1, 2), strict=True)):
        for column, (y0, x0, y1, x1) in enumerate(boxes):
            copy = image.clone()
            copy[:, y0:y1, x0:x1] = fill
            with torch.no_grad():
                wanted = classifier.logits(copy[None])[0, label]
            assert abs(float(found.covered[row, column] - wanted)) < 1e-5, boxes[column]
    singly = masked_scores(classifier, images, Target.of([1, 2]), boxes, fill, score="logit", batch_size=1)
    assert float((singly.covered - found.covered).abs().max()) < 1e-5


def test_only_windows_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = windowed.run_valid

    def counted(module: nn.Module, patches: Tensor) -> Tensor:
        seen.append(patches[0, 0].numel())
        return original(module, patches)

    monkeypatch.setattr(windowed, "run_valid", counted)
    images = torch.rand(1, 3, 64, 64)
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    masked_scores(Classifier(network.eval()), images, Target.of(0), [(9, 9, 13, 13)], torch.zeros(3, 1, 1))
    assert seen[-3:] == [8 * 8, 10 * 10, 12 * 12]  # (after one window that was tried out)


@pytest.mark.parametrize(
    ("network", "target", "reason"),
    [
        (Unreadable(), Target.of(0), "cannot be read"),
        (InPlace(), Target.of(0), "in place"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), Target(unit=Unit("0", 1)), "unit"),
    ],
)
def test_what_cannot_be_windowed_is_computed_plainly_and_said(network: nn.Module, target: Target, reason: str) -> None:
    images = torch.rand(1, 3, 12, 12)
    result = occlusion(Classifier(network.eval()), images, target, window=(4, 4), stride=(4, 4))
    assert len(result.notes) == 1
    assert reason in result.notes[0]
    assert bool(torch.isfinite(result.maps).all())


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_embedded_network(precision: Any) -> None:
    classifier = prepare(load_classifier("embedded"), precision=precision)
    picture = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1) / 255
    image = preprocess(picture, classifier.views([picture])[0])[None]
    boxes = [(0, 0, 32, 32), (96, 80, 128, 112), (208, 208, 224, 224), (101, 3, 133, 35)]
    plain, fast = (
        masked_scores(classifier, image, Target.of(285), boxes, classifier.mean_image, windowed=way)
        for way in (False, True)
    )
    assert torch.allclose(plain.covered, fast.covered, atol=1e-5 if precision == "exact" else 1e-3)
    assert float(plain.covered.std()) > 0
