"""Scores of many perturbed copies of each image: covered windows, blended masks, other outputs of a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.hooks import did_not_run
from phosphene.runtime.passes import Progress, asked, copies_done, in_parts, scored
from phosphene.runtime.prepare import Prepared
from phosphene.runtime.trials import ROUNDED, within
from phosphene.runtime.windowed import Box, WindowedNetwork, unsupported
from phosphene.targets import Outputs, Target
from phosphene.types import Score

# Windows are small: this many at once keep a processor's cores busy and still fit its caches.
_WINDOWS = 64
# Windows that are tried out.
_TRIED = 5
# Copies of a layer's output per pass, where what comes before it runs but once for all of them.
_COPIES = 64


@dataclass(frozen=True)
class MaskedScores:
    """What a target's score becomes when windows are covered.

    Args:
        clean: (N,) of the images as they are.
        covered: (N, windows).
        note: how they were computed, where that is not the fastest way.
    """

    clean: Tensor
    covered: Tensor
    note: str | None = None


def masked_scores(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    boxes: Sequence[Box],
    fill: Tensor,
    *,
    score: Score = "probability",
    batch_size: int | None = None,
    progress: Progress | None = None,
    windowed: bool = True,
) -> MaskedScores:
    """Scores with each box (y0, x0, y1, x1) covered by the color `fill` (C, 1, 1).

    Only what a box can change is computed where the network's graph is known (runtime.windowed); a network that
    cannot be read, or a target inside it, runs on whole covered copies, and the note says why.
    """
    prepared, target = asked(classifier, images, target)
    clean = _clean(prepared, images, target, score)  # (first: it may show that maps have to be laid out plainly)
    why = _why_whole(prepared, images, target, boxes, fill) if windowed else None
    in_windows = windowed and why is None

    def covered(index: int) -> Scores:
        if in_windows:
            return _in_windows(prepared, images[index : index + 1], target.rows(index, index + 1), boxes, fill, score)
        image, own = images[index].detach().float(), target.rows(index, index + 1)
        return lambda start, stop: _score(prepared, _covered(image, boxes[start:stop], fill), own, score)

    size = batch_size or (_WINDOWS if in_windows else None)
    found = _of_copies(prepared, images, len(boxes), covered, size, progress)
    return MaskedScores(clean, found, None if why is None else f"computed on whole copies of the image: {why}")


def blended_scores(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    masks: Tensor,
    fill: Tensor,
    *,
    score: Score = "probability",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """(clean scores (N,), scores (N, masks)) of image * mask + fill * (1 - mask), masks (M, H, W) in [0, 1]."""
    prepared, target = asked(classifier, images, target)

    def blended(index: int) -> Scores:
        image, own = images[index].detach().float(), target.rows(index, index + 1)

        def run(start: int, stop: int) -> Tensor:
            copies = torch.lerp(fill.to(image).expand_as(image), image, masks[start:stop, None].to(image))
            return _score(prepared, copies, own, score)

        return run

    clean = _clean(prepared, images, target, score)
    return clean, _of_copies(prepared, images, len(masks), blended, batch_size, progress)


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


Scores = Callable[[int, int], Tensor]
"""The scores of copies of one image, from one number to another."""


def _of_copies(
    prepared: Prepared,
    images: Tensor,
    count: int,
    scores_of: Callable[[int], Scores],
    batch_size: int | None,
    progress: Progress | None,
) -> Tensor:
    """(N, count) the scores of so many copies of each image."""

    def row(index: int, _: int) -> Tensor:
        done = copies_done(progress, index, count, len(images))
        return torch.cat(prepared.in_batches(scores_of(index), count, batch_size, images.shape[1:], done=done))[None]

    return torch.cat(prepared.in_batches(row, len(images), 1, images.shape[1:]))


def _clean(prepared: Prepared, images: Tensor, target: Target, score: Score) -> Tensor:
    def run(start: int, stop: int) -> Tensor:
        return scored(prepared, prepared.ready(images[start:stop]), target.rows(start, stop), score)

    return in_parts(prepared, images, run, 1, gradients=False)


def _score(prepared: Prepared, images: Tensor, target: Target, score: Score) -> Tensor:
    with prepared.passing(gradients=False):
        return scored(prepared, prepared.ready(images), target, score).float()


def _covered(image: Tensor, boxes: Sequence[Box], fill: Tensor) -> Tensor:
    """A copy of the image (C, H, W) for each box, covered there."""
    copies = image.repeat(len(boxes), 1, 1, 1)
    for copy, (y0, x0, y1, x1) in zip(copies, boxes, strict=True):
        copy[:, y0:y1, x0:x1] = fill.to(copy)
    return copies


def _network(prepared: Prepared, image: Tensor, fill: Tensor) -> Callable[[Sequence[Box]], Tensor]:
    """(copies, K) what the network returns for copies of an image (1, C, H, W), a box of each covered."""
    traced = prepared.variant("windows").traced
    assert traced is not None
    color, inputs = (
        prepared.preprocess.normalize(given).to(prepared.dtype)
        for given in (fill.to(prepared.device)[None], prepared.ready(image))
    )
    network = WindowedNetwork(traced, inputs)
    return lambda boxes: network.output(boxes, color[0])


def _in_windows(
    prepared: Prepared, image: Tensor, target: Target, boxes: Sequence[Box], fill: Tensor, score: Score
) -> Scores:
    with prepared.passing(gradients=False):
        network = _network(prepared, image, fill)

    def run(start: int, stop: int) -> Tensor:
        seen = image.expand(stop - start, -1, -1, -1)
        with prepared.passing(gradients=False):
            outputs = Outputs(prepared, network(boxes[start:stop]), stop - start, seen)
            return target.expand(stop - start).scores(outputs, score)

    return run


def _why_whole(prepared: Prepared, images: Tensor, target: Target, boxes: Sequence[Box], fill: Tensor) -> str | None:
    """Why whole copies have to be computed; None where windows do."""
    if target.layers:
        return f"the target is a {target.kind} inside the network"
    if (why := unsupported(prepared.traced)) is not None:
        return why
    if not prepared.network.images_are_independent(images.shape[1:]):
        return "the network's scores of an image change with the rest of its batch"
    if prepared.preprocess.mean_picture is not None:
        return "the mean is a picture, so that a covered place is not the same everywhere"
    if prepared.network.moves:
        return "the network's passes change what later ones give"
    if prepared.network.contiguous:
        return "the network takes views of its maps, which windows of them are not"
    if not _windows_are_right(prepared, images, boxes, fill):
        return "windows of this network's maps do not give what whole maps give"
    return None


def _windows_are_right(prepared: Prepared, images: Tensor, boxes: Sequence[Box], fill: Tensor) -> bool:
    """Whether a few windows of the first image give the scores of whole covered copies.

    The graph says what an operation reads, but not all that it does (a map changed by way of a view, weights that
    differ by place): it is tried out, once for each size of image and each set of boxes.
    """
    few = [boxes[len(boxes) * place // _TRIED] for place in range(min(_TRIED, len(boxes)))]
    known, key = prepared.network.right_windows, (prepared.precision, images.shape[1:], *few)
    if key not in known:
        known[key] = _windows_give_the_same(prepared, images, few, fill)
        return known[key]
    # What the code reads past all that is watched (a variable of the environment) may be another since.
    return known[key] and _windows_give_the_same(prepared, images, few[:1], fill)


def _windows_give_the_same(prepared: Prepared, images: Tensor, few: list[Box], fill: Tensor) -> bool:
    with prepared.passing(gradients=False):
        try:
            found = prepared.read(_network(prepared, images[:1], fill)(few), len(few)).float()
        except (RuntimeError, ModelError, ValueError, TypeError, AttributeError):
            return False
        whole = prepared.logits(prepared.ready(_covered(images[0].detach().float(), few, fill))).float()
    return within(found, whole, ROUNDED[prepared.precision])
