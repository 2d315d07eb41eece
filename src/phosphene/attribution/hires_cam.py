"""HiResCAM: a layer's activations times their gradients, place by place."""

from __future__ import annotations

from torch import Tensor

from phosphene.attribution.fusion import Layers, gradient_maps
from phosphene.classifier import Classifier
from phosphene.registry import register_attribution
from phosphene.types import Attribution, Target


@register_attribution(
    title="HiResCAM",
    family="cam",
    paper="draelos2020",
    display="positive",
    caveat="Faithful where only linear layers follow the chosen one; elsewhere a linear approximation.",
)
def hires_cam(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    relu: bool = False,
    batch_size: int | None = None,
) -> Attribution:
    """How much each place of a layer adds to the score, without averaging the gradient over places first.

    ``L[y, x] = sum_k dS/dA_k[y, x] * A_k[y, x]``. If all that follows the layer is linear, the places add up to the
    score without its bias. The raw map is signed and the positive part is what is colored, unless ``relu=true``.

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
        >>> result = hires_cam(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1))
        >>> torch.allclose(result.maps.sum((1, 2)) + net[3].bias[1], result.score, atol=1e-5)
        True

    References:
        draelos2020, equation 4.
    """
    return gradient_maps(classifier, images, target, layer, relu, batch_size, _map)


def _map(activations: Tensor, gradients: Tensor) -> Tensor:
    return (gradients * activations).sum(dim=1)
