"""Grad-CAM: a layer's channels weighted by how much each moves the score."""

from __future__ import annotations

from torch import Tensor

from phosphene.attribution.result import attribution
from phosphene.classifier import Classifier
from phosphene.graph import LayerName
from phosphene.registry import register_attribution
from phosphene.runtime import layer_gradients, places, prepare
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
    layer: LayerName | None = None,
    relu: bool = False,
    batch_size: int | None = None,
) -> Attribution:
    """Which places of a layer speak for the class: its channels summed with their mean gradients as weights.

    ``L[y, x] = sum_k a_k A_k[y, x]`` with ``a_k = mean over places of dS / dA_k``. The paper keeps the positive
    part; here the raw map is signed and the positive part is what is coloured, unless ``relu=true``.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        layer: a layer with an output (N, k, h, w), by dotted name or module; None for the last such one.
        relu: keep the positive part alone, as the paper does.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, h, w) on the layer's grid.

    Raises:
        ModelError: if the layer's output has no places.
        NotFoundError: for an unknown layer, with the nearest names.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        >>> grad_cam(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1), layer="0").maps.shape
        torch.Size([2, 6, 6])

    References:
        selvaraju2017, equations 1 and 2.
    """
    name = prepare(classifier).layer_name(layer)
    found = layer_gradients(classifier, images, target, [name], batch_size=batch_size)
    values = places(found.activations[name], f"layer {name}", images)
    weights = places(found.gradients[name], f"layer {name}", images).mean(dim=(2, 3), keepdim=True)
    maps = (weights * values).sum(dim=1)
    return attribution(maps.clamp(min=0) if relu else maps, images, target, found.score, layer=name)
