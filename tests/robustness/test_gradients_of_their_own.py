"""Networks that take gradients in their own forward: by energy, by sensitivity, by the features a score hangs on."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.robustness.strange import Body
from tests.robustness.test_as_written import MOST, pictures
from tests.robustness.test_asking_networks import errors


class AddsItsSensitivity(Body):
    """By as much as its energy changes with the picture; too little to be seen in a trial of gradients with kinks."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.requires_grad_() if x.is_leaf else x
            scores = super().forward(x)
            (slope,) = torch.autograd.grad(scores.logsumexp(1).sum(), x, create_graph=True)
        return scores + 100 * slope.square().sum((1, 2, 3))[:, None]


def test_second_derivatives_are_not_left_out() -> None:
    ways = ["scores", "saliency", "input_x_gradient", "integrated_gradients", "grad_cam", "hires_cam", "occlusion"]
    found = errors(AddsItsSensitivity, pictures(), ways)
    assert all(error <= MOST for error in found.values()), found
