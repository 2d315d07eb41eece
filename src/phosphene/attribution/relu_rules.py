"""What methods share that put a rule in the place of each ReLU's gradient: deconvnet, guided back-propagation."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from phosphene.attribution.result import attribution, plain
from phosphene.axes import is_tokens_first
from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.graph import LayerName, spatial_map
from phosphene.hooks import capture_input
from phosphene.maps import max_over_channels
from phosphene.relu_rule import ReluRule, relu_rule
from phosphene.runtime import prepare
from phosphene.runtime.backward import gradients
from phosphene.runtime.layer_looks import first_leaf
from phosphene.runtime.passes import asked, in_parts, scored
from phosphene.targets import Target
from phosphene.types import Attribution

Reduce = Literal["sum", "max_abs"]


def relu_rule_map(
    rule: ReluRule,
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    to: LayerName | None = None,
    reduce: Reduce = "sum",
    batch_size: int | None = None,
) -> Attribution:
    """What a rule for ReLUs brings back from the target to the image, or to the input of a layer.

    Args:
        rule: (gradient at a ReLU's output, through) -> gradient at its input; `through` makes of a gradient a new one
            that is zero where the ReLU let no value through.
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: where it starts: a class, or a unit: a neuron (layer, channel, place), a channel or a whole layer.
        to: a layer at whose input it ends, by dotted name or module; None for the image.
        reduce: what becomes of the channels: their sum, or the largest magnitude.
        batch_size: images per pass; None chooses.

    Returns:
        Signed maps (N, H, W), or (N, h, w) on the grid of the input of layer `to`; `reconstruction` holds all
        channels.

    Raises:
        ModelError: for an activation without a ReLU rule, naming its layer, or an end that lies above the start.
        NotFoundError: for an unknown layer or unit.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> found = relu_rule_map(lambda g, through: through(g), Classifier(net), torch.rand(1, 3, 2, 2), Target.of(1))
        >>> found.reconstruction.shape
        torch.Size([1, 3, 2, 2])
    """
    end = None if to is None else prepare(classifier).layer_name(to)
    score, gradient = rule_gradient(classifier, images, target, rule, to=end, batch_size=batch_size)
    if end is not None:
        layout = prepare(classifier).layout(end, fed=True)
        gradient = spatial_map(gradient, f"the input of layer {end}", images, layout)
    maps = gradient.sum(dim=1) if reduce == "sum" else max_over_channels(gradient)
    return attribution(maps, images, target, score, layer=end, reconstruction=plain(gradient))


def rule_gradient(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    rule: ReluRule,
    *,
    to: str | None = None,
    batch_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(score (N,), gradient (N, ...)) where ReLUs pass back by `rule`, at the images or at the input of layer `to`.

    Raises:
        ModelError: for an activation that no rule covers, or a score that does not depend on that layer.
    """
    prepared, target = asked(classifier, images, target, [] if to is None else [to])
    tokens_first = to is not None and is_tokens_first(prepared.layout(to, fed=True))

    def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
        inputs = prepared.ready(images[start:stop]).requires_grad_(to is None or prepared.first_look.whole)
        start_of_graph = (
            nullcontext({"": inputs})
            if to is None
            else capture_input(prepared.module, to, first_leaf, tokens_first=tokens_first)
        )
        with relu_rule(rule) as check, start_of_graph as found:
            values = scored(prepared, inputs, target.rows(start, stop))
            check(values)
            leaf = found.get(to or "")
            (gradient,) = (None,) if leaf is None else gradients(prepared, values, [leaf])
        if gradient is None and to is not None:
            raise ModelError(f"what is explained does not depend on the input of layer {to}; name a layer before it")
        return values.detach(), torch.zeros_like(inputs) if gradient is None else gradient

    return in_parts(prepared, images, run, batch_size, gradients=True)
