"""Distance to photographs: real photographs are near, blanks, noise and washed-out pictures are not."""

from __future__ import annotations

import math

import pytest
import torch
from skimage import data
from torch import Tensor
from torch.nn import functional as F

from phosphene.metrics.photographs import photograph_distance, picture_statistics


def photograph(name: str) -> Tensor:
    picture = torch.from_numpy(getattr(data, name)().copy()).movedim(-1, 0)[None].float() / 255
    return F.interpolate(picture, size=(224, 224), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "astronaut"])
def test_photographs_are_near_and_what_is_made_of_them_is_not(name: str) -> None:
    picture = photograph(name)
    near = float(photograph_distance(picture))
    noisy = (picture + 0.3 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    washed = 0.5 + 0.1 * (picture - 0.5)
    assert near < 2
    assert float(photograph_distance(washed)) > near
    assert float(photograph_distance(noisy)) > near


def test_the_slope_is_that_of_the_spectrum_an_image_was_made_with() -> None:
    size, found = 128, []
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)).clamp(min=1 / size)
    noise = torch.fft.rfft2(torch.randn(32, 1, size, size, generator=torch.Generator().manual_seed(1)))
    for power in (0.0, 1.0, 1.5):
        image = torch.fft.irfft2(noise * frequency**-power, s=(size, size)).expand(-1, 3, -1, -1)
        found.append(float(picture_statistics(image)["slope"].mean()))
    assert found == pytest.approx([0.0, -2.0, -3.0], abs=0.15)


def test_brightness_contrast_and_color_are_those_of_the_pixels() -> None:
    image = torch.zeros(1, 3, 4, 4)
    image[:, 0, :, :2] = 1.0  # half red, half black
    found = {name: float(values) for name, values in picture_statistics(image).items()}
    assert found["brightness"] == pytest.approx(1 / 6)
    assert found["contrast"] == pytest.approx(math.sqrt(8 / 15 * 2) / 2 / 3 * math.sqrt(1), rel=1e-3)
    spread = math.sqrt(16 / 15 * (0.25 + 0.0625))
    assert found["colorfulness"] == pytest.approx(spread + 0.3 * math.hypot(0.5, 0.25), rel=1e-3)


def test_images_of_one_channel_have_no_color() -> None:
    assert float(picture_statistics(torch.rand(1, 1, 32, 32))["colorfulness"]) == 0
