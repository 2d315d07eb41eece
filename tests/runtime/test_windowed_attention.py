"""Occlusion in windows on networks that fold places into the batch, as Swin does with its attention windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from phosphene.runtime import masked_scores, prepare
from phosphene.targets import Target
from tests.networks import classifier_of

BOXES = [(0, 0, 4, 4), (4, 8, 8, 12), (12, 12, 16, 16)]


class WindowAttention(nn.Module):
    """2 x 2 windows of 4 x 4 patches become rows of the batch; a bias (1, 4, 4) is the same for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.bias = nn.Parameter(torch.randn(4, 4))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)  # (N, 4, 4, 8)
        count = x.shape[0]
        x = x.reshape(count, 2, 2, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(count * 4, 4, 8)
        weights = (x @ x.transpose(1, 2) + self.bias.unsqueeze(0)).softmax(dim=-1)  # (4 N, 4, 4)
        return self.head((weights @ x).reshape(count, 16, 8).mean(dim=1))


def test_windows_that_are_rows_of_the_batch():
    classifier, images = classifier_of(WindowAttention().eval()), torch.rand(2, 3, 16, 16)
    assert prepare(classifier).traced is not None
    fill = torch.full((3, 1, 1), 0.5)
    both = [
        masked_scores(classifier, images, Target.of([1, 2]), BOXES, fill, score="logit", windowed=windowed).covered
        for windowed in (True, False)
    ]
    assert torch.allclose(*both, atol=1e-5)
    assert float((both[0] - both[0][:, :1]).abs().max()) > 1e-3
