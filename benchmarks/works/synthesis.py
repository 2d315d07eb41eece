"""Works of many steps that make an image of a class."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.work import Run, Work
from benchmarks.works.networks import Normalized, embedded

LABEL = 281


def our_class_model(preset: str, images: int, precision: str, count: int) -> Run:
    """`count` steps of the recipe class_model, several images at once."""
    from phosphene.runtime import prepare
    from phosphene.synthesis.recipes.class_model import ClassModelOptions, class_model
    from phosphene.synthesis.streams import Streams
    from phosphene.targets import Target

    classifier = prepare(embedded(), precision=precision)  # type: ignore[arg-type]
    options = ClassModelOptions.of(preset, steps=count)

    def run() -> np.ndarray:
        streams = Streams.of(0, list(range(images)))
        *_, last = class_model(classifier, Target.of([LABEL] * images), streams, options)
        return last.images.numpy()

    return run


def lucent(batch: int, count: int) -> Run:
    """`count` steps of lucent's feature visualisation with its own parametrization and transforms."""
    from lucent.optvis import objectives, param, render

    network = Normalized(embedded()).eval()

    def run() -> np.ndarray:
        found = render.render_vis(
            network,
            objectives.channel("network_classifier", LABEL),
            lambda: param.image(224, batch=batch),
            preprocess=False,
            thresholds=(count,),
            fixed_image_size=224,
            progress=False,
            show_image=False,
        )
        return np.asarray(found[-1])

    return run


def _at_once(name: str, images: int, preset: str = "paper") -> Work:
    """Preset `paper` asks for what lucent asks for, a score; `best` for the statistics of photographs besides."""
    return Work(
        name,
        "efficientnet_lite0",
        "lucent",
        partial(our_class_model, preset, images),
        lucent,
        count=5,
        probe=1,
        unit="step and image",
        units=lambda count: count * images,
        batches=(images,),
        compared=False,
    )


WORKS = [
    _at_once("synthesis", 8),
    _at_once("synthesis_1", 1),
    _at_once("synthesis_24", 24),
    _at_once("synthesis_best", 8, "best"),
    _at_once("synthesis_best_1", 1, "best"),
]
