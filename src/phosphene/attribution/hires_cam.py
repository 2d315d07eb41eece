"""HiResCAM: a layer's activations times their gradients, place by place."""

from __future__ import annotations

from torch import Tensor

from phosphene.attribution.formula import by_formula
from phosphene.attribution.layer_maps import layer_map
from phosphene.registry import register_attribution


@register_attribution(
    title="HiResCAM",
    family="cam",
    paper="draelos2020",
    display="positive",
    caveat="Faithful where only linear layers follow the chosen one; elsewhere a linear approximation.",
)
@by_formula(layer_map)
def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """How much each place of a layer adds to the score, without averaging the gradient over places first.

    ``L[y, x] = sum_k dS/dA_k[y, x] * A_k[y, x]``. If all that follows the layer is linear, the places add up to the
    score without its bias. The raw map is signed and the positive part is what is colored, unless ``relu=true``.

    Example:
        >>> from phosphene import Classifier, Target
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> result = hires_cam(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1))
        >>> torch.allclose(result.maps.sum((1, 2)) + net[3].bias[1], result.score, atol=1e-5)
        True

    References:
        draelos2020, equation 4.
    """
    return (gradients * activations).sum(dim=1)
