"""Tiny networks whose answers are known in closed form, or that have one awkward property each."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.classifier import Classifier, Preprocess

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def classifier_of(module: nn.Module, size: tuple[int, int] | None = (16, 16), **facts: object) -> Classifier:
    """A classifier around a module that normalises as real ones do."""
    return Classifier(module, Preprocess(size, None, MEAN, STD), **facts)  # type: ignore[arg-type]


def linear(size: tuple[int, int] = (16, 16), classes: int = 3) -> nn.Module:
    """S = W x + b: every gradient is W, whatever the image."""
    return _seeded(nn.Sequential(nn.Flatten(), nn.Linear(3 * size[0] * size[1], classes)))


def vgg_f(size: tuple[int, int] = (16, 16), classes: int = 5) -> nn.Module:
    """Plain ReLU, max pooling and fully connected layers, in the manner of VGG-F."""
    cells = (size[0] // 4) * (size[1] // 4)
    return _seeded(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * cells, 16),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(16, classes),
        )
    )


def pooled(classes: int = 5) -> nn.Module:
    """Convolutions, ReLU, max pooling, then global average pooling and one linear layer: every method applies."""
    return _seeded(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8, classes),
        )
    )


def smooth(classes: int = 5) -> nn.Module:
    """As `pooled`, without a kink: what differs in the last bits stays near, however many steps are taken."""
    return _seeded(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.GELU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
    )


class ClassConvolution(nn.Module):
    """Ends like SqueezeNet: a 1 x 1 convolution to the classes, a functional ReLU, global pooling."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 6, 3, padding=1)
        self.to_classes = nn.Conv2d(6, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.features(x)), training=self.training)
        return F.adaptive_avg_pool2d(F.relu(self.to_classes(x)), 1).flatten(1)


class FunctionalReLU(nn.Module):
    """ReLU in every spelling but nn.ReLU alone: F.relu, torch.relu, relu_ in place, and one module used twice."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.two = nn.Conv2d(6, 6, 3, padding=1)
        self.three = nn.Conv2d(6, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.one(x))
        x = F.relu(self.two(x))
        x = torch.relu(self.three(F.max_pool2d(self.relu(x - 0.1), 2)))
        x = x.sub(0.01).relu_()
        return self.fc(x.mean((2, 3)))


class DictOutput(nn.Module):
    """Returns a dict, as segmentation and transformer libraries do."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"features": x, "logits": self.module(x)}


class NotANumber(nn.Module):
    """NaN for bright images, fine for dark ones: the square root of what may be negative."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        dark = torch.sqrt(-x.mean(dim=(1, 2, 3), keepdim=True))
        return self.fc((self.conv(x) * dark).mean((2, 3)))


class Constant(nn.Module):
    """Says the same whatever it sees, though its graph depends on the image."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (F.relu(self.conv(x)) * 0.0).mean((2, 3))


class RedDetector(nn.Module):
    """S_1 = sum over pixels of relu(r - g - 0.5), averaged over cells of `cell` pixels; S_0 = 0.

    In closed form: the gradient is (1, -1, 0) where the picture is red and 0 elsewhere.
    """

    def __init__(self, cell: int = 1) -> None:
        super().__init__()
        self.difference = nn.Conv2d(3, 1, 1)
        self.cells = nn.Conv2d(1, 1, cell, cell, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1, 2)
        with torch.no_grad():
            self.difference.weight.copy_(torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1))
            self.difference.bias.fill_(-0.5)
            self.cells.weight.fill_(1.0 / cell**2)
            self.fc.weight.copy_(torch.tensor([[0.0], [1.0]]))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.cells(F.relu(self.difference(x)))).flatten(1))


def one_channel(size: tuple[int, int] = (16, 16), classes: int = 2) -> Classifier:
    """A grey-scale network."""
    module = _seeded(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    )
    return Classifier(module, Preprocess(size, None, (0.5,), (0.25,)), ["no", "yes"][:classes])


def class_convolution() -> nn.Module:
    return _seeded(ClassConvolution())


def functional_relu() -> nn.Module:
    return _seeded(FunctionalReLU())


def _seeded(module: nn.Module) -> nn.Module:
    """Fixed weights, and batch norm with statistics of its own, in eval mode."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2.0 / fan_in) ** 0.5)
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                child.weight.copy_(1.0 + 0.1 * torch.rand(child.weight.shape, generator=generator))
                child.running_mean.copy_(0.1 * torch.randn(child.running_mean.shape, generator=generator))
                child.running_var.copy_(0.5 + torch.rand(child.running_var.shape, generator=generator))
    return module.eval()
