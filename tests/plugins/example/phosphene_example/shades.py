"""A source: pictures of one gray each, ``shades:3`` for three from black to white."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from phosphene.sources import Entry, Source, register_source


@register_source("shades", claims=lambda spec: False, looks_like="shades:COUNT")
class Shades(Source):
    """Pictures of 16 x 16 pixels of one gray each."""

    def __init__(self, spec: str) -> None:
        self.count = int(spec)

    def entries(self) -> Iterator[Entry]:
        for number in range(self.count):
            level = number / max(1, self.count - 1)
            yield Entry(f"{number}.png", f"shades:{self.count}/{number}.png", partial(_gray, level))


def _gray(level: float, **_reading: Any) -> Tensor:
    return torch.full((3, 16, 16), level)
