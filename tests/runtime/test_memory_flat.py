"""A long loop of explanations holds no more memory than a short one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from phosphene import explain
from phosphene.classifier import Classifier, Preprocess


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_thousand_explanations_in_a_loop() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)
    )
    classifier, image = Classifier(network.eval(), Preprocess((32, 32))), torch.rand(3, 40, 48)
    before = 0.0
    for index in range(1000):
        explain(classifier, image, method="saliency" if index % 2 else "grad_cam:layer=2")
        if index == 100:
            before = _resident_mib()
    # One kept map or graph an image would be 4 KiB to 60 KiB each: 3.6 MiB and more.
    assert _resident_mib() - before < 3
