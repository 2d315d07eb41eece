"""How results are compared: the error of a map as the largest difference over the largest value."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from phosphene.classifier import Classifier


def map_error(got: Tensor, expected: Tensor) -> float:
    """max|a - b| / max|b|, the worst image of a batch (N, ...)."""
    got, expected = got.double().flatten(1), expected.double().flatten(1)
    return float(((got - expected).abs().amax(1) / expected.abs().amax(1).clamp(min=1e-300)).max())


def stretched(maps: Tensor) -> Tensor:
    """The positive part of each map (N, h, w) from its lowest to its highest value, as pytorch-grad-cam returns it."""
    positive = maps.clamp(min=0)
    positive = positive - positive.amin(dim=(1, 2), keepdim=True)
    return positive / (1e-7 + positive.amax(dim=(1, 2), keepdim=True))


def exact_score(classifier: Classifier, index: int, kind: str = "logit") -> Callable[[Tensor], Tensor]:
    """The score of one class as a float64 function of images (1, C, H, W) in [0, 1]; softmax head."""
    module = copy.deepcopy(classifier.module).double().eval()
    mean = torch.tensor(classifier.preprocess.mean, dtype=torch.float64).view(1, -1, 1, 1)
    std = torch.tensor(classifier.preprocess.std, dtype=torch.float64).view(1, -1, 1, 1)

    def score(images: Tensor) -> Tensor:
        logits = module((images - mean) / std)
        values = logits if kind == "logit" else logits.exp() / logits.exp().sum(1, keepdim=True)
        return values[0, index]

    return score
