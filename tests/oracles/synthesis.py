"""Slow literal versions, in float64, of what the papers on synthesised images define."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def total_variation(image: Tensor) -> float:
    """Equation 1 of addepalli2020 for one image (C, H, W), pixel by pixel."""
    channels, height, width = image.shape
    total = 0.0
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                if i + 1 < height:
                    total += abs(float(image[c, i + 1, j]) - float(image[c, i, j]))
                if j + 1 < width:
                    total += abs(float(image[c, i, j + 1]) - float(image[c, i, j]))
    return total


def disc(center: tuple[int, int], radius: float, size: tuple[int, int]) -> Tensor:
    """circ(x, y, r) of addepalli2020, pixel by pixel."""
    mask = torch.zeros(size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            if math.sqrt((i - center[0]) ** 2 + (j - center[1]) ** 2) <= radius:
                mask[i, j] = 1.0
    return mask


def strongest_disc(values: Tensor, radius: int) -> tuple[int, int]:
    """Equation 5: every place at which the disc lies inside the frame is tried; the first of the best wins."""
    height, width = values.shape
    best, place = -math.inf, (-1, -1)
    for i in range(radius, height - radius):
        for j in range(radius, width - radius):
            total = float((values.double() * disc((i, j), radius, (height, width))).sum())
            if total > best + 1e-9:
                best, place = total, (i, j)
    return place


def cumulative(gradients: list[Tensor], late: float, turn: int) -> list[Tensor]:
    """Equations 2 and 3 in the reading of a running mean, for one image: the values before each step."""
    steps = len(gradients)
    values = [torch.full_like(gradients[0], 0.1)]
    for i, gradient in enumerate(gradients):
        early = late * steps / turn if steps >= turn else late
        share = early if i < turn else late
        norm = math.sqrt(sum(float(value) ** 2 for value in gradient.flatten()))
        values.append((values[-1] * (i + 1) + share * gradient / norm) / (i + 2))
    return values


def weight(reading: str, previous: Tensor, current: Tensor, mask: Tensor, limit: float) -> Tensor:
    """Equation 4 in reading A (previous and current are magnitudes) or B, mean 1 inside the mask, cut at `limit`."""
    product = previous * current
    if reading == "B":
        product = torch.where(product > 0, product, torch.zeros_like(product))
    inside = [float(p) for p, m in zip(product.flatten(), mask.expand_as(product).flatten(), strict=True) if m > 0]
    return (product / (sum(inside) / len(inside))).clamp(max=limit)


def precondition(gradient: Tensor, power: float, color_covariance: Tensor | None) -> Tensor:
    """The spectrum of one gradient (C, H, W) times 1 / f^power (mean 1 over the half spectrum), colors mixed."""
    channels, height, width = gradient.shape

    def scale(u: int, v: int) -> float:
        fu = (u if u <= (height - 1) // 2 else u - height) / height
        fv = (v if v <= (width - 1) // 2 else v - width) / width
        return max(math.hypot(fu, fv), 1 / max(height, width)) ** -power

    mean = sum(scale(u, v) for u in range(height) for v in range(width // 2 + 1)) / (height * (width // 2 + 1))
    smooth = torch.zeros_like(gradient, dtype=torch.float64)
    for c in range(channels):
        spectrum = torch.fft.fft2(gradient[c].double())
        for u in range(height):
            for v in range(width):
                spectrum[u, v] *= scale(u, v) / mean
        smooth[c] = torch.fft.ifft2(spectrum).real
    if color_covariance is None:
        return smooth
    mixed = torch.zeros_like(smooth)
    for i in range(channels):
        for j in range(channels):
            mixed[i] += color_covariance[i, j].double() * smooth[j]
    return mixed


def affine(image: Tensor, degrees: float, zoom: float, shift: tuple[float, float]) -> Tensor:
    """One image (C, H, W) rotated, enlarged and shifted about its centre, border repeated, bilinear, pixel by pixel."""
    channels, height, width = image.shape
    out = torch.zeros_like(image, dtype=torch.float64)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for i in range(height):
        for j in range(width):
            y, x = i + 0.5 - height / 2, j + 0.5 - width / 2
            source_x = (cosine * x + sine * y) / zoom - shift[1] + width / 2 - 0.5
            source_y = (-sine * x + cosine * y) / zoom - shift[0] + height / 2 - 0.5
            source_x, source_y = min(max(source_x, 0), width - 1), min(max(source_y, 0), height - 1)
            left, top = math.floor(source_x), math.floor(source_y)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            dx, dy = source_x - left, source_y - top
            for c in range(channels):
                upper = (1 - dx) * float(image[c, top, left]) + dx * float(image[c, top, right])
                lower = (1 - dx) * float(image[c, bottom, left]) + dx * float(image[c, bottom, right])
                out[c, i, j] = (1 - dy) * upper + dy * lower
    return out


def norm_distance(output: list[list[list[float]]], bias: list[float], weight: list[float]) -> float:
    """The distance of one image's norm output (k, h, w) to the statistics that its bias and weight stand for."""
    floor, far = 1e-3 * max(abs(value) for value in weight), 0.0
    for channel, mean, deviation in zip(output, bias, weight, strict=True):
        deviation = max(abs(deviation), floor)
        values = [value for row in channel for value in row]
        own = sum(values) / len(values)
        variance = sum((value - own) ** 2 for value in values) / len(values)
        far += min(25.0, ((own - mean) / deviation) ** 2) + (math.sqrt(variance) / deviation - 1) ** 2
    return far / len(output)
