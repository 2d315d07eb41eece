"""What the CAM family shares: a map by a formula of a layer's activations and gradients; several layers made one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from phosphene.attribution.result import attribution, even_grid, sides
from phosphene.classifier import Classifier
from phosphene.errors import ModelError, OptionError
from phosphene.graph import LayerName, extra_tokens, spatial_map, token_axis, token_note
from phosphene.grids import to_network_size
from phosphene.runtime import Placement, Prepared, layer_gradients, layer_values, prepare
from phosphene.runtime.layer_looks import places_with
from phosphene.targets import Target
from phosphene.types import Attribution, Layout

Layers = LayerName | tuple[str, ...]
# Of a mean, as a share of the mean magnitude: less is what rounding leaves of values that add up to nothing.
_ROUNDING = 1e-5
# Candidates that one pass looks at: more would have to be recorded from further down.
_AT_ONCE = 8
# Share of a gradient past a layer from which on the layer's map is said to show a part.
_MUCH = 0.1


def layer_names(classifier: Classifier, layer: Layers | None, target: Target, images: Tensor) -> tuple[str, ...]:
    """The dotted names of one layer, of several (a tuple, or joined by +), or of the default of the target for None.

    A detector looks for objects of each size in another layer: its default is the last that these images' objects see.
    """
    prepared = prepare(classifier)
    prepared.check_images(images)  # (layers are looked at with images of this size, where the network takes any)
    if layer is None and target.layers:
        return (prepared.looks.layer_of_unit(target.layers[0]),)
    if layer is None and prepared.head == "boxes":
        key = ("last layer reached", target)
        return (prepared.once(images, key, lambda: _last_layer_reached(prepared, images, target.expand(len(images)))),)
    # (A name may hold a plus itself, of an nn.ModuleDict's key.)
    several = isinstance(layer, str) and layer not in dict(prepared.source.module.named_modules(remove_duplicate=False))
    given: Sequence[Any] = layer if isinstance(layer, tuple) else str(layer).split("+") if several else [layer]
    names = tuple(prepared.layer_name(item) for item in given)
    if not names or len(set(names)) < len(names):
        raise OptionError(f"layer={'+'.join(names)}: name each layer once, and at least one")
    laid_by(prepared, names, images)
    return names


def _last_layer_reached(prepared: Prepared, images: Tensor, target: Target) -> str:
    """The last layer with places at which the score of each image sees a change at several of them.

    The classifier's default layer where there is none: nothing was found, say.
    """
    candidates = prepared.looks.candidate_layers
    for first in range(0, len(candidates), _AT_ONCE):
        left = candidates[first : first + _AT_ONCE]
        for index in range(len(images)):
            one = slice(index, index + 1)
            if left:
                found = layer_gradients(prepared, images[one], target.rows(index, index + 1), left).gradients
                left = [
                    name
                    for name in left
                    if len(found[name]) == 1 and places_with(found[name], name, images[one], prepared.layout(name)) > 1
                ]
        if left:
            return left[0]
    return prepared.default_layer


def laid_by(prepared: Prepared, names: Sequence[str], images: Tensor) -> Placement:
    """Where in images the maps of some layers lie.

    Raises:
        ModelError: if one sees it turned or mirrored, or they see other parts of it.
    """
    first, *others = (prepared.placement(name, images) for name in names)
    if any(other != first for other in others):
        raise ModelError(f"layers {'+'.join(names)} see different parts of the picture; name one of them")
    return first


def layer_map(
    formula: Callable[[Tensor, Tensor], Tensor],
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    relu: bool = False,
    batch_size: int | None = None,
) -> Attribution:
    """The map that a formula makes of a layer's activations and their gradients; of several layers their average.

    Args:
        formula: of (activations, gradients), both (N, k, h, w), a map (N, h, w).
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is differentiated.
        layer: a layer whose output has places, by dotted name or module; several as a+b, averaged; None for the last,
            of a unit the last before it.
        relu: keep the positive part of each layer's map alone, as the papers do.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, h, w) on the layer's grid, of several layers on the finest.

    Raises:
        ModelError: if the layer's output has no places.
        NotFoundError: for an unknown layer, with the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = layer_map(lambda a, g: g.sum(dim=1), Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1))
        >>> found.maps.shape
        torch.Size([2, 6, 6])
    """
    names = layer_names(classifier, layer, target, images)
    found = layer_gradients(classifier, images, target, names, batch_size=batch_size)
    values = {name: (found.activations[name], found.gradients[name]) for name in names}
    return _by_formula(formula, prepare(classifier), images, target, values, found.score, relu, layer is None)


def activation_map(
    formula: Callable[[Tensor], Tensor],
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    layer: Layers | None = None,
    relu: bool = False,
    batch_size: int | None = None,
) -> Attribution:
    """The map that a formula makes of a layer's activations alone, so of networks without a gradient too.

    Args:
        formula: of activations (N, k, h, w), a map (N, h, w).
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is reported.
        layer: a layer whose output has places, by dotted name or module; several as a+b, averaged; None for the last,
            of a unit the last before it.
        relu: keep the positive part of each layer's map alone, as the papers do.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, h, w) on the layer's grid, of several layers on the finest.

    Raises:
        ModelError: if the layer's output has no places.
        NotFoundError: for an unknown layer, with the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> found = activation_map(lambda a: a.sum(dim=1), Classifier(net), torch.rand(2, 3, 8, 8), Target.of(1))
        >>> found.maps.shape
        torch.Size([2, 6, 6])
    """
    names = layer_names(classifier, layer, target, images)
    score, outputs = layer_values(classifier, images, target, names, batch_size=batch_size)
    values = {name: (outputs[name],) for name in names}
    return _by_formula(formula, prepare(classifier), images, target, values, score, relu, layer is None)


def _by_formula(
    formula: Callable[..., Tensor],
    prepared: Prepared,
    images: Tensor,
    target: Target,
    values: Mapping[str, tuple[Tensor, ...]],
    score: Tensor,
    relu: bool,
    is_default: bool,
) -> Attribution:
    """The map of what the formula takes of each layer."""
    maps, notes = [], _seen_in_part(prepared, target, values) if is_default else []
    for name, given in values.items():
        layout, what = prepared.layout(name), f"layer {name}"
        maps.append(formula(*(spatial_map(value, what, images, layout) for value in given)))
        notes += _laid_out(given[0], maps[-1], what, layout)
    return replace(averaged_layers(maps, tuple(values), prepared, images, target, score, relu), notes=tuple(notes))


def channel_weights(gradients: Tensor) -> Tensor:
    """(N, k, 1, 1): the mean of each channel over its places; zero where it is no more than what rounding leaves.

    Before a norm over places, or a softmax over them, gradients add up to nothing by construction.

    Example:
        >>> channel_weights(torch.tensor([[[[1.0, -1.0 + 1e-7]], [[1.0, -0.9]]]])).flatten()
        tensor([0.0000, 0.0500])
    """
    means, sizes = (values.mean(dim=(2, 3), keepdim=True) for values in (gradients, gradients.abs()))
    return means.masked_fill((means.abs() <= _ROUNDING * sizes) & sizes.isfinite(), 0.0)


def _seen_in_part(prepared: Prepared, target: Target, values: Mapping[str, tuple[Tensor, ...]]) -> list[str]:
    """That much goes past the layer which was chosen for a class, where branches are joined in no module.

    Not of tokens: past the last norm before they are mixed goes what the class's token has already.
    """
    ((name, (output, *_)),) = values.items()
    if target.layers or prepared.head == "boxes" or output.ndim != 4:
        return []
    past = prepared.looks.passed_by(name)
    if past < _MUCH:
        return []
    return [
        f"{past:.0%} of the gradient goes past layer {name}, the last with places: what is added or joined there has "
        "no module of its own; name the layers of the branches as layer=a+b, or one before them"
    ]


def _laid_out(output: Tensor, grid: Tensor, what: str, layout: Layout | None) -> list[str]:
    """How the tokens of a layer were laid out as places, where its output is a row of tokens."""
    if output.ndim != 3:
        return []
    tokens = int(output.shape[token_axis(layout)])
    places = token_note(tokens, (int(grid.shape[-2]), int(grid.shape[-1])), extra_tokens(layout))
    return [f"the {tokens} tokens of {what} are laid out as {places}"]


def averaged_layers(
    maps: Sequence[Tensor],
    names: tuple[str, ...],
    classifier: Classifier,
    images: Tensor,
    target: Target,
    score: Tensor,
    relu: bool,
) -> Attribution:
    """The Attribution of one map (N, h, w) as it is, or of several layers' maps made one.

    Several are each divided by their largest magnitude, so that layers of different scales weigh the same, brought to
    the finest of their grids and averaged: a reading of ours, as papers and libraries differ.
    """
    maps = [values.clamp(min=0) if relu else values for values in maps]
    if len(maps) > 1:
        finest = max((tuple(values.shape[-2:]) for values in maps), key=lambda grid: grid[0] * grid[1])
        maps = [torch.stack([_resized(_scaled(values), (finest[0], finest[1])) for values in maps]).mean(dim=0)]
    grid = laid_by(prepare(classifier), names, images).grid(sides(images), sides(maps[0]))
    return attribution(maps[0], images, target, score, layer="+".join(names), grid=grid)


def _scaled(values: Tensor) -> Tensor:
    largest = values.abs().amax(dim=(1, 2), keepdim=True)
    return values / torch.where(largest > 0, largest, torch.ones_like(largest))


def _resized(values: Tensor, cells: tuple[int, int]) -> Tensor:
    offset, stride = even_grid(cells, (int(values.shape[-2]), int(values.shape[-1])))
    return to_network_size(values, offset, stride, cells)
