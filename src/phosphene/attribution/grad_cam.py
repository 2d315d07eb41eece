"""Grad-CAM: a layer's channels weighted by how much each moves the score."""

from __future__ import annotations

from torch import Tensor

from phosphene.attribution.fusion import Layers, gradient_maps
from phosphene.classifier import Classifier
from phosphene.registry import register_attribution
from phosphene.types import Attribution, Target


@register_attribution(
    title="Grad-CAM",
    family="cam",
    paper="selvaraju2017",
    display="positive",
    caveat="As coarse as the layer's grid; averaging the gradient can wash out a small object.",
)
def grad_cam(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    relu: bool = False,
    batch_size: int | None = None,
) -> Attribution:
    """Which places of a layer speak for the class: its channels summed with their mean gradients as weights.

    ``L[y, x] = sum_k a_k A_k[y, x]`` with ``a_k = mean over places of dS / dA_k``. The paper keeps the positive
    part; here the raw map is signed and the positive part is what is colored, unless ``relu=true``.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        layer: a layer whose output has places, by dotted name or module; several as a+b, fused; None for the last.
        relu: keep the positive part of each layer's map alone, as the paper does.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, h, w) on the layer's grid, of several layers on the finest.

    Raises:
        ModelError: if the layer's output has no places.
        NotFoundError: for an unknown layer, with the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> grad_cam(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1), layer="0").maps.shape
        torch.Size([2, 6, 6])

    References:
        selvaraju2017, equations 1 and 2.
    """
    return gradient_maps(classifier, images, target, layer, relu, batch_size, _map)


def _map(activations: Tensor, gradients: Tensor) -> Tensor:
    return (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1)
