"""Factories as a user would write them, for `tests.zoo.models:NAME`."""

from __future__ import annotations

import torch
from torch import nn

from phosphene.classifier import Classifier, Preprocess
from tests.networks import pooled

a_number = 3
a_module = pooled()


def network() -> nn.Module:
    return pooled()


def small() -> nn.Sequential:
    """What the files of other runtimes hold."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).eval()


def exported() -> nn.Module:
    """It has no eval()."""
    return torch.export.export(small(), (torch.rand(1, 3, 16, 16),)).module()


def ten_classes() -> nn.Module:
    return pooled(classes=10)


def four_channels() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def classifier() -> Classifier:
    return Classifier(pooled(), Preprocess((16, 16), 18, (0.5,) * 3, (0.25,) * 3), list("abcde"))


def broken() -> nn.Module:
    raise FileNotFoundError("no such table: weights.db")


def a_string() -> str:
    return "network"
