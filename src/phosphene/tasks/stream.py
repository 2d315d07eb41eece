"""Pictures from a source a few at a time, so that any number fits; what cannot be read becomes a record."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from torch import Tensor

from phosphene.classifier import Classifier, ViewKind
from phosphene.images import Picture
from phosphene.sources import Files, Source
from phosphene.types import Record, View

Pictures = Source | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class Batch:
    """A few pictures that could be read, and some that could not.

    Args:
        keys: of the pictures that could be read.
        paths: of the same.
        pictures: as they were read.
        views: what the network sees of each.
        images: (N, C, H, W) in [0, 1] what it sees; None if no picture of the batch could be read.
        broken: one record per picture that could not be read.
        done: pictures read so far, this batch included.
    """

    keys: tuple[str, ...]
    paths: tuple[str, ...]
    pictures: tuple[Picture, ...]
    views: tuple[View, ...]
    images: Tensor | None
    broken: tuple[Record, ...]
    done: int

    def answered(self, values: Tensor) -> tuple[Batch, Tensor]:
        """The pictures that the network gave finite values (N, ...) for, and these; the others are broken."""
        alive = values.flatten(1).isfinite().all(dim=1)
        if self.images is None or bool(alive.all()):
            return self, values
        kept = alive.nonzero()[:, 0].tolist()
        broken = [no_answer(path) for path, fine in zip(self.paths, alive.tolist(), strict=True) if not fine]
        return replace(
            self,
            keys=tuple(self.keys[index] for index in kept),
            paths=tuple(self.paths[index] for index in kept),
            pictures=tuple(self.pictures[index] for index in kept),
            views=tuple(self.views[index] for index in kept),
            images=self.images[alive.to(self.images.device)] if kept else None,
            broken=(*self.broken, *broken),
        ), values[alive]


def no_answer(path: str | os.PathLike[str]) -> Record:
    """The record of a picture for which the network gives no number."""
    why = "the network's own scores are NaN or infinite for this picture; look at its pixels, or at the network"
    return Record(str(path), "error", f"{path}: {why}")


def as_source(pictures: Pictures) -> Source:
    """Files as a source, which a source is already."""
    return pictures if isinstance(pictures, Source) else Files([os.fspath(path) for path in pictures])


def stream(
    classifier: Classifier,
    pictures: Pictures,
    *,
    view: ViewKind = "center",
    size: int = 16,
) -> Iterator[Batch]:
    """The pictures as the network sees them, `size` at a time; a network of any input size gets them singly.

    Args:
        classifier: that sees them.
        pictures: a source, or files.
        view: which part of each is seen.
        size: of a batch.
    """
    source = as_source(pictures)
    size = size if classifier.preprocess.size is not None else 1
    items, done = source.items(**classifier.preprocess.reading), 0
    while batch := list(islice(items, size)):
        done += len(batch)
        kept = [item for item in batch if item.picture is not None]
        shown = [item.picture for item in kept if item.picture is not None]
        views = classifier.views(shown, view)
        yield Batch(
            keys=tuple(item.key for item in kept),
            paths=tuple(item.path for item in kept),
            pictures=tuple(shown),
            views=views,
            images=classifier.preprocessed(shown, views) if kept else None,
            broken=tuple(Record(item.path, "error", item.error) for item in batch if item.picture is None),
            done=done,
        )
