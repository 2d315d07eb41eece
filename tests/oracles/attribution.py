"""The attribution methods, one formula at a time, in float64 loops; every image alone, nothing shared with the package.

`scores` is a function from normalised images (1, C, H, W) float64 to the score that the paper differentiates or
watches, a 0-dimensional tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Scores = Callable[[Tensor], Tensor]


def gradient(score: Scores, image: Tensor) -> Tensor:
    """(C, H, W): dS/dI by autograd in float64."""
    image = image.double().clone().requires_grad_()
    (found,) = torch.autograd.grad(score(image[None]), image)
    return found


def saliency(score: Scores, image: Tensor, sign: str = "abs") -> Tensor:
    """Simonyan et al. 2014, 3.1: M_ij = max_c |w_h(i,j,c)|; by sign: of the positive or the negated negative part."""
    w = gradient(score, image)
    channels, height, width = w.shape
    out = torch.zeros(height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            values = [float(w[c, i, j]) for c in range(channels)]
            if sign == "abs":
                out[i, j] = max(abs(value) for value in values)
            elif sign == "positive":
                out[i, j] = max(max(value, 0.0) for value in values)
            else:
                out[i, j] = max(max(-value, 0.0) for value in values)
    return out


def ten_crop_saliency(score: Scores, image: Tensor, size: tuple[int, int]) -> Tensor:
    """3.1 on ten sub-images: corners, centre and mirror images; each pixel's mean over the crops that show it."""
    _, height, width = image.shape
    h, w = size
    total = torch.zeros(height, width, dtype=torch.float64)
    count = torch.zeros(height, width, dtype=torch.float64)
    for top, left in [
        (0, 0),
        (0, width - w),
        (height - h, 0),
        (height - h, width - w),
        ((height - h) // 2, (width - w) // 2),
    ]:
        crop = image[:, top : top + h, left : left + w]
        straight = saliency(score, crop)
        mirrored = saliency(score, torch.flip(crop, [2]))
        for i in range(h):
            for j in range(w):
                total[top + i, left + j] += straight[i, j] + mirrored[i, w - 1 - j]
                count[top + i, left + j] += 2
    return torch.where(count > 0, total / count.clamp(min=1), 0.0)


def input_x_gradient(score: Scores, image: Tensor, baseline: Tensor) -> Tensor:
    """sum_c (I_c - baseline_c) dS/dI_c."""
    w = gradient(score, image)
    out = torch.zeros(image.shape[1:], dtype=torch.float64)
    for c in range(image.shape[0]):
        out += (image[c].double() - baseline[c].double()) * w[c]
    return out


@torch.no_grad()
def occlusion(
    score: Scores,
    image: Tensor,
    window: tuple[int, int],
    stride: tuple[int, int],
    fill: Tensor,
    tops: Sequence[int] | None = None,
    lefts: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """(score per position of the covered window's corner, mean drop of the score per pixel over windows on it)."""
    _, height, width = image.shape
    tops = list(range(0, height, stride[0])) if tops is None else tops
    lefts = list(range(0, width, stride[1])) if lefts is None else lefts
    clean = score(image.double()[None])
    values = torch.zeros(len(tops), len(lefts), dtype=torch.float64)
    drops = torch.zeros(height, width, dtype=torch.float64)
    count = torch.zeros(height, width, dtype=torch.float64)
    for row, y in enumerate(tops):
        for column, x in enumerate(lefts):
            covered = image.double().clone()
            for c in range(image.shape[0]):
                covered[c, y : min(y + window[0], height), x : min(x + window[1], width)] = float(fill[c])
            value = score(covered[None])
            values[row, column] = value
            drops[y : y + window[0], x : x + window[1]] += clean - value
            count[y : y + window[0], x : x + window[1]] += 1
    return values, torch.where(count > 0, drops / count.clamp(min=1), 0.0)


def cam(features: Tensor, weight: Tensor) -> Tensor:
    """Zhou et al. 2016: M_c(x, y) = sum_k w_k^c f_k(x, y), for the last features (k, h, w) and one row of weights."""
    out = torch.zeros(features.shape[1:], dtype=torch.float64)
    for k in range(features.shape[0]):
        out += weight[k].double() * features[k].double()
    return out


def grad_cam(lower: Callable[[Tensor], Tensor], upper: Scores, image: Tensor, relu: bool = False) -> Tensor:
    """Selvaraju et al. 2017, equations 1 and 2: a_k = 1/Z sum_ij dy/dA_ij^k; L = ReLU(sum_k a_k A^k)."""
    activation = lower(image.double()[None]).detach().requires_grad_()
    (slope,) = torch.autograd.grad(upper(activation), activation)
    _, channels, height, width = activation.shape
    out = torch.zeros(height, width, dtype=torch.float64)
    for k in range(channels):
        alpha = sum(float(slope[0, k, i, j]) for i in range(height) for j in range(width)) / (height * width)
        out += alpha * activation[0, k].detach()
    return out.clamp(min=0) if relu else out


@torch.no_grad()
def rise(score: Scores, image: Tensor, masks: Tensor, fill: Tensor, keep: float) -> Tensor:
    """Petsiuk et al. 2018, equation 6: S(p) = 1 / (E[M] N) sum_i f(I * M_i) M_i(p); what is masked shows the fill."""
    out = torch.zeros(image.shape[1:], dtype=torch.float64)
    for mask in masks.double():
        seen = image.double() * mask + fill.double() * (1 - mask)
        out += score(seen[None]) * mask
    return out / (keep * len(masks))
