"""Scores with other values in the place of a layer's output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.hooks import did_not_run
from phosphene.runtime.passes import Progress, asked, copies_done, in_parts, scored
from phosphene.targets import Target

# Copies of the layer's output per pass, where what comes before it runs but once for all of them.
_COPIES = 64


@dataclass(frozen=True)
class Copies:
    """What stands in the place of a layer's output for one image, one after the other.

    Args:
        count: how many.
        made: those of some numbers, (len(numbers), ...) in the shape of the output.
    """

    count: int
    made: Callable[[range], Tensor]


def replaced_scores(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    layer: str,
    copies_of: Callable[[int, Tensor], Copies],
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(clean scores (N,), scores (N, count) with each copy in the place of the layer's output, its outputs (N, ...)).

    What comes before the layer runs once per image where the network allows it: the layer's one output is replaced
    by many. Whether it does is tried out, by whether unchanged copies give the clean score. Of a layer that runs
    several times the last output is meant, as everywhere.

    Args:
        classifier: any.
        images: (N, C, H, W) in [0, 1].
        target: whose score it is.
        layer: dotted name.
        copies_of: what replaces the output, given the number of the image and its output (1, ...); of every image
            equally many.
        batch_size: copies at once; None chooses.
        progress: called with (copies done, in all).
    """
    prepared, target = asked(classifier, images, target, [layer])

    def row(index: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        image, own = images[index:end], target.rows(index, end)

        def run(
            images: Tensor, replace: Callable[[Tensor], Tensor] | None = None, rows: int = 1
        ) -> tuple[Tensor, list[Tensor]]:
            """(scores, the layer's outputs as they were); the output of its last turn is replaced."""
            kept: list[Tensor] = []

            def edit(_name: str, output: Tensor) -> Tensor:
                kept.append(output[:1])
                return output if replace is None or len(kept) != len(outputs) else replace(output)

            with prepared.capture([layer], edit):
                return scored(prepared, prepared.ready(images), own, copies=rows), kept

        def runs_once() -> bool:
            try:
                values, _ = run(image, lambda output: torch.cat([output, output]), 2)
            except (RuntimeError, ModelError):  # what goes around the layer does not fit the copies
                return False
            return values.shape == (2,) and bool(torch.allclose(values, clean.expand(2), rtol=1e-4, atol=1e-5))

        clean, outputs = run(image)
        if not outputs:
            raise did_not_run(layer)
        copies, once = copies_of(index, outputs[-1]), runs_once()

        def part(start: int, stop: int) -> Tensor:
            made = copies.made(range(start, stop)).to(outputs[-1])
            if once:
                return run(image, lambda _: made, stop - start)[0]
            return run(image.expand(stop - start, -1, -1, -1), lambda _: made)[0]

        size = batch_size or (_COPIES if once else None)
        done = copies_done(progress, index, copies.count, len(images))
        scores = torch.cat(prepared.in_batches(part, copies.count, size, images.shape[1:], done=done))
        return clean, scores[None], outputs[-1]

    return in_parts(prepared, images, row, 1, gradients=False)
