"""What methods share that put a rule in the place of each ReLU's gradient: deconvnet, guided back-propagation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from phosphene.attribution.result import attribution, plain
from phosphene.classifier import Classifier
from phosphene.graph import LayerName, spatial_map
from phosphene.maps import max_over_channels
from phosphene.relu_rule import ReluRule
from phosphene.runtime import prepare, rule_gradient
from phosphene.targets import Target
from phosphene.types import Attribution

Reduce = Literal["sum", "max_abs"]


def relu_rule_map(
    rule: ReluRule,
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    to: LayerName | None = None,
    reduce: Reduce = "sum",
    batch_size: int | None = None,
) -> Attribution:
    """What a rule for ReLUs brings back from the target to the image, or to the input of a layer.

    Args:
        rule: (gradient at a ReLU's output, through) -> gradient at its input; `through` makes of a gradient a new one
            that is zero where the ReLU let no value through.
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
        >>> found = relu_rule_map(lambda g, through: through(g), Classifier(net), torch.rand(1, 3, 2, 2), Target.of(1))
        >>> found.reconstruction.shape
        torch.Size([1, 3, 2, 2])
    """
    end = None if to is None else prepare(classifier).layer_name(to)
    score, gradient = rule_gradient(classifier, images, target, rule, to=end, batch_size=batch_size)
    if end is not None:
        layout = prepare(classifier).layout(end, fed=True)
        gradient = spatial_map(gradient, f"the input of layer {end}", images, layout)
    maps = gradient.sum(dim=1) if reduce == "sum" else max_over_channels(gradient)
    return attribution(maps, images, target, score, layer=end, reconstruction=plain(gradient))
