"""What the numbers are that the ascent moves: pixels, or a spectrum of decorrelated colors; and gradients between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from phosphene.types import Size

# Square root of the covariance of colors in natural images, as published with lucid (olah2017), scaled so that the
# longest column has length 1. It is the one thing here that was learned from photographs.
_COLOR_ROOT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


class Parametrization(Protocol):
    """A way between parameters and images."""

    def encode(self, images: Tensor) -> Tensor:
        """Parameters (N, ...) that give these images (N, C, H, W) in [0, 1]."""

    def decode(self, parameters: Tensor) -> Tensor:
        """Images (N, C, H, W), differentiable."""


@dataclass(frozen=True)
class Pixel:
    """The pixels themselves, in [0, 1]; the only one on which masks and maps of step sizes can work."""

    def encode(self, images: Tensor) -> Tensor:
        """The images."""
        return images

    def decode(self, parameters: Tensor) -> Tensor:
        """The parameters."""
        return parameters


@dataclass(frozen=True)
class Enlarged:
    """A small picture that the network sees in a larger size, for a network that takes no other.

    Args:
        size: (height, width) that the network sees.
    """

    size: Size

    def encode(self, images: Tensor) -> Tensor:
        """The small images."""
        return images

    def decode(self, parameters: Tensor) -> Tensor:
        """The images in the network's size."""
        return F.interpolate(parameters, size=self.size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Fourier:
    """The spectrum of a logit-valued image, low frequencies scaled up, in decorrelated colors (olah2017).

    ``image = sigmoid(color_root . irfft2(parameters / max(f, 1 / side)))``. Pixels never leave [0, 1].

    Args:
        size: (height, width) of the images.
        color: whether three channels are treated as correlated colors.
    """

    size: Size
    color: bool = True

    def encode(self, images: Tensor) -> Tensor:
        """The spectrum (N, C, H, W/2 + 1, 2) of images kept a little away from 0 and 1."""
        values = images.clamp(0.02, 0.98).logit()
        if self.color and values.shape[1] == 3:
            values = mix_colors(values, torch.linalg.inv(color_root()))
        spectrum = torch.fft.rfft2(values, norm="ortho") / spectrum_scale(self.size, 1.0).to(values)
        return torch.view_as_real(spectrum).contiguous()

    def decode(self, parameters: Tensor) -> Tensor:
        """The images of a spectrum."""
        spectrum = torch.view_as_complex(parameters) * spectrum_scale(self.size, 1.0).to(parameters)
        values = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        if self.color and values.shape[1] == 3:
            values = mix_colors(values, color_root())
        return torch.sigmoid(values)


def precondition(gradient: Tensor, power: float = 1.0, color: float = 1.0, lowest: float = 1.0) -> Tensor:
    """The gradient (N, C, H, W) with the spectrum and the color statistics of natural images.

    Its spectrum is multiplied by 1 / f^power, its colors by the covariance of natural colors; both are symmetric
    and positive, so the result still points uphill. This is gradient ascent as seen from a decorrelated space
    (olah2017), done to the pixels' gradient, so that masks and maps of step sizes still work on pixels.

    Args:
        gradient: any number of channels; colors are mixed for three only.
        power: 0 leaves the spectrum as it is.
        color: power of the color covariance; 0 leaves colors as they are, 1/2 lets saturated ones come sooner than 1.
        lowest: cycles per image below which all frequencies count alike.

    Example:
        >>> gradient = torch.rand(1, 3, 8, 8)
        >>> torch.allclose(precondition(gradient, power=0.0, color=0.0), gradient, atol=1e-6)
        True
    """
    if power != 0:
        size = (int(gradient.shape[-2]), int(gradient.shape[-1]))
        spectrum = torch.fft.rfft2(gradient) * spectrum_scale(size, power, lowest).to(gradient)
        gradient = torch.fft.irfft2(spectrum, s=size)
    if color > 0 and gradient.shape[1] == 3:
        gradient = mix_colors(gradient, color_covariance(color))
    return gradient


def spectrum_scale(size: Size, power: float, lowest: float = 1.0) -> Tensor:
    """(H, W/2 + 1): 1 / f^power, f the frequency in cycles per pixel, at least `lowest` cycles per image; mean 1."""
    height, width = size
    frequency = torch.hypot(
        torch.fft.fftfreq(height, device="cpu")[:, None], torch.fft.rfftfreq(width, device="cpu")[None, :]
    )
    scale = frequency.clamp(min=lowest / max(height, width)) ** -power
    scale /= scale.mean()
    return scale


def color_root() -> Tensor:
    """(3, 3) square root of the color covariance, its longest column of length 1."""
    root = torch.tensor(_COLOR_ROOT, device="cpu")
    root /= root.norm(dim=0).max()
    return root


def color_covariance(power: float = 1.0) -> Tensor:
    """(3, 3) symmetric: the color covariance, its largest eigenvalue about 1, raised to a power."""
    root = color_root().double()
    values, vectors = torch.linalg.eigh(root @ root.T)
    raised: Tensor = vectors * values**power @ vectors.T
    return raised.float()


def mix_colors(values: Tensor, matrix: Tensor) -> Tensor:
    """(N, 3, H, W) with each pixel's color multiplied by a matrix."""
    return torch.einsum("ij,njhw->nihw", matrix.to(values), values)
