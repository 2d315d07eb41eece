"""How a classifier runs fast: its prepared form, and the passes that every method is made of."""

from phosphene.runtime.passes import (
    activations,
    forward,
    head_features,
    input_gradient,
    layer_gradients,
    plain_mode,
    rule_gradient,
)
from phosphene.runtime.perturbed import blended_scores, masked_scores
from phosphene.runtime.places import places
from phosphene.runtime.prepare import Prepared, prepare

__all__ = [
    "Prepared",
    "activations",
    "blended_scores",
    "forward",
    "head_features",
    "input_gradient",
    "layer_gradients",
    "masked_scores",
    "places",
    "plain_mode",
    "prepare",
    "rule_gradient",
]
