"""A method: the sum of the gradient's magnitudes over the channels."""

from __future__ import annotations

from torch import Tensor

from phosphene import Attribution, Classifier, Target, register_attribution
from phosphene.attribution.result import attribution
from phosphene.runtime import input_gradient


@register_attribution(title="Absolute gradient", family="gradient", paper="simonyan2014", signed=False)
def absolute_gradient(
    classifier: Classifier, images: Tensor, target: Target, *, power: float = 1.0, batch_size: int | None = None
) -> Attribution:
    """How strongly each pixel moves the class score, all channels together.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        power: of the magnitudes.
        batch_size: images per pass; None chooses.
    """
    score, gradient = input_gradient(classifier, images, target, batch_size=batch_size)
    return attribution(gradient.abs().pow(power).sum(dim=1), images, target, score)
