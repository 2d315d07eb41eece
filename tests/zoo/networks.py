"""The architectures people use, with random weights and few pixels, so that every check runs on every one of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import timm
import torch
from torch import nn
from torchvision import models
from torchvision.ops.misc import SqueezeExcitation

from phosphene.classifier import Classifier, Preprocess
from tests.networks import MEAN, STD

SIZE = 64
CLASSES = 10

# (builder of 64 pixels and ten classes, name of the published network for load_classifier)
_BUILDERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "VGG-16": (lambda: models.vgg16(num_classes=CLASSES, init_weights=False), "torchvision:vgg16"),
    "ResNet-18": (lambda: models.resnet18(num_classes=CLASSES), "torchvision:resnet18"),
    "DenseNet-121": (lambda: models.densenet121(num_classes=CLASSES), "torchvision:densenet121"),
    "MobileNetV3": (lambda: models.mobilenet_v3_small(num_classes=CLASSES), "torchvision:mobilenet_v3_small"),
    "SqueezeNet 1.1": (lambda: models.squeezenet1_1(num_classes=CLASSES), "torchvision:squeezenet1_1"),
    "EfficientNet-B0": (lambda: models.efficientnet_b0(num_classes=CLASSES), "torchvision:efficientnet_b0"),
    "ConvNeXt-Tiny": (lambda: models.convnext_tiny(num_classes=CLASSES), "torchvision:convnext_tiny"),
    "ViT-Tiny": (lambda: _small("vit_tiny_patch16_224"), "timm:vit_tiny_patch16_224"),
    "Swin-Tiny": (lambda: _small("swin_tiny_patch4_window7_224"), "timm:swin_tiny_patch4_window7_224"),
}
SPECS = {name: spec for name, (_, spec) in _BUILDERS.items()}

# The networks of the papers, and the sides of the pictures that they are shown: some have no places left of 64 pixels.
_PAPERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-50": (lambda: models.resnet50(num_classes=CLASSES), 64),
    "Wide-ResNet-101-2": (lambda: models.wide_resnet101_2(num_classes=CLASSES), 64),
    "ResNeXt-101": (lambda: models.resnext101_32x8d(num_classes=CLASSES), 64),
    "AlexNet": (lambda: models.alexnet(num_classes=CLASSES), 128),
    "GoogLeNet": (lambda: models.googlenet(num_classes=CLASSES, init_weights=False), 64),
    "Inception-v3": (lambda: models.inception_v3(num_classes=CLASSES, init_weights=False), 128),
}
OF_THE_PAPERS = tuple(_PAPERS)


def _small(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, img_size=SIZE, num_classes=CLASSES, **options)  # type: ignore[no-any-return]


@lru_cache(maxsize=1)  # (all of them with what is prepared of them are 19 GB)
def classifier(name: str) -> Classifier:
    """One network, the same for its tests that follow each other; no test may change it (the contract checks that)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # biases, embeddings
        build, side = _PAPERS[name] if name in _PAPERS else (_BUILDERS[name][0], SIZE)
        module = alive(build(), side)
    return Classifier(module, Preprocess((side, side), None, MEAN, STD), name=name)


def alive(module: nn.Module, side: int = SIZE) -> nn.Module:
    """Random weights under which signals neither die nor explode: He's scale, norms with statistics of their own."""
    generator = torch.Generator().manual_seed(7)
    gates: list[nn.Conv2d] = []
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.Conv2d | nn.Linear):
                fan_in = child.weight[0].numel()
                child.weight.copy_(torch.randn(child.weight.shape, generator=generator) * (2.0 / fan_in) ** 0.5)
            if isinstance(child, SqueezeExcitation):
                gates.append(child.fc2)
            if isinstance(child, nn.BatchNorm2d):
                child.momentum = None  # one batch gives the statistics
        for (
            gate
        ) in gates:  # a gate wide open for one image and shut for the next makes rounding of the order of the signal
            gate.weight.mul_(0.1)
        module.eval()
        for child in module.modules():
            child.train(isinstance(child, nn.BatchNorm2d))  # no dropout, and no block left out
        pixels = torch.rand(32, 3, side, side, generator=generator)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        contrast = torch.linspace(0, 1.2, len(pixels)).view(
            -1, 1, 1, 1
        )  # also what integrated gradients and noise show
        module((pixels - mean) / std * contrast)
    return module.eval()
