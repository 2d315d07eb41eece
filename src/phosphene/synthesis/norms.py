"""Each channel's mean and deviation over photographs: what a network's norms remember, or measured on a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.devices import wide
from phosphene.errors import ModelError
from phosphene.runtime import activations, prepare
from phosphene.synthesis.canvas import class_count

# A channel further off than five deviations pulls no more: single rare features must not outweigh all others. Ours.
_FARTHEST = 25.0
# The deviation of a channel that training switched off is taken for this part of the layer's largest. Ours.
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Memory:
    """The mean and the deviation (k,) of a layer's output over photographs."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> Memory:
        """What a norm remembers of its training images: its bias and its (absolute) weight."""
        if norm.weight is None:
            assert norm.running_mean is not None
            return cls(torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_mean))
        return cls.kept(norm.bias.detach().float(), norm.weight.detach().float().abs())

    @classmethod
    def kept(cls, mean: Tensor, deviation: Tensor) -> Memory:
        """With deviations that one can divide by."""
        return cls(mean, deviation.clamp(min=max(1e-12, _LEAST_DEVIATION * float(deviation.max()))))

    def moments(self, output: Tensor) -> Tensor:
        """(n, 2, k): mean and mean square over the places of each image's output, in remembered deviations."""
        mean, deviation = self.mean.to(output.device), self.deviation.to(output.device)
        flat = ((output.float() - mean[:, None, None]) / deviation[:, None, None]).flatten(2)
        return torch.stack([flat.mean(dim=2), flat.square().mean(dim=2)], dim=1)


@dataclass
class Measured:
    """Mean and deviation of a layer's output over pictures that are seen batch after batch."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def see(self, output: Tensor) -> None:
        """Count the images and places of an output (n, k, h, w)."""
        flat = wide(output).movedim(1, 0).flatten(1)
        self.count += flat.shape[1]
        self.total, self.squares = self.total + flat.sum(dim=1), self.squares + flat.square().sum(dim=1)

    def memory(self) -> Memory:
        """What was seen so far.

        Example:
            >>> seen = Measured()
            >>> seen.see(torch.tensor([[[[1.0, 3.0]]]]))
            >>> seen.memory()
            Memory(mean=tensor([2.]), deviation=tensor([1.]))
        """
        mean, squares = torch.as_tensor(self.total) / self.count, torch.as_tensor(self.squares) / self.count
        return Memory.kept(mean.float(), (squares - mean.square()).clamp(min=0).sqrt().float())


def distance(moments: Tensor) -> Tensor:
    """(n,) how far moments (n, 2, k) lie from what is remembered: ``min(m^2, 25) + (s - 1)^2``, mean over channels.

    Example:
        >>> distance(torch.tensor([[[0.0, 1.0], [1.0, 5.0]]]))  # deviations 1 and 2, means 0 and 1
        tensor([1.])
    """
    mean, square = moments.unbind(dim=1)
    spread = (square - mean.square()).clamp(min=1e-6).sqrt()
    return (mean.square().clamp(max=_FARTHEST) + (spread - 1).square()).mean(dim=1)


def memories(classifier: Classifier) -> Mapping[str, Memory]:
    """What the norms remember that say most for their cost, by layer: the first, the last and the narrow ones.

    A narrow norm has fewer channels than the one before, as where a block of a network projects its many channels on
    few, which no activation follows. Without such norms all count. A network without batch norms that keep
    statistics has none; nor has one that was never trained, whose norms still have those that they were made with.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> list(memories(Classifier(net)))
        []
        >>> _ = net.train()(torch.rand(2, 3, 8, 8))
        >>> list(memories(Classifier(net)))
        ['1']
    """
    norms = {
        name: module
        for name, module in prepare(classifier).module.named_modules()
        if type(module) is nn.BatchNorm2d and _has_seen(module)
    }
    return {name: Memory.of(norms[name]) for name in _telling({name: norms[name].num_features for name in norms})}


def _has_seen(norm: nn.BatchNorm2d) -> bool:
    """Whether a norm's statistics are of any images: none are there, or they are as they were made."""
    mean, variance = norm.running_mean, norm.running_var
    return mean is not None and variance is not None and not (bool((mean == 0).all()) and bool((variance == 1).all()))


def measured_memories(classifier: Classifier, pictures: Iterable[Tensor]) -> Mapping[str, Memory]:
    """The same measured on pictures: of a network's batch norms, or where it has none of its convolutions.

    Of convolutions the one that gives the classes is left out: a picture of one class should not look like all.

    Args:
        classifier: the network.
        pictures: (n, C, H, W), batch after batch.

    Raises:
        ModelError: for a network that has neither.
    """
    prepared = prepare(classifier)
    modules, ran = dict(prepared.module.named_modules()), {layer.name: layer.shape for layer in prepared.layers}
    maps = {name: shape[0] for name, shape in ran.items() if len(shape) == 3}
    classes = class_count(prepared)
    norms = {name: width for name, width in maps.items() if isinstance(modules[name], nn.BatchNorm2d)}
    convolutions = {
        name: width for name, width in maps.items() if isinstance(modules[name], nn.Conv2d) and width != classes
    }
    layers = _telling(norms or convolutions)
    if not layers:
        raise ModelError(f"{classifier.name}: has no batch norm and no convolution to take statistics of pictures at")
    sums = {layer: Measured() for layer in layers}
    for images in pictures:
        _, outputs = activations(classifier, images, layers)
        for layer, output in outputs.items():
            sums[layer].see(output)
    return {layer: measured.memory() for layer, measured in sums.items()}


def _telling(widths: Mapping[str, int]) -> list[str]:
    """Of layers in order, with their channels, those that say most: the first, the last and the narrow ones."""
    names = list(widths)
    narrow = {after for before, after in pairwise(names) if widths[after] < widths[before]}
    return [name for name in names if not narrow or name in {names[0], names[-1], *narrow}]
