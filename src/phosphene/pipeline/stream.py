"""Pictures from files a few at a time, so that a folder of any size fits; what cannot be read becomes a record."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from phosphene.classifier import Classifier, ViewKind
from phosphene.errors import InputError
from phosphene.images import Picture, read_image
from phosphene.types import Record, View


@dataclass(frozen=True)
class Batch:
    """A few pictures that could be read, and some that could not.

    Args:
        paths: of the pictures that could be read.
        pictures: as they are in the files.
        views: what the network sees of each.
        images: (N, C, H, W) in [0, 1] what it sees; None if no picture of the batch could be read.
        broken: one record per file that could not be read.
        done: files read so far, this batch included.
    """

    paths: tuple[Path, ...]
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


def stream(
    classifier: Classifier, paths: Sequence[str | os.PathLike[str]], *, view: ViewKind = "center", size: int = 16
) -> Iterator[Batch]:
    """The pictures as the network sees them, `size` files at a time; a network of any input size gets them singly."""
    size = size if classifier.preprocess.size is not None else 1
    for start in range(0, len(paths), size):
        kept: list[tuple[Path, Picture]] = []
        broken: list[Record] = []
        for path in map(Path, paths[start : start + size]):
            try:
                kept.append((path, read_image(path, classifier.preprocess.channels)))
            except InputError as error:
                broken.append(Record(str(path), "error", str(error)))
        pictures = [picture for _, picture in kept]
        views = classifier.views(pictures, view)
        yield Batch(
            paths=tuple(path for path, _ in kept),
            pictures=tuple(pictures),
            views=views,
            images=classifier.preprocessed(pictures, views) if kept else None,
            broken=tuple(broken),
            done=min(start + size, len(paths)),
        )
