"""Scores with one channel of a layer after the other set to zero."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.graph import channel_axis
from phosphene.hooks import capture
from phosphene.runtime.passes import scored
from phosphene.runtime.prepare import Prepared, prepare
from phosphene.targets import Target
from phosphene.types import Score

# Copies of the layer's output per pass, where what comes before it runs but once for all of them.
_COPIES = 64

Progress = Callable[[int, int], None]
Replace = Callable[[Tensor], Tensor]


def ablated_scores(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    layer: str,
    *,
    score: Score = "logit",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(clean scores (N,), scores (N, k) without each channel of the layer, its outputs (N, ...)).

    What comes before the layer runs once per image where the network allows it: the layer's one output is replaced
    by many. Whether it does is tried out, by whether unchanged copies give the clean score. Of a layer that runs
    several times the last output is meant, as everywhere.
    """
    prepared = prepare(classifier, keep=(layer, *target.layers))
    prepared.check_images(images)
    target = target.expand(len(images))

    def row(index: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        image, own = images[index:end], target.rows(index, end)
        value, outputs = _run(prepared, image, own, layer, score)
        output, turn = outputs[-1], len(outputs)
        once = _runs_once(prepared, image, own, layer, score, value, turn)
        axis = channel_axis(output, image, prepared.layout(layer))
        count = int(output.shape[axis])

        def run(start: int, stop: int) -> Tensor:
            copies = image if once else image.expand(stop - start, -1, -1, -1)
            without = _without(range(start, stop), axis)
            values, _ = _run(prepared, copies, own, layer, score, without, turn, stop - start if once else 1)
            if progress is not None:
                progress(index * count + stop, len(images) * count)
            return values

        size = batch_size or (_COPIES if once else None)
        return value, torch.cat(prepared.in_batches(run, count, size, images.shape[1:])), output

    with prepared.passing(gradients=False):
        found = prepared.in_batches(row, len(images), 1, images.shape[1:])
    clean, rows, outputs = zip(*found, strict=True)
    return torch.cat(clean).float(), torch.stack(rows).float(), torch.cat(outputs).float()


def _without(channels: range, axis: int) -> Replace:
    """Copies of a layer's output, one for each channel, with that channel set to zero."""

    def replace(output: Tensor) -> Tensor:
        copies = output.expand(len(channels), *output.shape[1:]).clone()
        for copy, channel in zip(copies, channels, strict=True):
            copy.select(axis - 1, channel).zero_()
        return copies

    return replace


def _runs_once(
    prepared: Prepared, image: Tensor, target: Target, layer: str, score: Score, clean: Tensor, turn: int
) -> bool:
    try:
        values, _ = _run(prepared, image, target, layer, score, lambda output: torch.cat([output, output]), turn, 2)
    except (RuntimeError, ModelError):  # what goes around the layer does not fit the copies
        return False
    return values.shape == (2,) and bool(torch.allclose(values, clean.expand(2), rtol=1e-4, atol=1e-5))


def _run(
    prepared: Prepared,
    images: Tensor,
    target: Target,
    layer: str,
    score: Score,
    replace: Replace | None = None,
    turn: int = 0,
    rows: int = 1,
) -> tuple[Tensor, list[Tensor]]:
    """(scores, the layer's outputs as they were) of a pass in which the output of the layer's nth turn is replaced."""
    kept: list[Tensor] = []

    def edit(_name: str, output: Tensor) -> Tensor:
        kept.append(output[:1])
        return output if replace is None or len(kept) != turn else replace(output)

    with capture(prepared.module, [layer], edit=edit):
        values = scored(prepared, prepared.ready(images), target, score, rows)
    return values, kept
