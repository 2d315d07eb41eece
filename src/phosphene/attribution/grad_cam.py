"""Grad-CAM: a layer's channels weighted by how much each moves the score."""

from __future__ import annotations

from torch import Tensor

from phosphene.attribution.formula import by_formula
from phosphene.attribution.layer_maps import channel_weights, layer_map
from phosphene.registry import register_attribution


@register_attribution(
    title="Grad-CAM",
    family="cam",
    paper="selvaraju2017",
    display="positive",
    caveat="As coarse as the layer's grid; averaging the gradient can wash out a small object.",
)
@by_formula(layer_map)
def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Which places of a layer speak for the class: its channels summed with their mean gradients as weights.

    ``L[y, x] = sum_k a_k A_k[y, x]`` with ``a_k = mean over places of dS / dA_k``. The paper keeps the positive
    part; here the raw map is signed and the positive part is what is colored, unless ``relu=true``.

    Example:
        >>> from phosphene import Classifier, Target
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> grad_cam(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1), layer="0").maps.shape
        torch.Size([2, 6, 6])

    References:
        selvaraju2017, equations 1 and 2.
    """
    return (channel_weights(gradients) * activations).sum(dim=1)
