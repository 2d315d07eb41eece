"""What a network's norms remember of the photographs it was trained on: each channel's mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.runtime import prepare
from phosphene.synthesis.objectives import Objective, StepOutputs
from phosphene.types import Size

# A channel further off than five deviations pulls no more: single rare features must not outweigh all others. Ours.
_FARTHEST = 25.0
# The deviation of a channel that training switched off is taken for this part of the layer's largest. Ours.
_LEAST_DEVIATION = 1e-3


def norm_statistics(classifier: Classifier, within: float = 1.0) -> Objective:
    """(n,) how far an image's features lie from the statistics in the network's batch norms; subtract it, scaled.

    ``mean over layers and channels of min(((m - b) / g)^2, 25) + (s / g - 1)^2``, m and s the mean and deviation of a
    batch norm's output over the image's own places, b and g its bias and (absolute) weight, which are the mean and
    deviation of that output over the training images. Nothing but the classifier is needed. DeepInversion compares
    whole batches; here each image stands for itself, so that it does not hang on its neighbors.

    Args:
        classifier: any; without a BatchNorm2d that keeps statistics the objective is 0.
        within: only places within this part of the distance from the middle to the border count, with a soft edge;
            from 1 on all places.

    Returns:
        The objective; it sees the output of every batch norm that runs, the last one of a norm that runs often.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> norm_statistics(Classifier(net)).layers
        ('1',)

    References:
        yin2020
    """
    norms = _norms(classifier)
    memory = {name: _memory(norm) for name, norm in norms.items()}

    def value(step: StepOutputs) -> Tensor:
        outputs = step.activations
        far = [_distance(outputs[name], *memory[name], within) for name in memory if name in outputs]
        return torch.stack(far).mean(dim=0) if far else step.images.new_zeros(len(step.images))

    return Objective(value, tuple(memory))


def _norms(classifier: Classifier) -> Mapping[str, nn.BatchNorm2d]:
    return {
        name: module
        for name, module in prepare(classifier).module.named_modules()
        if type(module) is nn.BatchNorm2d and module.running_mean is not None
    }


def _memory(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(mean, deviation) of the norm's output over the training images, (k,) each."""
    if norm.weight is None:
        assert norm.running_mean is not None
        return torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_mean)
    deviation = norm.weight.detach().float().abs()
    return norm.bias.detach().float(), deviation.clamp(min=_LEAST_DEVIATION * float(deviation.max()))


def _distance(output: Tensor, mean: Tensor, deviation: Tensor, within: float) -> Tensor:
    mean, deviation = mean.to(output.device), deviation.to(output.device)
    # In units of the remembered deviation, so that the variance is no small difference of large numbers.
    flat = ((output.float() - mean[:, None, None]) / deviation[:, None, None]).flatten(2)  # (n, k, places)
    share = _share((int(output.shape[-2]), int(output.shape[-1])), within).to(flat)
    own = flat @ share
    spread = (flat.square() @ share - own.square()).clamp(min=1e-6).sqrt()
    off = own.square().clamp(max=_FARTHEST) + (spread - 1).square()
    return off.mean(dim=1)


def _share(size: Size, within: float) -> Tensor:
    """(places,) how much each place counts; they sum to 1."""
    if within >= 1:
        return torch.full((size[0] * size[1],), 1 / (size[0] * size[1]), device="cpu")
    y, x = ((torch.arange(side, device="cpu") + 0.5) / side * 2 - 1 for side in size)
    inside = ((within - torch.hypot(y[:, None], x[None])) * min(size) / 4 + 0.5).clamp(0, 1)
    return (inside / inside.sum()).reshape(-1)
