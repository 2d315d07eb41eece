"""LayerCAM: a layer's activations weighted place by place with the positive part of their gradients."""

from __future__ import annotations

from torch import Tensor

from phosphene.attribution.formula import by_formula
from phosphene.attribution.layer_maps import layer_map
from phosphene.registry import register_attribution


@register_attribution(
    title="LayerCAM",
    family="cam",
    paper="jiang2021",
    display="positive",
    caveat="Drops what speaks against the class: it is sharp in early layers too but silent about counter-evidence.",
)
@by_formula(layer_map)
def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Which activations of a layer are worth raising, place by place; usable in early, fine layers too.

    ``L[y, x] = sum_k relu(dS/dA_k[y, x]) * A_k[y, x]``. Negative only where activations are. The paper fuses layers
    by the larger of their maps after a tanh; several layers here are averaged as in the whole family (ours).

    Example:
        >>> from phosphene import Classifier, Target
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> layer_cam(Classifier(net), torch.rand(2, 3, 9, 8), Target.of(1), layer=net[0]).maps.shape
        torch.Size([2, 7, 6])

    References:
        jiang2021, equations 5 and 6.
    """
    return (gradients.clamp(min=0) * activations).sum(dim=1)
