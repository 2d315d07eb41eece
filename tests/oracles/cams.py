"""The CAM family, place by place in float64 loops. A (k, h, w) are a layer's activations of one image, `head` the rest
of the network from (1, k, h, w) to one score."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Head = Callable[[Tensor], Tensor]


def gradient(head: Head, a: Tensor) -> Tensor:
    a = a.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(head(a[None]), a)
    return found


def _weighted(a: Tensor, weights: list[float]) -> Tensor:
    out = torch.zeros(a.shape[1:], dtype=torch.float64)
    for k, weight in enumerate(weights):
        out += weight * a[k]
    return out


def grad_cam(head: Head, a: Tensor) -> Tensor:
    g = gradient(head, a)
    return _weighted(a, [float(g[k].mean()) for k in range(len(a))])


def grad_cam_pp(head: Head, a: Tensor, epsilon: float = 0.0) -> Tensor:
    """Equations 19 and 6; a zero denominator or gradient gives no weight."""
    g = gradient(head, a)
    weights = []
    for k in range(len(a)):
        weight = 0.0
        total = float(a[k].sum())
        for value in g[k].flatten().tolist():
            denominator = 2 * value**2 + total * value**3 + epsilon
            if denominator != 0:
                weight += value**2 / denominator * max(value, 0.0)
        weights.append(weight)
    return _weighted(a, weights)


def hires_cam(head: Head, a: Tensor) -> Tensor:
    g = gradient(head, a)
    out = torch.zeros(a.shape[1:], dtype=torch.float64)
    for y in range(a.shape[1]):
        for x in range(a.shape[2]):
            out[y, x] = sum(float(g[k, y, x] * a[k, y, x]) for k in range(len(a)))
    return out


def layer_cam(head: Head, a: Tensor) -> Tensor:
    g = gradient(head, a)
    out = torch.zeros(a.shape[1:], dtype=torch.float64)
    for y in range(a.shape[1]):
        for x in range(a.shape[2]):
            out[y, x] = sum(max(float(g[k, y, x]), 0.0) * float(a[k, y, x]) for k in range(len(a)))
    return out


def eigen_cam(_head: Head, a: Tensor, center: bool = False) -> Tensor:
    """A v_1 by power iteration on A'A, on the side of the places of large activations."""
    rows = a.flatten(1).T
    if center:
        rows = rows - rows.mean(0)
    v = torch.ones(rows.shape[1], dtype=torch.float64)
    for _ in range(20000):
        before = v
        v = rows.T @ (rows @ v)
        v = v / v.norm()
        if float((v - before).abs().max()) < 1e-14:
            break
    out = rows @ v
    if float((out * a.flatten(1).square().sum(0).sqrt()).sum()) < 0:
        out = -out
    return out.view(a.shape[1:])


def score_cam(score: Head, image: Tensor, a: Tensor, mean: Tensor) -> Tensor:
    """Softmax over channels of the score behind each channel's mask; masks enlarged bilinearly, then stretched."""
    values = []
    for k in range(len(a)):
        mask = F.interpolate(a[k][None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
        low, high = float(mask.min()), float(mask.max())
        mask = (mask - low) / (high - low) if high > low else torch.zeros_like(mask)
        values.append(float(score((image.double() * mask + mean * (1 - mask))[None]).detach()))
    largest = max(values)
    total = sum(math.exp(value - largest) for value in values)
    return _weighted(a, [math.exp(value - largest) / total for value in values])


def ablation_cam(head: Head, a: Tensor) -> Tensor:
    clean, weights = float(head(a[None].clone()).detach()), []
    for k in range(len(a)):
        without = a.clone()
        without[k] = 0
        weights.append((clean - float(head(without[None]).detach())) / abs(clean))
    return _weighted(a, weights)


def path_shares(score: Head, image: Tensor, base: Tensor, steps: int = 4000) -> Tensor:
    """(C, H, W) integrated gradients of each value, by the midpoint rule, many steps."""
    image, base = image.double(), base.double()
    total = torch.zeros_like(image)
    for step in range(steps):
        total += gradient(lambda x: score(x), base + (step + 0.5) / steps * (image - base))
    return (image - base) * total / steps


def integrated_gradients(score: Head, image: Tensor, base: Tensor, steps: int = 4000) -> Tensor:
    """(H, W) the sum of the shares over the channels."""
    return path_shares(score, image, base, steps).sum(0)
