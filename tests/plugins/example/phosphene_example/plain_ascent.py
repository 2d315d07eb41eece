"""A recipe: plain steps along the gradient of the class score, from the mean image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from phosphene import Classifier, Options, Target, option, register_recipe
from phosphene.synthesis.ascent import Step, ascend
from phosphene.synthesis.canvas import canvas_size
from phosphene.synthesis.objectives import of_target
from phosphene.synthesis.step_rules import clip, unit_rms
from phosphene.synthesis.streams import Streams


@dataclass(frozen=True)
class PlainAscentOptions(Options):
    """Options of `plain_ascent`."""

    steps: int = option("number of steps", quick=4, long=40, at_least=1)
    rate: float = option("root mean square of a step, in [0, 1] units", 0.02)


@register_recipe(title="Plain ascent", paper="simonyan2014")
def plain_ascent(
    classifier: Classifier, target: Target, streams: Streams, options: PlainAscentOptions
) -> Iterator[Step]:
    """The image that plain steps along the gradient lead to."""
    start = classifier.mean_image.expand(len(streams), -1, *canvas_size(classifier))
    yield from ascend(
        classifier,
        of_target(classifier, target.expand(len(streams)), "logit"),
        start,
        steps=options.steps,
        streams=streams,
        rate=options.rate,
        direction=[unit_rms()],
        after=[clip],
    )
