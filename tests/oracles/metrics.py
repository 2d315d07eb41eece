"""The metrics once more, slowly and literally from their papers' formulas, in float64 and plain loops."""

from __future__ import annotations

import math

import numpy as np


def ranks(values):
    """Ranks from 1; equal values share the mean of the ranks they take up."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def spearman(first, second):
    a, b = ranks(first.ravel().tolist()), ranks(second.ravel().tolist())
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    spread_a = sum((x - mean_a) ** 2 for x in a)
    spread_b = sum((y - mean_b) ** 2 for y in b)
    return covariance / math.sqrt(spread_a * spread_b)


def ssim(first, second):
    """Wang et al. 2004, equation 13 averaged over the windows that fit; maps stretched to [0, 1]."""
    a, b = ((m.astype(float) - m.min()) / (m.max() - m.min()) for m in (first, second))
    window = np.array([[math.exp(-(y * y + x * x) / (2 * 1.5**2)) for x in range(-5, 6)] for y in range(-5, 6)])
    window /= window.sum()
    found = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            sp, sq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            spq = (window * (p - mp) * (q - mq)).sum()
            found.append(
                (2 * mp * mq + 1e-4) * (2 * spq + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (sp + sq + 9e-4)),
            )
    return sum(found) / len(found)


def pixel_curve(start, end, heat, score, step):
    """RISE's loop: pixels move from `start` to `end` one by one, the probability read after every `step` of them."""
    height, width = heat.shape
    places = sorted((-heat[y, x], y, x) for y in range(height) for x in range(width))
    picture, values, fractions = start.copy(), [score(start)], [0.0]
    for count, (_, y, x) in enumerate(places, start=1):
        picture[:, y, x] = end[:, y, x]
        if count % step == 0 or count == len(places):
            values.append(score(picture))
            fractions.append(count / len(places))
    area = 0.0
    for i in range(1, len(values)):
        area += (fractions[i] - fractions[i - 1]) * (values[i] + values[i - 1]) / 2
    return values, area


def average_drop(clean, explained):
    return sum(max(0.0, y - o) / y for y, o in zip(clean, explained, strict=True)) / len(clean)


def average_increase(clean, explained):
    return sum(1 for y, o in zip(clean, explained, strict=True) if o > y) / len(clean)


def evidence_share(values, mask):
    inside = whole = 0.0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            evidence = max(0.0, float(values[y, x]))
            whole += evidence
            inside += evidence if mask[y, x] else 0.0
    return inside / whole
