"""Guided back-propagation: only what a ReLU let through on the way up and what is positive on the way down."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from phosphene.attribution.formula import by_formula
from phosphene.attribution.relu_rules import relu_rule_map
from phosphene.registry import register_attribution


@register_attribution(
    title="Guided back-propagation",
    family="gradient",
    paper="springenberg2015",
    display="percentile",
    caveat="Sharp because it partly recovers the image; it hardly changes with the class or with random upper layers.",
)
@by_formula(relu_rule_map)
def guided_backprop(gradient: Tensor, through: Callable[[Tensor], Tensor]) -> Tensor:
    """The fine structure of the image along paths that speak for the class or unit from end to end.

    Back-propagation but at each ReLU, where ``R_n = R_{n+1} * 1(R_{n+1} > 0) * 1(X_n > 0)``; for ReLU6 also
    ``1(X_n < 6)``. All forms of ReLU, starts and ends are those of `deconvnet`.

    Example:
        >>> from phosphene import Classifier, Target
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.SiLU(), torch.nn.Linear(12, 2))
        >>> guided_backprop(Classifier(net), torch.rand(1, 3, 2, 2), Target.of(1))
        Traceback (most recent call last):
        phosphene.errors.ModelError: no ReLU rule for the activation Silu of layer '1' (SiLU): ...

    References:
        springenberg2015, section 3.4.
    """
    return through(gradient).clamp_(min=0)
