"""How like a photograph is an image, looked at without knowing what it shows: brightness, contrast, color, spectrum."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from phosphene.registry import register_metric

# Mean and standard deviation over 400 photographs of ImageNet at 224 x 224.
_PHOTOGRAPHS = {
    "brightness": (0.436, 0.130),
    "contrast": (0.212, 0.060),
    "colorfulness": (0.163, 0.091),
    "slope": (-2.57, 0.42),
}
# The spectrum's slope is over bands of half an octave from 4 cycles per image on, as many as the image has in full.
_LOWEST, _MOST_BANDS = 4.0, 16


def picture_statistics(images: Tensor) -> dict[str, Tensor]:
    """What is compared, (N,) each: brightness, contrast, colorfulness, and the slope of the spectrum.

    Brightness and contrast are mean and deviation of the mean over the channels; colorfulness is M of hasler2003, 0
    for images without three channels; the slope is that of log power over log frequency, about -2.6 in photographs:
    nearer to 0 an image is noisy, farther it is blurred.

    Args:
        images: (N, C, H, W) in [0, 1].

    Example:
        >>> statistics = picture_statistics(torch.full((1, 3, 32, 32), 0.25))
        >>> statistics["brightness"].item(), statistics["colorfulness"].item()
        (0.25, 0.0)

    References:
        hasler2003 for the colorfulness; field1987 for the spectrum.
    """
    gray = images.float().mean(dim=1)
    return {
        "brightness": gray.mean(dim=(1, 2)),
        "contrast": gray.flatten(1).std(dim=1),
        "colorfulness": _colorfulness(images.float()),
        "slope": _slope(gray),
    }


@register_metric(title="Distance to photographs", paper="field1987")
def photograph_distance(images: Tensor) -> Tensor:
    """How far an image's brightness, contrast, colorfulness and spectrum lie from those of photographs.

    The root mean square of the four in units of their deviation over photographs: about 1 for a photograph, whatever
    it shows. A blob on gray and noise are far off; but what is near need not show anything.

    Args:
        images: (N, C, H, W) in [0, 1]; best of about 224 x 224 pixels, as the photographs were.

    Returns:
        (N,) at least 0.

    Example:
        >>> blank, noise = torch.full((1, 3, 64, 64), 0.5), torch.rand(1, 3, 64, 64)
        >>> bool(photograph_distance(blank) > 1.5), bool(photograph_distance(noise) > 1.5)
        (True, True)

    References:
        field1987, hasler2003.
    """
    found = picture_statistics(images)
    off = [(found[name] - mean) / deviation for name, (mean, deviation) in _PHOTOGRAPHS.items()]
    return torch.stack(off).square().mean(dim=0).sqrt()


def _colorfulness(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return torch.zeros(len(images), device=images.device)
    red, green, blue = images.flatten(2).unbind(dim=1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue])  # (2, N, places)
    spread = opponents.var(dim=2).sum(dim=0).sqrt()
    return spread + 0.3 * opponents.mean(dim=2).square().sum(dim=0).sqrt()


def _slope(gray: Tensor) -> Tensor:
    """(N,) the slope of log power over log frequency, in bands of which each counts alike."""
    height, width = gray.shape[-2:]
    rows, columns = (torch.hann_window(side, periodic=False, device="cpu") for side in (height, width))
    window = rows[:, None] * columns
    centered = (gray - gray.mean(dim=(1, 2), keepdim=True)) * window.to(gray)
    power = torch.fft.rfft2(centered).abs().square().flatten(1)
    vertical = torch.fft.fftfreq(height, device="cpu") * height
    horizontal = torch.fft.rfftfreq(width, device="cpu") * width
    frequency = torch.hypot(vertical[:, None], horizontal).flatten()
    edges = [_LOWEST * 2 ** (index / 2) for index in range(_MOST_BANDS + 1)]
    levels, places = [], []
    for low, high in pairwise(edges):
        if high <= min(height, width) / 2:
            inside = ((frequency >= low) & (frequency < high)).to(gray.device)
            levels.append(power[:, inside].mean(dim=1).clamp(min=1e-12).log())
            places.append((low * high) ** 0.5)
    if len(places) < 2:
        return torch.zeros(len(gray), device=gray.device)
    at = torch.tensor(places, device=gray.device).log()
    at = at - at.mean()
    return (torch.stack(levels, dim=1) * at).sum(dim=1) / at.square().sum()
