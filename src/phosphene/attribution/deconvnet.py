"""DeconvNet: back-propagation in which a ReLU passes on what is positive on the way down."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from phosphene.attribution.formula import by_formula
from phosphene.attribution.relu_rules import relu_rule_map
from phosphene.registry import register_attribution


@register_attribution(
    title="DeconvNet",
    family="gradient",
    paper="zeiler2014",
    display="percentile",
    caveat="Only max-pooling ties it to the image: without any, it is one picture for all images; classes look alike.",
)
@by_formula(relu_rule_map)
def deconvnet(gradient: Tensor, through: Callable[[Tensor], Tensor]) -> Tensor:
    """The pattern in the image that excites a class or unit, projected back through the layers.

    Back-propagation but at each ReLU, where ``R_n = R_{n+1} * 1(R_{n+1} > 0)`` takes the place of the gradient's
    ``R_n = R_{n+1} * 1(X_n > 0)``; max-pooling goes back to the arg-max of the forward pass. ReLU6 follows the same
    rule. Without ReLUs it is the gradient. Any form of ReLU is caught, and activations without such a rule (SiLU,
    GELU) are refused. Only the arg-max of max-pooling depends on the image: in a network without max-pooling the
    picture of a class is the same for every image. The paper works on normalized input; here the map is with respect
    to the image in [0, 1], so it is the paper's divided by the standard deviation (ours).

    Example:
        >>> from phosphene import Classifier, Target
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> result = deconvnet(Classifier(net), torch.rand(1, 3, 2, 2), Target.of(1))
        >>> expected = net[3].weight[1].clamp(min=0) @ net[1].weight
        >>> torch.allclose(result.reconstruction.flatten(), expected, atol=1e-6)
        True

    References:
        zeiler2014, section 2.1; simonyan2014, section 4.
    """
    return gradient.clamp(min=0)
