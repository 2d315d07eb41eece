"""Slow literal versions, in float64, of what stergiou2021 and barron2019 define."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from scipy.integrate import quad
from torch import Tensor


def exemplar_weights(distances: Sequence[float], gamma: float = 1e-5) -> list[float]:
    """Equation 1 of stergiou2021 with gamma inside the reciprocal, for distances that do not overflow."""
    raised = [math.exp(1 / (d + gamma)) for d in distances]
    return [value / sum(raised) for value in raised]


def weighted_sum(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Equation 1: the image and the target activations of a facet."""
    total = torch.zeros_like(values[0], dtype=torch.float64)
    for value, weight in zip(values, weights, strict=True):
        total += value.double() * weight
    return total


def general_loss(m: float, b: float, r: float) -> float:
    """Equation 8 of barron2019, branch by branch."""
    x = m / r
    if b == 2:
        return 0.5 * x**2
    if b == 0:
        return math.log(0.5 * x**2 + 1)
    if b == -math.inf:
        return 1 - math.exp(-0.5 * x**2)
    return abs(b - 2) / b * ((x**2 / abs(b - 2) + 1) ** (b / 2) - 1)


def partition(b: float) -> float:
    """Z(b) of barron2019 by adaptive integration, piece by piece for the sake of the tails."""
    edges = [0.0, 1.0, 10.0, 1e2, 1e4]
    pieces = [
        quad(lambda x: math.exp(-general_loss(x, b, 1.0)), low, high, epsabs=1e-13, epsrel=1e-11, limit=400)[0]
        for low, high in pairwise(edges)
    ]
    # The tail in u = 1 / x, where it is bounded.
    tail = quad(lambda u: math.exp(-general_loss(1 / u, b, 1.0)) / u**2 if u > 0 else 0.0, 0, 1e-4, limit=400)[0]
    return 2 * (sum(pieces) + tail)


def negative_log_likelihood(m: float, b: float, r: float) -> float:
    """Equation 16 of barron2019."""
    return general_loss(m, b, r) + math.log(r) + math.log(partition(b))


def dot(activation: Tensor, target: Tensor, channels: Sequence[int]) -> float:
    """DM, equation 2: for one image, (k, P) against (k, P), summed over places."""
    total = 0.0
    for j in channels:
        products = [float(a) * float(t) for a, t in zip(activation[j], target[j], strict=True)]
        total += sum(products)
    return total


def mdist(activation: Tensor, target: Tensor, channels: Sequence[int]) -> float:
    """The distance of equation 3: for one image, (k, P) against (k, P); a Euclidean norm over places."""
    total = 0.0
    for j in channels:
        squares = [(float(a) - float(t)) ** 2 for a, t in zip(activation[j], target[j], strict=True)]
        total += math.sqrt(sum(squares))
    return total


def previous(activation: Tensor) -> float:
    """The last sum of equation 4: for one image (k, P), the L1 norm of each channel's map."""
    return sum(sum(abs(float(value)) for value in channel) for channel in activation)


def loss(ad: float, dm: float, decay: float, below: float) -> float:
    """Equation 4."""
    return ad - dm + decay * below


def schedule(start: float, end: float, t: int, steps: int) -> float:
    """Equation 5 with the `- end` that its numerator lacks as printed, t from 1 to steps."""
    return ((end - start) * t + start * steps - end) / (steps - 1)
