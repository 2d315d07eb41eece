"""Class activation maps: the last features weighted by the class's row of the linear layer."""

from __future__ import annotations

import torch
from torch import Tensor

from phosphene.attribution.result import attribution, per_image, sides
from phosphene.classifier import Classifier
from phosphene.errors import ModelError, OptionError
from phosphene.graph import LinearHead
from phosphene.registry import register_attribution
from phosphene.runtime import Placement, Prepared, head_features, plain_mode, prepare
from phosphene.targets import Target
from phosphene.types import Attribution

# The mean of the map and the bias must give the logit; more than this and the network is not of that form.
_TOLERANCE = 1e-2


@register_attribution(
    title="Class activation map",
    family="cam",
    paper="zhou2016",
    display="positive",
    caveat="As coarse as the last features; of several objects the most typical may get all the heat.",
)
def cam(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    batch_size: int | None = None,
) -> Attribution:
    """How much each place adds to the class's logit, exactly: the head's own weights on the last features.

    ``K_c[y, x] = sum_k w_k^c f_k[y, x]``, for networks that end in global average pooling and one linear layer
    (or a class convolution and pooling), found from the network's graph, or by the numbers of a pass.
    ``mean(K_c) + b_c = S_c``; the check `logit_error` says how well that holds.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: classes; with `versus` the difference of the two maps.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, h, w) on the grid of the last features, in logits.

    Raises:
        ModelError: if the network does not end that way; it offers grad_cam.
        OptionError: for a unit, or a score other than the logit.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1),
        ...                           torch.nn.Flatten(), torch.nn.Linear(4, 2))
        >>> result = cam(Classifier(net), torch.rand(1, 3, 8, 8), Target.of(1))
        >>> torch.allclose(result.maps.mean() + net[3].bias[1], result.score, atol=1e-5)
        True

    References:
        zhou2016, section 2.
    """
    if not target.classes:
        raise OptionError(f"cam explains classes; for the {target.kind} {target} use grad_cam or saliency")
    if target.score not in (None, "logit"):
        raise OptionError(f"cam takes the logit apart; it has no map of the {target.score}; use grad_cam")
    target = target.expand(len(images))
    logits, features, head = head_features(classifier, images, batch_size=batch_size)
    score = classifier.score(logits, target)
    maps, bias = _class_maps(classifier, head, features, target.classes)
    if target.versus:
        other, other_bias = _class_maps(classifier, head, features, target.versus)
        maps, bias = maps - other, bias - other_bias
    error = (maps.mean(dim=(1, 2)) + bias - score).abs()
    if bool((error > _TOLERANCE * (maps.abs().mean(dim=(1, 2)) + bias.abs()).clamp(min=1e-12)).any()):
        raise ModelError(
            f"no class activation map: mean and bias give another logit (off by {error.max():.3g}), so what stands "
            f"between {head.layer} and the scores is not linear; use grad_cam"
        )
    grid = _placement(prepare(classifier), head.layer, images).grid(sides(images), sides(maps))
    return attribution(maps, images, target, score, layer=head.layer, checks=per_image(logit_error=error), grid=grid)


def _placement(prepared: Prepared, layer: str, images: Tensor) -> Placement:
    """Where the maps of a layer lie; what a function made lies where the layer does that it was made of."""
    try:
        layer = layer.partition(" + ")[0]
        known = any(found.name == layer for found in prepared.layers)
        layer = layer if known else prepared.default_layer
    except ModelError:  # there are functions alone
        return Placement()
    return prepared.placement(layer, images)


def _class_maps(
    classifier: Classifier, head: LinearHead, features: Tensor, classes: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """(maps (N, h, w), bias (N,)) of one class per image."""
    index = torch.tensor(classes, device=features.device)
    binary = classifier.head == "sigmoid" and len(classifier.labels) == 2
    if head.weight is None:
        if binary and features.shape[1] == 1:  # one output read as (-z, z)
            features = torch.cat([-features, features], dim=1)
        rows = torch.arange(len(features), device=features.device)
        return features[rows, index], features.new_zeros(len(features))
    weight, bias = head.weight.float(), features.new_zeros(len(head.weight)) if head.bias is None else head.bias.float()
    if binary and len(weight) == 1:  # one output read as (-z, z)
        weight, bias = torch.cat([-weight, weight]), torch.cat([-bias, bias])
    with plain_mode(features.device, gradients=False):
        return torch.einsum("nk,nkhw->nhw", weight[index], features), bias[index]
