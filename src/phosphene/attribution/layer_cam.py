"""LayerCAM: a layer's activations weighted place by place with the positive part of their gradients."""

from __future__ import annotations

from torch import Tensor

from phosphene.attribution.fusion import Layers, gradient_maps
from phosphene.classifier import Classifier
from phosphene.registry import register_attribution
from phosphene.types import Attribution, Target


@register_attribution(
    title="LayerCAM",
    family="cam",
    paper="jiang2021",
    display="positive",
    caveat="Drops what speaks against the class: it is sharp in early layers too but silent about counter-evidence.",
)
def layer_cam(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    relu: bool = False,
    batch_size: int | None = None,
) -> Attribution:
    """Which activations of a layer are worth raising, place by place; usable in early, fine layers too.

    ``L[y, x] = sum_k relu(dS/dA_k[y, x]) * A_k[y, x]``. Negative only where activations are. The paper fuses layers
    by the larger of their maps after a tanh; several layers here are fused as in the whole family (ours).

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
        >>> layer_cam(Classifier(net), torch.rand(2, 3, 9, 8), Target.of(1), layer=net[0]).maps.shape
        torch.Size([2, 7, 6])

    References:
        jiang2021, equations 5 and 6.
    """
    return gradient_maps(classifier, images, target, layer, relu, batch_size, _map)


def _map(activations: Tensor, gradients: Tensor) -> Tensor:
    return (gradients.clamp(min=0) * activations).sum(dim=1)
