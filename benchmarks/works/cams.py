"""Works of one forward pass and a way back to a layer."""

from __future__ import annotations

import numpy as np

from benchmarks.images import photographs
from benchmarks.work import Run, Work
from benchmarks.works.gradients import ours
from benchmarks.works.networks import Normalized, best_classes, embedded


def shown(maps: np.ndarray, side: int = 224) -> np.ndarray:
    """Raw maps as pytorch-grad-cam shows them: the positive part, stretched to [0, 1], enlarged, stretched again."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    return np.asarray(scale_cam_image(scale_cam_image(np.maximum(maps, 0), (side, side))))


def our_grad_cam(precision: str, count: int) -> Run:
    raw = ours(embedded, "grad_cam")(precision, count)
    return lambda: shown(raw())


def pytorch_grad_cam(batch: int, count: int) -> Run:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classifier, images = embedded(), photographs(count)
    classes = best_classes(classifier, images)
    network = Normalized(classifier)
    method = GradCAM(network, [network.network.head[2]])
    targets = [ClassifierOutputTarget(label) for label in classes]

    def run() -> np.ndarray:
        starts = range(0, count, batch)
        return np.concatenate([method(images[i : i + batch], targets[i : i + batch]) for i in starts])

    return run


def stretched(maps: np.ndarray, positive: bool = True) -> np.ndarray:
    """Raw maps as torchcam returns them: the positive part of each (of its CAM, all), stretched to [0, 1]."""
    kept = np.maximum(maps, 0) if positive else maps
    low, high = (reduce(kept, axis=(1, 2), keepdims=True) for reduce in (np.min, np.max))
    return (kept - low) / (high - low + 1e-8)


def our_small_grad_cam(precision: str, count: int) -> Run:
    raw = ours(embedded, "grad_cam")(precision, count)
    return lambda: stretched(raw())


def torchcam(batch: int, count: int) -> Run:
    from torchcam.methods import GradCAM

    classifier, images = embedded(), photographs(count)
    classes = best_classes(classifier, images)
    network = Normalized(classifier)
    method = GradCAM(network, "network.head.2", input_shape=(3, 224, 224))

    def run() -> np.ndarray:
        parts = []
        for start in range(0, count, batch):
            logits = network(images[start : start + batch].clone().requires_grad_())
            parts.append(method(classes[start : start + batch], logits)[0])
        return np.concatenate([part.detach().numpy() for part in parts])

    return run


WORKS = [
    Work("grad_cam", "efficientnet_lite0", "pytorch-grad-cam", our_grad_cam, pytorch_grad_cam, count=64, probe=8),
    Work("grad_cam_small", "efficientnet_lite0", "torchcam", our_small_grad_cam, torchcam, count=32, probe=8),
]
