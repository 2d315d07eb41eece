"""Grad-CAM++: a layer's channels weighted so that each instance of an object counts, however small."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.attribution.fusion import Layers, gradient_maps
from phosphene.classifier import Classifier
from phosphene.devices import wide
from phosphene.registry import register_attribution
from phosphene.types import Attribution, Target


@register_attribution(
    title="Grad-CAM++",
    family="cam",
    paper="chattopadhay2018",
    display="positive",
    caveat="The weights assume that the score is an exponential of the logit; no negative evidence enters them.",
)
def grad_cam_pp(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    relu: bool = False,
    epsilon: float = 0.0,
    batch_size: int | None = None,
) -> Attribution:
    """Which places of a layer speak for the class, with places weighted so that several instances all show.

    ``L[y, x] = sum_k w_k A_k[y, x]``, ``w_k = sum over places of alpha_k relu(g_k)``, ``g_k = dS/dA_k`` and
    ``alpha_k = g_k^2 / (2 g_k^2 + sum(A_k) g_k^3)``, the sum over all places. A place where the denominator is zero
    has alpha 0. Common implementations add an `epsilon` of 1e-6 to the denominator, which on real networks is larger
    than its terms and makes other weights; by default nothing is added. The paper's score ``exp(S)`` is
    implied in the formula; S is the logit.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        layer: a layer whose output has places, by dotted name or module; several as a+b, fused; None for the last.
        relu: keep the positive part of each layer's map alone, as the paper does.
        epsilon: added to the denominator; 1e-6 gives the maps of pytorch-grad-cam, 1e-8 the formula of torchcam.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, h, w) on the layer's grid, of several layers on the finest.

    Raises:
        ModelError: if the layer's output has no places.
        NotFoundError: for an unknown layer, with the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> grad_cam_pp(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1)).maps.shape
        torch.Size([2, 6, 6])

    References:
        chattopadhay2018, equations 5, 6 and 19.
    """

    def map_of(activations: Tensor, gradients: Tensor) -> Tensor:
        return (_weights(activations, gradients, epsilon) * activations).sum(dim=1)

    return gradient_maps(classifier, images, target, layer, relu, batch_size, map_of)


def _weights(activations: Tensor, gradients: Tensor, epsilon: float) -> Tensor:
    """(N, k, 1, 1) in float64, where the third power of a small gradient is still a number."""
    gradients = wide(gradients)
    denominator = 2 + wide(activations).sum(dim=(2, 3), keepdim=True) * gradients
    if epsilon:
        denominator = denominator + epsilon / gradients.square()
    alpha = torch.where((gradients != 0) & (denominator != 0), 1 / denominator, torch.zeros_like(gradients))
    return (alpha * gradients.clamp(min=0)).sum(dim=(2, 3), keepdim=True).to(activations)
