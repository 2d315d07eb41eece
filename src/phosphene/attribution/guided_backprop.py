"""Guided back-propagation: only what a ReLU let through on the way up and what is positive on the way down."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from phosphene.attribution.deconvnet import Reduce, projected
from phosphene.classifier import Classifier
from phosphene.graph import LayerName
from phosphene.registry import register_attribution
from phosphene.types import Attribution, Target


@register_attribution(
    title="Guided back-propagation",
    family="gradient",
    paper="springenberg2015",
    caveat="Sharp because it partly recovers the image; it hardly changes with the class or with random upper layers.",
)
def guided_backprop(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    to: LayerName | None = None,
    reduce: Reduce = "sum",
    batch_size: int | None = None,
) -> Attribution:
    """The fine structure of the image along paths that speak for the class or unit from end to end.

    Back-propagation but at each ReLU, where ``R_n = R_{n+1} * 1(R_{n+1} > 0) * 1(X_n > 0)``; for ReLU6 also
    ``1(X_n < 6)``. All forms of ReLU, starts and ends are those of `deconvnet`.

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
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.SiLU(), torch.nn.Linear(12, 2))
        >>> guided_backprop(Classifier(net), torch.rand(1, 3, 2, 2), Target.of(1))
        Traceback (most recent call last):
        phosphene.errors.ModelError: no ReLU rule for the activation Silu of layer '1' (SiLU): ...

    References:
        springenberg2015, section 3.4.
    """

    def rule(gradient: Tensor, through: Callable[[Tensor], Tensor]) -> Tensor:
        return through(gradient).clamp_(min=0)

    return projected(classifier, images, target, rule, to, reduce, batch_size)
