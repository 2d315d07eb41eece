"""What a network's norms remember of the photographs it was trained on: each channel's mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.runtime import prepare

# A channel further off than five deviations pulls no more: single rare features must not outweigh all others. Ours.
_FARTHEST = 25.0
# The deviation of a channel that training switched off is taken for this part of the layer's largest. Ours.
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Memory:
    """The mean and the deviation (k,) of a norm's output over the training images: its bias and (absolute) weight."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> Memory:
        """What a norm remembers."""
        if norm.weight is None:
            assert norm.running_mean is not None
            return cls(torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_mean))
        deviation = norm.weight.detach().float().abs()
        return cls(norm.bias.detach().float(), deviation.clamp(min=_LEAST_DEVIATION * float(deviation.max())))

    def moments(self, output: Tensor) -> Tensor:
        """(n, 2, k): mean and mean square over the places of each image's output, in remembered deviations."""
        mean, deviation = self.mean.to(output.device), self.deviation.to(output.device)
        flat = ((output.float() - mean[:, None, None]) / deviation[:, None, None]).flatten(2)
        return torch.stack([flat.mean(dim=2), flat.square().mean(dim=2)], dim=1)


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
    statistics has none.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> list(memories(Classifier(net)))
        ['1']
    """
    norms = {
        name: module
        for name, module in prepare(classifier).module.named_modules()
        if type(module) is nn.BatchNorm2d and module.running_mean is not None
    }
    names = list(norms)
    narrow = {after for before, after in pairwise(names) if _width(norms[after]) < _width(norms[before])}
    chosen = [name for name in names if not narrow or name in {names[0], names[-1], *narrow}]
    return {name: Memory.of(norms[name]) for name in chosen}


def _width(norm: nn.BatchNorm2d) -> int:
    return norm.num_features
