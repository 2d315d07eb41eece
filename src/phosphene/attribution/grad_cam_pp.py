"""Grad-CAM++: a layer's channels weighted so that each instance of an object counts, however small."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.attribution.formula import by_formula
from phosphene.attribution.layer_maps import layer_map
from phosphene.devices import wide
from phosphene.registry import register_attribution


@register_attribution(
    title="Grad-CAM++",
    family="cam",
    paper="chattopadhay2018",
    display="positive",
    caveat="The weights assume that the score is an exponential of the logit; no negative evidence enters them.",
)
@by_formula(layer_map)
def grad_cam_pp(activations: Tensor, gradients: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """Which places of a layer speak for the class, with places weighted so that several instances all show.

    ``L[y, x] = sum_k w_k A_k[y, x]``, ``w_k = sum over places of alpha_k relu(g_k)``, ``g_k = dS/dA_k`` and
    ``alpha_k = g_k^2 / (2 g_k^2 + sum(A_k) g_k^3)``, the sum over all places. A place where the denominator is zero
    has alpha 0. Common implementations add an `epsilon` of 1e-6 to the denominator, which on real networks is larger
    than its terms and makes other weights; by default nothing is added. The paper's score ``exp(S)`` is
    implied in the formula; S is the logit.

    Args:
        activations: (N, k, h, w).
        gradients: of the score by the activations, likewise.
        epsilon: added to the denominator; 1e-6 gives the maps of pytorch-grad-cam, 1e-8 the formula of torchcam.

    Example:
        >>> from phosphene import Classifier, Target
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> grad_cam_pp(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1)).maps.shape
        torch.Size([2, 6, 6])

    References:
        chattopadhay2018, equations 5, 6 and 19.
    """
    return (_weights(activations, gradients, epsilon) * activations).sum(dim=1)


def _weights(activations: Tensor, gradients: Tensor, epsilon: float) -> Tensor:
    """(N, k, 1, 1) in float64, where the third power of a small gradient is still a number."""
    gradients = wide(gradients)
    denominator = 2 + wide(activations).sum(dim=(2, 3), keepdim=True) * gradients
    if epsilon:
        denominator = denominator + epsilon / gradients.square()
    alpha = torch.where((gradients != 0) & (denominator != 0), 1 / denominator, torch.zeros_like(gradients))
    return (alpha * gradients.clamp(min=0)).sum(dim=(2, 3), keepdim=True).to(activations)
