"""What an image is made to do to the network: objectives, added and scaled like numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.classifier import Classifier
from phosphene.errors import NotFoundError, OptionError
from phosphene.graph import spatial_map
from phosphene.runtime import Prepared
from phosphene.runtime.backward import no_gradient
from phosphene.targets import Outputs, Target, Unit, check_classes
from phosphene.types import Layout, Score


@dataclass(frozen=True)
class StepOutputs:
    """What the network answered to the augmented images of a batch, with the graph to differentiate.

    Args:
        logits: (n, K).
        activations: per captured layer, its output (n, ...).
        images: (n, C, H, W) the images themselves, not augmented.
        start: place of the first of them in the whole run, so that per-image data find their rows.
        step: the step that is being made, from 0, so that weights of terms may follow a schedule.
        steps: how many there are.
        layouts: per captured layer, which axis of its output holds the channels, as far as known.
        reader: the classifier, which knows how the logits are read.
        raw: whatever the network returned, of which the logits were read.
    """

    logits: Tensor
    activations: dict[str, Tensor]
    images: Tensor
    start: int = 0
    step: int = 0
    steps: int = 1
    layouts: Mapping[str, Layout | None] = field(default_factory=dict)
    reader: Classifier | None = None
    raw: Any = None

    @property
    def outputs(self) -> Outputs:
        """The same as targets look at it."""
        assert self.reader is not None
        return Outputs(
            self.reader, self.raw, len(self.logits), self.images, self.activations, self.layouts, self.logits
        )

    @property
    def raised(self) -> Tensor:
        """The logits as what is raised: a penalty beside them would draw a picture of nothing by itself.

        Raises:
            ModelError: if no gradient comes back from them to the images.
        """
        asked = self.images.requires_grad and torch.is_grad_enabled()
        if asked and not self.logits.requires_grad and isinstance(self.reader, Prepared):
            raise no_gradient(self.reader)
        return self.logits

    def rows(self, values: Tensor) -> Tensor:
        """The rows of per-image data (N, ...) that belong to this batch; one row serves all."""
        part = values if len(values) == 1 else values[self.start : self.start + len(self.images)]
        return part.to(self.images.device)


@dataclass(frozen=True)
class Objective:
    """A number per image to be raised, and the layers it has to see.

    Args:
        value: StepOutputs -> (n,).
        layers: dotted names of the layers that are captured for it.

    Example:
        >>> both = channel("conv", 3) + 0.5 * energy("conv") - energy("stem")
        >>> both.layers
        ('conv', 'stem')
    """

    value: Callable[[StepOutputs], Tensor]
    layers: tuple[str, ...] = ()

    def __call__(self, step: StepOutputs) -> Tensor:
        return self.value(step)

    def __add__(self, other: Objective) -> Objective:
        return Objective(lambda step: self(step) + other(step), _union(self, other))

    def __sub__(self, other: Objective) -> Objective:
        return self + other * -1.0

    def __neg__(self) -> Objective:
        return self * -1.0

    def __mul__(self, weight: float | Tensor | Objective) -> Objective:
        """Scaled by a number, by one number per image (N,), or by another objective."""
        if isinstance(weight, Objective):
            return Objective(lambda step: self(step) * weight(step), _union(self, weight))
        if isinstance(weight, Tensor):
            return Objective(lambda step: self(step) * step.rows(weight.reshape(-1)), self.layers)
        return Objective(lambda step: self(step) * weight, self.layers)

    __rmul__ = __mul__


# The objective that nothing changes.
NOTHING = Objective(lambda step: torch.zeros_like(step.logits[:, 0]))


def _union(*objectives: Objective) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer for objective in objectives for layer in objective.layers))


def class_score(classifier: Classifier, target: Target, score: Score = "logit") -> Objective:
    """The score of each image's class: its logit, its log-probability, or its margin to the best other class.

    ``score="probability"`` raises log p_c: the same optimum as the softmax posterior p_c of the paper, but a
    gradient that does not vanish while p_c is near 0 (ours).
    """

    def value(step: StepOutputs) -> Tensor:
        own = _own(target, step)
        if (target.score or score) == "probability" and not own.versus:
            return _log_probability(classifier, step.raised, own)
        return classifier.score(step.raised, own, score)

    return Objective(value)


def posterior(classifier: Classifier, target: Target) -> Objective:
    """The probability p_c of each image's class itself.

    The same optimum as ``class_score(..., score="probability")``, which raises its logarithm: the gradient is p_c times
    that one, and next to nothing while the class is improbable.
    """

    def value(step: StepOutputs) -> Tensor:
        if target.versus:
            return classifier.score(step.raised, _own(target, step), "probability")
        return _log_probability(classifier, step.raised, _own(target, step)).exp()

    return Objective(value)


def _own(target: Target, step: StepOutputs) -> Target:
    """The targets of the images that are looked at; one serves all."""
    return target if len(target.classes) == 1 else target.rows(step.start, step.start + len(step.images))


def _log_probability(classifier: Classifier, logits: Tensor, target: Target, temperature: float = 1.0) -> Tensor:
    if classifier.head == "score":
        raise OptionError(f"{classifier.name} has a head of plain scores: no probability; use score 'logit'")
    check_classes(target.classes, Outputs(classifier, given=logits))
    index = torch.tensor(target.expand(len(logits)).classes, device=logits.device)
    return _logarithms(classifier, logits, temperature).gather(1, index[:, None])[:, 0]


def _logarithms(classifier: Classifier, logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(n, K) logarithms of the probabilities, with logits divided by a temperature and the logarithms times it."""
    if classifier.head not in ("softmax", "sigmoid"):
        return logits
    cool = logits / temperature
    return temperature * (cool.log_softmax(dim=1) if classifier.head == "softmax" else nn.functional.logsigmoid(cool))


def saturating(classifier: Classifier, target: Target, temperature: float) -> Objective:
    """``T * log softmax(logits / T)`` of each image's class: it pulls less the surer the network is.

    A logit can be raised without end, by a picture that is all features of the class and of nothing that there is;
    this cannot. A larger T is satisfied later. Of a class against others, and of plain scores,
    ``T * log sigmoid(score / T)``; of a head of probabilities their logarithm.
    """
    if target.versus or classifier.head == "score":
        score = class_score(classifier, target)
        return Objective(lambda step: temperature * nn.functional.logsigmoid(score(step) / temperature))

    def value(step: StepOutputs) -> Tensor:
        return _log_probability(classifier, step.raised, _own(target, step), temperature)

    return Objective(value)


def scheduled(weight: Callable[[int, int], float], objective: Objective) -> Objective:
    """An objective whose weight follows a schedule over the steps."""
    return Objective(lambda step: objective(step) * weight(step.step, step.steps), objective.layers)


def in_turn(objectives: Sequence[Objective]) -> Objective:
    """One of several objectives at each step, in turn."""
    return Objective(lambda step: objectives[step.step % len(objectives)](step), _union(*objectives))


def of_target(classifier: Classifier, target: Target, score: Score = "logit") -> Objective:
    """The objective that raises a target: the score of a class, the activation of a unit, or what another kind says."""
    if target.classes:
        return class_score(classifier, target, score)
    return Objective(lambda step: target.scores(step.outputs, score), target.layers)


def even_share(classifier: Classifier, groups: Sequence[Sequence[int]], temperature: float = 1.0) -> Objective:
    """The mean log-probability of several classes, highest where they share all the probability evenly.

    With a softmax head this is minus the cross-entropy to the uniform distribution over the classes of the group.

    Args:
        classifier: knows the head.
        groups: the classes of each image, the same number for all.
        temperature: T of ``T * log softmax(logits / T)``.
    """
    index = _group_index(classifier, groups)

    def value(step: StepOutputs) -> Tensor:
        logs = _logarithms(classifier, step.raised, temperature)
        return logs.gather(1, step.rows(index)).mean(dim=1)

    return Objective(value)


def all_scores(classifier: Classifier, groups: Sequence[Sequence[int]]) -> Objective:
    """The mean logit of several classes, which knows no even share but says far from the classes where to go."""
    index = _group_index(classifier, groups)
    return Objective(lambda step: step.raised.gather(1, step.rows(index)).mean(dim=1))


def _group_index(classifier: Classifier, groups: Sequence[Sequence[int]]) -> Tensor:
    """(N, classes) of the groups."""
    if classifier.head == "score":
        raise OptionError(f"{classifier.name} has a head of plain scores: no probabilities to share between classes")
    return torch.tensor([list(group) for group in groups], device="cpu")


def unit(place: Unit) -> Objective:
    """The activation of a unit: a neuron, a channel's mean over places, or half the energy of a whole layer."""
    return Objective(lambda step: place.scores(step.outputs), place.layers)


def _pooled(step: StepOutputs, layer: str) -> Tensor:
    """(n, k) a layer's output averaged over its places."""
    output = step.activations[layer].float()
    if output.ndim == 2:
        return output
    layout = step.layouts.get(layer)
    return spatial_map(output, f"the output of layer {layer}", step.images, layout).flatten(2).mean(dim=2)


def channel(layer: str, channel: int | Sequence[int]) -> Objective:
    """The mean activation of a channel, one for all images or one for each."""
    if isinstance(channel, int):
        return unit(Unit(layer, channel))
    index, highest = torch.tensor(list(channel), device="cpu"), max(channel)

    def value(step: StepOutputs) -> Tensor:
        means, rows = _pooled(step, layer), step.rows(index)
        if highest >= means.shape[1] or min(channel) < 0:
            raise NotFoundError(f"no channel {highest} in {layer}: it has {means.shape[1]}, from 0")
        return means.gather(1, rows.expand(len(means))[:, None])[:, 0]

    return Objective(value, (layer,))


def neuron(layer: str, channel: int, place: tuple[int, int]) -> Objective:
    """The activation of one channel at one place (row, column) of the layer's grid."""
    return unit(Unit(layer, channel, place))


def energy(layer: str) -> Objective:
    """Half the sum of squares of a layer: its gradient is the layer's own activation, as in DeepDream."""
    return unit(Unit(layer))


def direction(layer: str, vectors: Tensor) -> Objective:
    """The dot product of a layer's output, averaged over places, with a vector (k,) or one per image (N, k).

    A vector of the layer's whole shape (k, h, w) or (N, k, h, w) is compared place by place (mean over places).
    """
    vectors = vectors if vectors.ndim in (2, 4) else vectors[None]

    def value(step: StepOutputs) -> Tensor:
        output = _pooled(step, layer) if vectors.ndim == 2 else step.activations[layer].float()
        wanted = step.rows(vectors).to(output)
        if wanted.shape[1:] != output.shape[1:]:
            raise OptionError(
                f"a direction of shape {tuple(wanted.shape[1:])} in {layer}, whose output for one image is "
                f"{tuple(output.shape[1:])}"
            )
        return (output * wanted).flatten(1).sum(dim=1) / max(1, output[0, 0].numel())

    return Objective(value, (layer,))


def toward(layer: str, vectors: Tensor, power: float = 2.0) -> Objective:
    """How far a layer's output, averaged over places, goes along vectors (N, k), times how straight it goes there.

    ``(a . v / |v|) * max(0.1, cos(a, v))^power``: the dot product alone is raised by whatever excites the layer at all.

    References:
        carter2019.
    """
    wanted = F.normalize(vectors.float(), dim=1)

    def value(step: StepOutputs) -> Tensor:
        pooled = _pooled(step, layer)
        along = (pooled * step.rows(wanted).to(pooled)).sum(dim=1)
        cosine = along / pooled.norm(dim=1).clamp(min=1e-6)
        found: Tensor = along * cosine.clamp(min=0.1) ** power
        return found

    return Objective(value, (layer,))


def squared_norm(center: Tensor) -> Objective:
    """||I - center||_2^2 of the image itself: subtract it, scaled, as the class model's regularizer.

    Args:
        center: (C, 1, 1) a color, or (C, H, W) a picture, which is resized to images of another size.
    """

    def value(step: StepOutputs) -> Tensor:
        middle, size = center.to(step.images), tuple(step.images.shape[-2:])
        if tuple(middle.shape[-2:]) not in ((1, 1), size):
            middle = F.interpolate(middle[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
        return (step.images - middle).square().flatten(1).sum(dim=1)

    return Objective(value)


def absolute_norm(center: Tensor) -> Objective:
    """||I - center||_1 of the image itself."""
    return Objective(lambda step: (step.images - center.to(step.images)).abs().flatten(1).sum(dim=1))
