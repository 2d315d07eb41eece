"""A network that is fast, and that a picture of one color can kill; and folders of such pictures."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from phosphene import Classifier, Preprocess

LABELS = ["cat", "dog", "fox", "hen", "owl"]
KILLER = (255, 0, 0)


class Mortal(nn.Module):
    """Dies of a picture that is all red: of a segmentation fault, or as if memory had run out."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, len(LABELS)),
        )

    def forward(self, images: Tensor) -> Tensor:
        red = (images[:, 0] > 0.99).all((1, 2)) & (images[:, 1:] < 0.01).flatten(1).all(1)
        if bool(red.any()):
            if self.signal_number == signal.SIGSEGV:
                ctypes.string_at(0)
            os.kill(os.getpid(), self.signal_number)
        return self.layers(images)


def make(signal_number: int = signal.SIGSEGV) -> Classifier:
    """The classifier, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Mortal(signal_number)
    return Classifier(network, Preprocess((32, 32)), LABELS, name="mortal")


def starved() -> Classifier:
    """Dies as what the system kills when memory runs out."""
    return make(signal.SIGKILL)


SPEC = f"{Path(__file__)}:make"


def picture(number: int, height: int = 40, width: int = 48) -> Image.Image:
    """A picture that no other number gives."""
    values = np.random.default_rng(number).integers(0, 255, (5, 6, 3), np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def photos(folder: Path, count: int, broken: tuple[int, ...] = (), killers: tuple[int, ...] = ()) -> Path:
    """A folder of pictures; some are texts, some kill who looks at them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        place = folder / f"{number:04d}.png"
        if number in broken:
            place.write_text("no picture")
        elif number in killers:
            Image.new("RGB", (40, 40), KILLER).save(place)
        else:
            picture(number).save(place)
    return folder
