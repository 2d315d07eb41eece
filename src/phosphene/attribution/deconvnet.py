"""DeconvNet: back-propagation in which a ReLU passes on what is positive on the way down."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from phosphene.attribution.result import attribution, plain
from phosphene.classifier import Classifier
from phosphene.graph import LayerName, spatial_map
from phosphene.hooks import Rule
from phosphene.maps import max_over_channels
from phosphene.registry import register_attribution
from phosphene.runtime import prepare, rule_gradient
from phosphene.types import Attribution, Target

Reduce = Literal["sum", "max_abs"]


@register_attribution(
    title="DeconvNet",
    family="gradient",
    paper="zeiler2014",
    caveat="Only max-pooling ties it to the image: without any, it is one picture for all images; classes look alike.",
)
def deconvnet(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    to: LayerName | None = None,
    reduce: Reduce = "sum",
    batch_size: int | None = None,
) -> Attribution:
    """The pattern in the image that excites a class or unit, projected back through the layers.

    Back-propagation but at each ReLU, where ``R_n = R_{n+1} * 1(R_{n+1} > 0)`` takes the place of the gradient's
    ``R_n = R_{n+1} * 1(X_n > 0)``; max-pooling goes back to the arg-max of the forward pass. ReLU6 follows the same
    rule. Without ReLUs it is the gradient. Any form of ReLU is caught, and activations without such a rule (SiLU,
    GELU) are refused. Only the arg-max of max-pooling depends on the image: in a network without max-pooling the
    picture of a class is the same for every image. The paper works on normalized input; here the map is with respect
    to the image in [0, 1], so it is the paper's divided by the standard deviation (ours).

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: where it starts: a class, or a unit: a neuron (layer, channel, place), a channel or a whole layer.
        to: a layer at whose input it ends, by dotted name or module; None for the image.
        reduce: what becomes of the channels: their sum, or the largest magnitude.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, H, W), or (N, h, w) on the grid of the input of layer `to`; `reconstruction` holds all
        channels.

    Raises:
        ModelError: for an activation without a ReLU rule, naming its layer, or an end that lies above the start.
        NotFoundError: for an unknown layer or unit.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> result = deconvnet(Classifier(net), torch.rand(1, 3, 2, 2), Target.of(1))
        >>> expected = net[3].weight[1].clamp(min=0) @ net[1].weight
        >>> torch.allclose(result.reconstruction.flatten(), expected, atol=1e-6)
        True

    References:
        zeiler2014, section 2.1; simonyan2014, section 4.
    """
    return projected(
        classifier, images, target, lambda gradient, through: gradient.clamp(min=0), to, reduce, batch_size
    )


def projected(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    rule: Rule,
    to: LayerName | None,
    reduce: Reduce,
    batch_size: int | None,
) -> Attribution:
    """What a rule for ReLUs brings back from the target to the image, or to the input of a layer."""
    end = None if to is None else prepare(classifier).layer_name(to)
    score, gradient = rule_gradient(classifier, images, target, rule, to=end, batch_size=batch_size)
    if end is not None:
        layout = prepare(classifier).layout(end, fed=True)
        gradient = spatial_map(gradient, f"the input of layer {end}", images, layout)
    maps = gradient.sum(dim=1) if reduce == "sum" else max_over_channels(gradient)
    return attribution(maps, images, target, score, layer=end, reconstruction=plain(gradient))
