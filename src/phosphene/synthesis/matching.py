"""How far an image's activations are from a target's, and how much they point its way: the terms of The Mind's Eye."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from phosphene.errors import OptionError
from phosphene.graph import channel_axis, spatial_map, spatial_size
from phosphene.synthesis.objectives import Objective, StepOutputs
from phosphene.synthesis.robust_loss import AdaptiveDistance
from phosphene.synthesis.schedules import Schedule, constant
from phosphene.synthesis.step_rules import StepState
from phosphene.types import Layout

Terms = Literal["full", "dot", "distance"]


def channel_values(
    output: Tensor, images: Tensor, what: str = "a layer", *, maps: bool = False, layout: Layout | None = None
) -> Tensor:
    """(n, k, P) the channels of a layer's output: their mean over places (P = 1), or every place.

    Args:
        output: (n, k), (n, k, h, w), (n, h, w, k) or (n, T, k); of tokens those of the image's patches, if it has any.
        images: (n, C, H, W) that the network saw.
        what: what it is, for the message.
        maps: whether the places are kept apart.
        layout: which axis of the output holds the channels; None if nobody says.

    Raises:
        ModelError: if places are asked for of an output that has none.

    Example:
        >>> images = torch.rand(2, 3, 32, 32)
        >>> [tuple(channel_values(torch.rand(shape), images).shape) for shape in ((2, 5), (2, 9, 4, 4), (2, 17, 5))]
        [(2, 5, 1), (2, 9, 1), (2, 5, 1)]
        >>> channel_values(torch.rand(2, 5, 4, 4), images, maps=True, layout="NCHW").shape
        torch.Size([2, 5, 16])
    """
    output = output.float()
    size = (int(images.shape[-2]), int(images.shape[-1]))
    if maps or (output.ndim > 2 and spatial_size(tuple(output.shape[1:]), size, layout) is not None):
        values = spatial_map(output, f"the output of {what}", images, layout).flatten(2)
    else:
        values = (
            output.movedim(channel_axis(output, images, layout), 1).flatten(2) if output.ndim > 2 else output[..., None]
        )
    return values if maps else values.mean(dim=2, keepdim=True)


@dataclass(frozen=True)
class Match:
    """Target activations of a layer, one per image, and the channels that count.

    Args:
        layer: its dotted name.
        target: (N, k, P) as `channel_values` gives it; P = 1 for pooled activations.
        mask: (N, k) 1 for the channels that count, 0 for the others.
        order: 1 adds the channels' differences up (the paper's mdist), 2 takes the root of the sum of their squares.
        relative: whether distances are in units of the target's own length, and dot products in its square.
    """

    layer: str
    target: Tensor
    mask: Tensor
    order: Literal[1, 2] = 1
    relative: bool = False

    def differences(self, step: StepOutputs) -> Tensor:
        """(n, k) ``||a_j - t_j||`` of each channel, the Euclidean norm over places; 0 where masked."""
        return _norm(self._values(step) - self._target(step)) * step.rows(self.mask)

    def distance(self, step: StepOutputs) -> Tensor:
        """(n,) mdist of equation 3: the differences of all channels that count, put together."""
        return self._together(self.differences(step)) / self._length(step)

    def dot(self, step: StepOutputs) -> Tensor:
        """(n,) DM of equation 2: the sum of a_j * t_j over the channels that count, and over their places."""
        products = (self._values(step) * self._target(step)).sum(dim=2) * step.rows(self.mask)
        square = self._target(step).square().sum(dim=2) * step.rows(self.mask)
        return products.sum(dim=1) / (square.sum(dim=1).clamp(min=1e-12) if self.relative else 1.0)

    def _length(self, step: StepOutputs) -> Tensor | float:
        if not self.relative:
            return 1.0
        return self._together(_norm(self._target(step)) * step.rows(self.mask)).clamp(min=1e-12)

    def _together(self, differences: Tensor) -> Tensor:
        if self.order == 1:
            return differences.sum(dim=1)
        return (differences.square().sum(dim=1) + 1e-20).sqrt()

    def _target(self, step: StepOutputs) -> Tensor:
        return step.rows(self.target)

    def _values(self, step: StepOutputs) -> Tensor:
        found = channel_values(
            step.activations[self.layer],
            step.images,
            f"layer {self.layer}",
            maps=self.target.shape[2] > 1,
            layout=step.layouts.get(self.layer),
        )
        if found.shape[1:] != self.target.shape[1:]:
            raise OptionError(
                f"a target of {self.target.shape[1]} channels and {self.target.shape[2]} places for layer "
                f"{self.layer}, which gives {found.shape[1]} and {found.shape[2]}; "
                "images of another size need pooled targets (maps=false)"
            )
        return found


def _norm(values: Tensor) -> Tensor:
    """(n, k) Euclidean norm over places of (n, k, P); the magnitude for one place."""
    if values.shape[2] == 1:
        return values[..., 0].abs()
    return (values.square().sum(dim=2) + 1e-20).sqrt()


def previous_norm(layer: str) -> Objective:
    """``sum over j of ||a_{i-1,j}||_1`` of the layer before, over all channels and places (equation 4).

    Over places too, as printed and as the published script has it: a mean makes the term as many times too weak as the
    layer has places. It grows with the image's size, as the paper's does.
    """
    return Objective(lambda step: step.activations[layer].float().abs().flatten(1).sum(dim=1), (layer,))


def mismatch(match: Match) -> Objective:
    """The distance to the target activation of a layer itself, without a robust loss."""
    return Objective(match.distance, (match.layer,))


@dataclass
class FacetLoss:
    """Equation 4 as an objective to be raised: ``-(AD - DM + lambda * previous)``, with all its terms on record.

    AD is the negative log-likelihood of the distance, its shape and scale fitted by `fit` once after each step of
    the images. `terms` keeps the value of each term at the last look, for curves.

    Args:
        match: target and channels of AD.
        dots: target and channels of DM.
        adaptive: shape and scale of each image's distance, or of each channel's.
        previous: what is kept low in the layer before, or None.
        weights: of distance and dot product; 0 leaves a term out.
        decay: lambda as a function of the step.
    """

    match: Match
    dots: Match
    adaptive: AdaptiveDistance
    previous: Objective | None = None
    weights: tuple[float, float] = (1.0, 1.0)
    decay: Schedule = field(default_factory=lambda: constant(1e-3))

    def __post_init__(self) -> None:
        target = self.match.target
        self.terms = {name: target.new_zeros(len(target)) for name in ("distance", "dot", "previous", "mismatch")}
        self._seen = target.new_zeros(tuple(self.adaptive.scale.shape))

    @property
    def objective(self) -> Objective:
        """What the ascent raises."""
        layers = (self.match.layer, self.dots.layer, *(self.previous.layers if self.previous else ()))
        return Objective(self._value, tuple(dict.fromkeys(layers)))

    def fit(self, images: Tensor, _state: StepState) -> Tensor:
        """A rule for after the step: shape and scale follow the distances; the images stay as they are."""
        if self.weights[0]:
            self.adaptive.fit(self._seen)
        return images

    def _value(self, step: StepOutputs) -> Tensor:
        distance = self.match.distance(step)
        terms = {
            "mismatch": distance,
            "distance": self._robust(step, distance),
            "dot": self.dots.dot(step),
            "previous": torch.zeros_like(distance),
        }
        if self.previous is not None:
            terms["previous"] = self.decay(step.step, step.steps) * self.previous(step)
        for name, values in terms.items():
            self.terms[name][_rows(step)] = values.detach().float()
        total = -terms["previous"]
        for name, weight in (("distance", -self.weights[0]), ("dot", self.weights[1])):
            total = total + weight * terms[name] if weight else total
        return total

    def _robust(self, step: StepOutputs, distance: Tensor) -> Tensor:
        """(n,) AD of the distance, or its sum over the channels that count where each has its own shape and scale."""
        each = distance if self._seen.ndim == 1 else self.match.differences(step)
        self._seen[_rows(step)] = each.detach()
        loss = self.adaptive.loss(each, _rows(step))
        return loss if loss.ndim == 1 else (loss * step.rows(self.match.mask)).sum(dim=1)


def _rows(step: StepOutputs) -> slice:
    return slice(step.start, step.start + len(step.images))
