"""Ablation-CAM: a layer's channels weighted by how much the score falls without them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from phosphene.attribution.layer_maps import Layers, averaged_layers, layer_names
from phosphene.classifier import Classifier
from phosphene.graph import channel_axis, spatial_map
from phosphene.registry import register_attribution
from phosphene.runtime import Copies, prepare, replaced_scores
from phosphene.targets import Target
from phosphene.types import Attribution


@register_attribution(
    title="Ablation-CAM",
    family="cam",
    paper="ramaswamy2020",
    display="positive",
    caveat="Channels are taken away one at a time: two that do the same work both look useless.",
)
def ablation_cam(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    relu: bool = False,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Which places of a layer speak for the class, each channel weighted by the share of the score it carries.

    ``L[y, x] = sum_k w_k A_k[y, x]``, ``w_k = (S - S_k) / |S|``, S_k being the score with channel k set to zero. The
    paper divides by S itself, which turns the map over where the score is negative; the magnitude is ours. S is the
    logit unless the target says otherwise.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit that is watched.
        layer: a layer whose output has places, by dotted name or module; several as a+b, averaged; None for the last.
        relu: keep the positive part of each layer's map alone, as the paper does.
        batch_size: ablated copies per pass; None chooses.
        progress: called with (channels done, channels in all), anew for each layer.

    Returns:
        Signed maps (N, h, w) in units of the activations, on the layer's grid; of several layers on the finest.

    Raises:
        ModelError: if the layer's output has no places.
        NotFoundError: for an unknown layer, with the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> result = ablation_cam(Classifier(net), torch.rand(1, 3, 8, 8), Target.of(1))
        >>> result.maps.shape
        torch.Size([1, 6, 6])

    References:
        ramaswamy2020, equations 2 and 3.
    """
    names = layer_names(classifier, layer, target, images)
    maps = []
    for name in names:
        score, without, output = ablated_scores(
            classifier, images, target, name, batch_size=batch_size, progress=progress
        )
        weights = (score[:, None] - without) / score.abs().clamp(min=torch.finfo(score.dtype).tiny)[:, None]
        values = spatial_map(output, f"layer {name}", images, prepare(classifier).layout(name))
        maps.append((weights[..., None, None] * values).sum(dim=1))
    return averaged_layers(maps, names, classifier, images, target, score, relu)


def ablated_scores(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    layer: str,
    *,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(clean scores (N,), scores (N, k) without each channel of the layer, its outputs (N, ...))."""
    prepared = prepare(classifier)

    def copies_of(index: int, output: Tensor) -> Copies:
        image, layout = images[index : index + 1], prepared.layout(layer)
        spatial_map(output, f"layer {layer}", image, layout)  # (refuses what has no places before anything is run)
        axis = channel_axis(output, image, layout)
        return Copies(int(output.shape[axis]), lambda channels: _without(output, channels, axis))

    return replaced_scores(prepared, images, target, layer, copies_of, batch_size=batch_size, progress=progress)


def _without(output: Tensor, channels: range, axis: int) -> Tensor:
    """Copies of a layer's output (1, ...), one for each channel, with that channel set to zero."""
    copies = output.expand(len(channels), *output.shape[1:]).clone()
    for copy, channel in zip(copies, channels, strict=True):
        copy.select(axis - 1, channel).zero_()
    return copies
