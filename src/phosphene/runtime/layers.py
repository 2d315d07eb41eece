"""The layer that heat maps of classes look at unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.hooks import capture, is_scripted
from phosphene.runtime.places import places, places_of
from phosphene.types import Layer, Size

# What only passes on what came before: no place to stop at.
_PASSIVE = {
    kind.__name__
    for kind in (
        *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Dropout2d, nn.AlphaDropout),
        *(nn.Flatten, nn.Identity, nn.Softmax, nn.LogSoftmax),
    )
}


def default_layer(classifier: Classifier, layers: Sequence[Layer], size: Size) -> str:
    """The last layer whose output has places that still reach the scores.

    A convolutional network's last features; a transformer's last norm before its tokens are mixed for the last
    time: after that a class token has taken what it wants, and the patches no longer matter.

    Args:
        classifier: a frozen classifier.
        layers: what ran, in the order of completion (hooks.survey).
        size: (height, width) of the images.

    Raises:
        ModelError: if no layer has an output with places.
    """
    candidates = [layer.name for layer in reversed(layers) if _is_candidate(layer, size)]
    # A network that squeezes one side alone has grids of other proportions than its images.
    candidates = candidates or [
        layer.name for layer in reversed(layers) if len(layer.shape) == 3 and _has_extent(layer)
    ]
    if is_scripted(classifier.module):
        raise ModelError(
            f"{classifier.name} is TorchScript, which runs as one piece without layers; use a method that looks at "
            "input and output alone (saliency, occlusion, rise), or the network as torch.export.save writes it"
        )
    if not candidates:
        raise ModelError(
            f"no layer of {classifier.name} has an output with places: (N, C, h, w), (N, h, w, C) or tokens of the "
            "image's patches; name one with layer=, or use a method without layers (saliency, occlusion)"
        )
    for name in candidates:
        reached = _places_reached(classifier, name, size)
        if reached is not None and reached >= 2:
            return name
        if reached == 0:  # the scores are constant: no layer would do better
            break
    return candidates[0]


def _is_candidate(layer: Layer, size: Size) -> bool:
    if layer.kind in _PASSIVE or places_of(layer.shape, size) is None:
        return False
    # Inside a block many tokens are queries, keys or mixtures; its norms stand where it is entered and left.
    return len(layer.shape) == 3 or "Norm" in layer.kind


def _has_extent(layer: Layer) -> bool:
    return layer.kind not in _PASSIVE and layer.shape[1] * layer.shape[2] > 1


def _places_reached(classifier: Classifier, name: str, size: Size) -> int | None:
    """How many places of a layer change the scores of a noise image; None if it lies off the way to them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, classifier.preprocess.channels, *size, generator=generator).to(classifier.device)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(classifier.device.type, enabled=False):
        with capture(classifier.module, [name], edit=_leaf) as found:
            logits = classifier.logits(images)
        if not logits.requires_grad:
            return None
        # Unequal weights: the sum of probabilities is 1 whatever the image.
        weights = torch.randn(logits.shape, generator=generator).to(logits)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), found[name], allow_unused=True)
    if gradient is None:
        return None
    if not bool(gradient.any()):
        return 0
    reached = places(gradient, name, images).abs().sum(dim=1) > 0  # (1, h, w)
    return max(1, int(reached.sum()))  # a class token alone is reached, too


def _leaf(_name: str, output: Tensor) -> Tensor:
    return output.detach().requires_grad_()
