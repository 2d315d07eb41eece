"""DeconvNet and guided back-propagation written out layer by layer, in float64, without autograd.

A network is a list of steps ("conv", weight, bias) | ("relu", upper) | ("pool", size) | ("linear", weight, bias)
| ("flatten",); pooling is max-pooling with its switches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def forward(steps: list[Any], image: Tensor) -> list[Tensor]:
    """Every value on the way up, the image first."""
    values = [image.double()]
    for kind, *facts in steps:
        x = values[-1]
        if kind == "conv":
            x = F.conv2d(x, facts[0].double(), facts[1].double(), padding=1)
        elif kind == "linear":
            x = x @ facts[0].double().T + facts[1].double()
        elif kind == "relu":
            x = torch.where(x > 0, x, 0.0)
            x = torch.where(x < facts[0], x, facts[0])
        elif kind == "pool":
            x = F.max_pool2d(x, facts[0])
        elif kind == "flatten":
            x = x.flatten(1)
        values.append(x)
    return values


def back(steps: list[Any], values: list[Tensor], start: Tensor, rule: str) -> Tensor:
    """The start (a value of the shape of values[len(steps)]) brought back to the image."""
    r = start.double()
    for (kind, *facts), x in zip(reversed(steps), reversed(values[: len(steps)]), strict=True):
        if kind == "conv":
            r = F.conv_transpose2d(r, facts[0].double(), padding=1)
        elif kind == "linear":
            r = r @ facts[0].double()
        elif kind == "relu":
            passed = (x > 0) & (x < facts[0])
            r = r * {"deconvnet": r > 0, "guided": (r > 0) & passed, "gradient": passed}[rule]
        elif kind == "pool":
            r = _unpool(x, r, facts[0])
        elif kind == "flatten":
            r = r.view_as(x)
    return r


def _unpool(x: Tensor, r: Tensor, size: int) -> Tensor:
    """Each value goes to the place its maximum came from."""
    result = torch.zeros_like(x)
    for n, c, i, j in torch.cartesian_prod(*(torch.arange(side) for side in r.shape)).tolist():
        window = x[n, c, i * size : (i + 1) * size, j * size : (j + 1) * size]
        y, z = divmod(int(window.argmax()), window.shape[1])
        result[n, c, i * size + y, j * size + z] += r[n, c, i, j]
    return result
