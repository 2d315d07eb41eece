"""Finer-CAM: Grad-CAM of what tells a class from those that look most like it to the network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from phosphene.attribution.layer_maps import Layers, averaged_layers, channel_weights, layer_names
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.graph import spatial_map
from phosphene.registry import register_attribution
from phosphene.runtime import forward, layer_gradients, prepare
from phosphene.targets import ClassTarget, Target
from phosphene.types import Attribution


@register_attribution(
    title="Finer-CAM",
    family="cam",
    paper="zhang2025",
    display="positive",
    caveat="What the class shares with its neighbors is taken off: the rest of the object is not unimportant.",
)
def finer_cam(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    alpha: float = 1.0,
    classes: int = 3,
    relu: bool = False,
    batch_size: int | None = None,
) -> Attribution:
    """Which places of a layer speak for the class and not for the classes next to it.

    Grad-CAM of the score ``S = sum_k w_k (z_c - alpha z_k)`` over those `classes` whose logits z_k are nearest to z_c,
    ``w = softmax over them of z_k``. As the authors' code does, the weights are differentiated as well.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class; it is told apart by itself, so it has no `versus`.
        layer: a layer whose output has places, by dotted name or module; several as a+b, averaged; None for the last.
        alpha: how much of the other classes is taken off, 0 or more; 0 is Grad-CAM.
        classes: how many other classes; all of them where there are fewer.
        relu: keep the positive part of each layer's map alone, as the paper does.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, h, w) on the layer's grid, of several layers on the finest; the score is z_c.

    Raises:
        ModelError: if the layer's output has no places.
        NotFoundError: for an unknown layer, with the nearest names.
        OptionError: for a unit, a target with `versus` or a score of its own, or a network of one class.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        ...                           torch.nn.Linear(4, 5))
        >>> finer_cam(Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1), layer="0").maps.shape
        torch.Size([2, 6, 6])

    References:
        zhang2025, section 3.2.
    """
    if not isinstance(target, ClassTarget) or target.score not in (None, "logit"):
        raise OptionError("finer_cam tells a class apart by itself: give a class alone, without unit, versus or score")
    if alpha < 0 or classes < 1:
        raise OptionError(f"finer_cam: alpha={alpha} must be 0 or more and classes={classes} at least 1")
    names = layer_names(classifier, layer, target, images)
    target = target.expand(len(images))
    own = layer_gradients(classifier, images, target, names, batch_size=batch_size)
    logits = forward(classifier, images, batch_size=batch_size)
    if logits.shape[1] < 2:
        raise OptionError(f"finer_cam: {classifier.name} has one class, and none to tell it from; use grad_cam")
    classes = min(classes, logits.shape[1] - 1)
    others, factors = _others(logits, target, alpha, classes)

    def of_places(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        layouts = {name: prepare(classifier).layout(name) for name in names}
        return {name: spatial_map(values[name], f"layer {name}", images, layouts[name]) for name in names}

    slopes = of_places(own.gradients)
    for place in range(classes):
        goal = Target.of(others[:, place])
        found = of_places(layer_gradients(classifier, images, goal, names, batch_size=batch_size).gradients)
        slopes = {name: slopes[name] - factors[:, place, None, None, None] * found[name] for name in names}
    activations = of_places(own.activations)
    maps = [(channel_weights(slopes[name]) * activations[name]).sum(dim=1) for name in names]
    return averaged_layers(maps, names, classifier, images, target, own.score, relu)


def _others(logits: Tensor, target: Target, alpha: float, count: int) -> tuple[Tensor, Tensor]:
    """(the nearest classes (N, count), how much the gradient of each is taken off)."""
    chosen = torch.tensor(target.classes, device=logits.device)[:, None]
    # (A class that is ruled out, by minus infinity, is near none, and the class itself no other at all.)
    distance = (logits - logits.gather(1, chosen)).abs().nan_to_num(torch.finfo(logits.dtype).max)
    others = distance.scatter(1, chosen, float("inf")).argsort(dim=1, stable=True)[:, :count]
    values = logits.gather(1, others)
    weights = values.softmax(dim=1).nan_to_num()
    values = values.where(weights > 0, 0.0)
    mean = (weights * values).sum(dim=1, keepdim=True)
    return others, alpha * weights * (1 + values - mean)
