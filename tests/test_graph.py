"""What is read off a network's graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.graph import residual_branches, trace

Forward = Callable[[nn.Module, Tensor], Tensor]


class _Block(nn.Module):
    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.run = forward
        self.stem, self.one, self.two, self.three = (nn.Conv2d(4, 4, 1) for _ in range(4))
        self.relu, self.same, self.empty = nn.ReLU(), nn.Identity(), nn.Sequential()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, self.stem(x))


def _in_place(block: nn.Module, x: Tensor) -> Tensor:
    out = block.one(x)
    out += block.empty(x)
    return out


def _ends_used_elsewhere(block: nn.Module, x: Tensor) -> Tensor:
    y = block.one(x)
    return torch.cat([x + y, block.two(y)])


@pytest.mark.parametrize(
    ("forward", "branches"),
    [
        (lambda block, x: x + block.one(x), ("one",)),
        (lambda block, x: block.two(block.one(x).relu()) + block.same(x), ("two",)),
        (lambda block, x: torch.add(x, other=block.one(x)), ("one",)),
        (lambda block, x: x + block.scale * block.one(x).sigmoid(), ("one",)),
        (lambda block, x: x + block.relu(block.one(x)), ("relu",)),
        (lambda block, x: block.one(x) + block.two(block.one(x)), ()),
        (lambda block, x: block.one(x) + block.two(x), ()),
        (lambda block, x: x + F.gelu(x), ()),
        (lambda block, x: x + block.relu(block.two(block.relu(block.one(x)))), ()),
        (lambda block, x: x[:, : (7 - x.shape[2] % 7) % 7 + x.shape[2]], ()),
        (lambda block, x: 1 + block.one(x), ()),
        (_in_place, ("one",)),
        (_ends_used_elsewhere, ()),
    ],
)
def test_residual_branches_end_in_modules_of_their_own(forward: Forward, branches: tuple[str, ...]) -> None:
    traced = trace(_Block(forward))
    assert traced is not None
    assert residual_branches(traced) == branches
