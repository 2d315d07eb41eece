"""Scores with other values in the place of a layer's output: one channel set to zero, or any others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.graph import channel_axis
from phosphene.hooks import capture, did_not_run
from phosphene.runtime.passes import scored
from phosphene.runtime.perturbed import copies_done
from phosphene.runtime.prepare import Prepared, prepare
from phosphene.targets import Target
from phosphene.types import Score

# Copies of the layer's output per pass, where what comes before it runs but once for all of them.
_COPIES = 64

Progress = Callable[[int, int], None]
Replace = Callable[[Tensor], Tensor]


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
    score: Score = "logit",
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
        score: what of a class.
        batch_size: copies at once; None chooses.
        progress: called with (copies done, in all).
    """
    prepared = prepare(classifier, keep=(layer, *target.layers))
    prepared.check_images(images)
    target = target.expand(len(images))

    def row(index: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        image, own = images[index:end], target.rows(index, end)
        value, outputs = _run(prepared, image, own, layer, score)
        if not outputs:
            raise did_not_run(layer)
        output, turn = outputs[-1], len(outputs)
        once = _runs_once(prepared, image, own, layer, score, value, turn)
        copies = copies_of(index, output)

        def run(start: int, stop: int) -> Tensor:
            repeated = image if once else image.expand(stop - start, -1, -1, -1)
            made = copies.made(range(start, stop)).to(output)
            values, _ = _run(prepared, repeated, own, layer, score, lambda _: made, turn, stop - start if once else 1)
            return values

        size = batch_size or (_COPIES if once else None)
        done = copies_done(progress, index, copies.count, len(images))
        return value, torch.cat(prepared.in_batches(run, copies.count, size, images.shape[1:], done=done)), output

    with prepared.passing(gradients=False):
        found = prepared.in_batches(row, len(images), 1, images.shape[1:])
    clean, rows, outputs = zip(*found, strict=True)
    return torch.cat(clean).float(), torch.stack(rows).float(), torch.cat(outputs).float()


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
    """(clean scores (N,), scores (N, k) without each channel of the layer, its outputs (N, ...))."""
    prepared = prepare(classifier)

    def copies_of(index: int, output: Tensor) -> Copies:
        axis = channel_axis(output, images[index : index + 1], prepared.layout(layer))
        return Copies(int(output.shape[axis]), lambda channels: _without(output, channels, axis))

    return replaced_scores(
        prepared, images, target, layer, copies_of, score=score, batch_size=batch_size, progress=progress
    )


def _without(output: Tensor, channels: range, axis: int) -> Tensor:
    """Copies of a layer's output (1, ...), one for each channel, with that channel set to zero."""
    copies = output.expand(len(channels), *output.shape[1:]).clone()
    for copy, channel in zip(copies, channels, strict=True):
        copy.select(axis - 1, channel).zero_()
    return copies


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
