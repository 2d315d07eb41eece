"""Works of one or more backward passes to the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.images import photographs
from benchmarks.work import Run, Work
from benchmarks.works.networks import Normalized, best_classes, embedded, torchvision_network
from phosphene.classifier import Classifier
from phosphene.registry import entry, parse_spec
from phosphene.runtime import input_gradient, prepare
from phosphene.targets import Target
from phosphene.types import Attribution

Load = Callable[[], Classifier]


def ours(load: Load, spec: str, read: Callable[[Attribution], Tensor] = lambda found: found.maps) -> Callable[..., Run]:
    """A method of ours by its spec."""

    def make(precision: str, count: int) -> Run:
        classifier, images = load(), photographs(count)
        target = Target.of(best_classes(classifier, images))
        prepared = prepare(classifier, precision=precision)  # type: ignore[arg-type]
        parsed = parse_spec(spec)
        method = entry("attribution", parsed.name).function
        return lambda: read(method(prepared, images, target, **parsed.keywords)).numpy()

    return make


def ours_alone(load: Load, spec: str) -> Callable[..., Run]:
    """A method of ours by its spec, on one picture after the other, as most people run it."""

    def make(precision: str, count: int) -> Run:
        classifier, images = prepare(load(), precision=precision), photographs(count)  # type: ignore[arg-type]
        classes = best_classes(load(), images)
        parsed = parse_spec(spec)
        method = entry("attribution", parsed.name).function

        def run() -> np.ndarray:
            found = [
                method(classifier, image[None], Target.of(label), **parsed.keywords).maps
                for image, label in zip(images, classes, strict=True)
            ]
            return torch.cat(found).numpy()

        return run

    return make


def captum(load: Load, name: str, read: Callable[[Tensor], Tensor], **keywords: Any) -> Callable[[int, int], Run]:
    """A method of captum's, `batch` images at a time."""

    def make(batch: int, count: int) -> Run:
        import captum.attr

        classifier, images = load(), photographs(count)
        classes = torch.tensor(best_classes(classifier, images))
        method = getattr(captum.attr, name)(Normalized(classifier))

        def run() -> np.ndarray:
            parts = []
            for part, labels in zip(images.split(batch), classes.split(batch), strict=True):
                found = method.attribute(part.clone().requires_grad_(), target=labels, **keywords)
                parts.append(read(found.detach()))
            return torch.cat(parts).numpy()

        return run

    return make


def integrated(batch: int, count: int) -> Run:
    """Captum's integrated gradients, `batch` points of the path at a time."""
    return captum(embedded, "IntegratedGradients", lambda found: found.sum(1), n_steps=50, internal_batch_size=batch,
                  method="gausslegendre")(1, count)  # fmt: skip


def gradient_ours(precision: str, count: int) -> Run:
    classifier, images = prepare(embedded(), precision=precision), photographs(count)  # type: ignore[arg-type]
    target = Target.of(best_classes(embedded(), images))
    return lambda: input_gradient(classifier, images, target)[1].numpy()


def gradient_plain(batch: int, count: int) -> Run:
    """The loop that everybody writes: autograd on the network as it was loaded."""
    network, images = Normalized(embedded()), photographs(count)
    classes = torch.tensor(best_classes(embedded(), images))

    def run() -> np.ndarray:
        parts = []
        for part, labels in zip(images.split(batch), classes.split(batch), strict=True):
            leaf = part.clone().requires_grad_()
            scores = network(leaf).gather(1, labels[:, None])
            parts.append(torch.autograd.grad(scores.sum(), leaf)[0])
        return torch.cat(parts).numpy()

    return run


def vgg() -> Classifier:
    return torchvision_network("vgg16")


WORKS = [
    Work("saliency", "efficientnet_lite0", "captum Saliency", ours(embedded, "saliency"),
         captum(embedded, "Saliency", lambda found: found.amax(1)), count=64, probe=8),
    Work("saliency_1", "efficientnet_lite0", "captum Saliency", ours_alone(embedded, "saliency"),
         captum(embedded, "Saliency", lambda found: found.amax(1)), count=16, probe=8, batches=(1,)),
    Work("input_gradient", "efficientnet_lite0", "plain PyTorch", gradient_ours, gradient_plain, count=32, probe=8),
    Work("integrated_gradients", "efficientnet_lite0", "captum IntegratedGradients",
         ours(embedded, "integrated_gradients:steps=50"), integrated, count=2, probe=1, precisions=("exact",),
         of_images=False),
    Work("guided_backprop", "vgg16 (random weights)", "captum GuidedBackprop", ours(vgg, "guided_backprop"),
         captum(vgg, "GuidedBackprop", lambda found: found.sum(1)), count=8, probe=8, batches=(1, 8)),
]  # fmt: skip
