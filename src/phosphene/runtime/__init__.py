"""How a classifier runs fast: its prepared form, and the passes that every method is made of."""

from phosphene.runtime.passes import (
    activations,
    forward,
    head_features,
    input_gradient,
    layer_gradients,
    layer_values,
)
from phosphene.runtime.perturbed import Copies, MaskedScores, blended_scores, masked_scores, replaced_scores
from phosphene.runtime.placement import Placement
from phosphene.runtime.prepare import Prepared, prepare
from phosphene.runtime.trials import plain_mode

__all__ = [
    "Copies",
    "MaskedScores",
    "Placement",
    "Prepared",
    "activations",
    "blended_scores",
    "forward",
    "head_features",
    "input_gradient",
    "layer_gradients",
    "layer_values",
    "masked_scores",
    "plain_mode",
    "prepare",
    "replaced_scores",
]
