"""A folder of pictures whose statistics stand in for what a network's norms remember of photographs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.errors import InputError, warn
from phosphene.images import list_images, read_image
from phosphene.synthesis.norms import Memory, measured_memories

# Fewer pictures say nothing of pictures in general; more than so many are taken evenly from all.
_FEWEST, _MOST = 10, 256


@dataclass(frozen=True)
class Photographs:
    """Pictures of all kinds, from one folder.

    Args:
        folder: where they are.
        files: those that are looked at.
    """

    folder: str
    files: tuple[Path, ...]

    @classmethod
    def of(cls, folder: str) -> Photographs:
        """The pictures in a folder and below, of many some hundreds evenly.

        Raises:
            InputError: if there is no such folder, or too few pictures in it.
        """
        found = list_images(folder)
        if len(found) < _FEWEST:
            raise InputError(f"{folder}: holds {len(found)} pictures; statistics need at least {_FEWEST}, of all kinds")
        places = np.linspace(0, len(found) - 1, min(_MOST, len(found))).round().astype(int)
        return cls(folder, tuple(found[place] for place in places))

    @property
    def key(self) -> str:
        """Changes with the pictures: their names, sizes and times."""
        facts = [(file, file.stat()) for file in self.files]
        return "\n".join(f"{file.name} {fact.st_size} {fact.st_mtime_ns}" for file, fact in facts)

    def batches(self, classifier: Classifier) -> Iterator[Tensor]:
        """(n, C, H, W) the pictures as the network sees them.

        Raises:
            InputError: for a picture that cannot be read, where too few others can.
        """
        unreadable: list[InputError] = []
        for file in self.files:
            try:
                picture = read_image(file, **classifier.preprocess.reading)
            except InputError as error:
                unreadable.append(error)
                if len(self.files) - len(unreadable) < _FEWEST:
                    raise
                continue
            yield classifier.preprocessed([picture], classifier.views([picture]))
        if unreadable:
            warn(
                f"{len(unreadable)} of {len(self.files)} pictures are left out of the statistics: {unreadable[0]}",
            )

    def memories(self, classifier: Classifier) -> Mapping[str, Memory]:
        """Each channel's mean and deviation over the pictures, at the layers that say most.

        Example:
            >>> import torch
            >>> from tempfile import mkdtemp
            >>> from phosphene.images import to_pil
            >>> folder = Path(mkdtemp())
            >>> for number in range(10):
            ...     to_pil(torch.full((3, 9, 9), number / 9)).save(folder / f"{number}.png")
            >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(196, 2))
            >>> from phosphene.classifier import Preprocess
            >>> classifier = Classifier(net, Preprocess((9, 9), mean=(0.5,) * 3, std=(0.2,) * 3))
            >>> list(Photographs.of(str(folder)).memories(classifier))
            ['0']
        """
        return measured_memories(classifier, self.batches(classifier))
