"""The networks that both sides run, and how a peer sees them: normalisation and network as one module."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier, Preprocess
from phosphene.zoo import load_classifier


@cache
def embedded() -> Classifier:
    """EfficientNet-Lite0 with the published weights."""
    return load_classifier("embedded")


@cache
def torchvision_network(name: str) -> Classifier:
    """A network of torchvision's with random weights, drawn by seed 0, in eval mode."""
    import torchvision.models

    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None).eval()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Classifier(network, Preprocess((224, 224), 256, mean, std, "bilinear"), name=name)


class Normalized(nn.Module):
    """Images in [0, 1] -> logits, or probabilities: what a user of another library would write."""

    def __init__(self, classifier: Classifier, *, softmax: bool = False) -> None:
        super().__init__()
        self.preprocess, self.network, self.softmax = classifier.preprocess, classifier.module, softmax

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.preprocess.normalize(images))
        return logits.softmax(dim=1) if self.softmax else logits


def best_classes(classifier: Classifier, images: Tensor) -> list[int]:
    """The network's own best class of each image."""
    with torch.no_grad():
        rows = [classifier.logits(image[None]).argmax(1) for image in images]
    return torch.cat(rows).tolist()
