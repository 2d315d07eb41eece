"""Photographs that come with scikit-image and scikit-learn, cut into as many different crops as are asked for."""

from __future__ import annotations

import skimage.data
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F


def photographs(count: int, side: int = 224) -> Tensor:
    """(count, 3, side, side) in [0, 1]: crops of five photographs, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    sources = [skimage.data.chelsea(), skimage.data.coffee(), skimage.data.astronaut()]
    sources += [load_sample_image("flower.jpg"), load_sample_image("china.jpg")]
    return torch.cat([_crop(torch.tensor(sources[i % 5]), side, generator) for i in range(count)])


def _crop(picture: Tensor, side: int, generator: torch.Generator) -> Tensor:
    pixels = picture.permute(2, 0, 1)[None] / 255
    height, width = pixels.shape[-2:]
    size = int(min(height, width) * (0.6 + 0.4 * float(torch.rand((), generator=generator))))
    top = int(torch.randint(0, height - size + 1, (), generator=generator))
    left = int(torch.randint(0, width - size + 1, (), generator=generator))
    crop = pixels[..., top : top + size, left : left + size]
    return F.interpolate(crop, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
