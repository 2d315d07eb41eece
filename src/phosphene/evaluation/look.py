"""A few pictures of an evaluation: read and classified when they are first looked at, and not at all if never."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from phosphene.evaluation.heat import Heat, Progress, heat_of, passes
from phosphene.evaluation.pieces import Piece
from phosphene.registry import Spec
from phosphene.runtime import Prepared, forward
from phosphene.targets import BestClasses, Target
from phosphene.tasks.stream import Batch, stream


@dataclass(frozen=True)
class Look:
    """Pictures that are measured together.

    Args:
        classifier: that sees them.
        paths: of the pictures.
        goal: the target of all, or the best class of each.
        start: number of the first in the run.
        total: pictures in the run.
    """

    classifier: Prepared
    paths: Sequence[str | os.PathLike[str]]
    goal: Target | BestClasses
    start: int
    total: int

    @property
    def where(self) -> str:
        """Which pictures these are, in words."""
        return f"pictures {self.start + 1} to {self.start + len(self.paths)}"

    @cached_property
    def _classified(self) -> tuple[Batch, Tensor | None]:
        (batch,) = stream(self.classifier, self.paths, size=len(self.paths))
        return (batch, None) if batch.images is None else batch.answered(forward(self.classifier, batch.images))

    @property
    def batch(self) -> Batch:
        """The pictures that the network has an answer for, and the others."""
        return self._classified[0]

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) in [0, 1], what the network sees; there is one at least."""
        assert self.batch.images is not None
        return self.batch.images

    @cached_property
    def classes(self) -> Target:
        """The target of each picture."""
        logits = self._classified[1]
        assert logits is not None
        best = self.goal if isinstance(self.goal, Target) else self.goal.one_of_each(logits)
        return best.expand(len(self.batch.paths))

    def found(self) -> Piece:
        """(N, H, W) of what the network sees, empty if there is no picture, and the files that could not be used."""
        images = self.batch.images
        shape = [] if images is None else [len(images), *images.shape[-2:]]
        return Piece({"shape": shape, "broken": [[record.path, record.error] for record in self.batch.broken]})

    def heat(self, spec: Spec, seed: int, progress: Progress | None, network: Prepared | None = None) -> Heat:
        """The maps of a method, of this network or of another that stands in its place."""
        told = passes(progress, f"{spec}, {self.where} of {self.total}")
        batch, network = self.batch, network or self.classifier
        return heat_of(network, batch.pictures, batch.views, self.classes, spec, seed=seed, progress=told)


def looks(
    classifier: Prepared, paths: Sequence[str | os.PathLike[str]], goal: Target | BestClasses, size: int
) -> Iterator[Look]:
    """The pictures `size` at a time; those of a network of any input size one by one."""
    size = size if classifier.preprocess.size is not None else 1
    for start in range(0, len(paths), size):
        yield Look(classifier, paths[start : start + size], goal, start, len(paths))
