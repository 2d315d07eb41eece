"""python -m benchmarks.float64 FOLDER [--network NAME|FILE:FACTORY]... [--count N]: error against float64 and eager's.

The contract of `exact`: over 32 photographs or more the median and the 90th percentile of a saliency map's error,
max|a - b| / max|b| against float64, are at most 1.2 times those of PyTorch as the network was written, one batch on the
same threads. An error is mostly none, or one ReLU on the other side; the share of maps off by more than 1e-4 is shown
beside them.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.works.networks import embedded, torchvision_network
from phosphene.classifier import Classifier
from phosphene.images import list_images, read_image
from phosphene.runtime import input_gradient
from phosphene.targets import Target
from phosphene.zoo import load_classifier

_BATCH = 8
_SEEN = 1e-4


def network(name: str) -> Classifier:
    """A network by name; batch norms of torchvision's random ones take the statistics of random images first."""
    if name == "embedded":
        return embedded()
    if ":" in name:
        return load_classifier(name)
    classifier = torchvision_network(name)
    norms = [module for module in classifier.module.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        classifier.module.train()
        with torch.no_grad():
            classifier.module(torch.randn(16, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
        classifier.module.eval()
    return classifier


def errors(classifier: Classifier, images: Tensor) -> dict[str, np.ndarray]:
    """Of each image's saliency map, eager and ours, against float64."""
    double, found = copy.deepcopy(classifier.module).double().eval(), {"eager": [], "ours": []}
    for part in images.split(_BATCH):
        classes = classifier.logits(part).argmax(1)
        exact = _saliency(double, classifier, part.double(), classes)
        ours = input_gradient(classifier, part, Target.of(classes.tolist()))[1].abs().amax(1)
        for name, map_ in (("eager", _saliency(classifier.module, classifier, part, classes)), ("ours", ours)):
            found[name].append((map_.double() - exact).abs().flatten(1).amax(1) / exact.flatten(1).amax(1))
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def _saliency(module: nn.Module, classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    rows = classifier.read(module(classifier.preprocess.normalize(leaf)), len(leaf))
    (gradient,) = torch.autograd.grad(rows.gather(1, classes[:, None]).sum(), leaf)
    return gradient.abs().amax(1)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.float64", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--network", action="append")
    parser.add_argument("--count", type=int, default=32)
    chosen = parser.parse_args()
    paths = list_images(chosen.folder)[: chosen.count]
    print("| network | eager median | ours | ratio | eager 90 % | ours | ratio | off by > 1e-4: eager | ours |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in chosen.network or ["embedded", "vgg16", "resnet50"]:
        classifier = network(name)
        pictures = [read_image(path, classifier.preprocess.channels) for path in paths]
        images = torch.cat([classifier.preprocessed([picture], classifier.views([picture])) for picture in pictures])
        found = errors(classifier, images)
        cells = []
        for share in (0.5, 0.9):
            eager, ours = (float(np.quantile(found[side], share)) for side in ("eager", "ours"))
            cells += [f"{eager:.2e}", f"{ours:.2e}", f"{ours / eager:.2f}"]
        cells += [f"{float((found[side] > _SEEN).mean()):.2f}" for side in ("eager", "ours")]
        print(f"| {Path(name).name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
