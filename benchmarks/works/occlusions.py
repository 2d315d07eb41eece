"""Works of many covered copies of one image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.images import photographs
from benchmarks.work import Run, Work
from benchmarks.works.gradients import ours
from benchmarks.works.networks import Normalized, best_classes, embedded

SIDE = 224


def captum_occlusion(window: int, stride: int) -> Callable[[int, int], Run]:
    """Captum's occlusion of the probability, `batch` windows at a time."""

    def make(batch: int, count: int) -> Run:
        import torch
        from captum.attr import Occlusion

        classifier, images = embedded(), photographs(1)
        (label,) = best_classes(classifier, images)
        method = Occlusion(Normalized(classifier, softmax=True))
        fill = classifier.mean_image.expand(3, SIDE, SIDE)[None]

        def run() -> np.ndarray:
            with torch.no_grad():
                found = method.attribute(
                    images,
                    sliding_window_shapes=(3, window, window),
                    strides=(3, stride, stride),
                    baselines=fill,
                    target=label,
                    perturbations_per_eval=batch,
                )
            return found[:, 0].float().numpy()

        return run

    return make


def windows(window: int, stride: int) -> int:
    """Number of windows that cover the image."""
    return (-(-(SIDE - window) // stride) + 1) ** 2


def our_occlusion(window: int, stride: int) -> Callable[[str, int], Run]:
    method = ours(embedded, f"occlusion:window={window},stride={stride},positions=covering", lambda found: found.heat)
    return lambda precision, _count: method(precision, 1)


def _work(window: int, stride: int, batch_of: str | None) -> Work:
    return Work(
        f"occlusion_{window}_{stride}",
        "efficientnet_lite0",
        "captum Occlusion",
        our_occlusion(window, stride),
        captum_occlusion(window, stride),
        count=1,
        probe=1,
        unit="window",
        units=lambda count: count * windows(window, stride),
        of_images=False,
        rounds=5 if batch_of is None else 2,
        batch_of=batch_of,
    )


WORKS = [_work(32, 16, None), _work(10, 5, "occlusion_32_16")]
