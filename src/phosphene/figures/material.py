"""What figures are made of: the networks, the pictures, and what several figures share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from phosphene.evaluation.ground_truth import Truth
from phosphene.figures.figure import LeftOutError
from phosphene.runtime import Prepared
from phosphene.tasks.head import Head, fit_head
from phosphene.tasks.impressions import fuse, impress
from phosphene.types import Impression, Layer

# Photographs that come with scikit-image and scikit-learn.
_PACKAGED = {
    "cat": ("skimage", "data/chelsea.png"),
    "espresso": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
}
# Parts cut out of each photograph where there is no folder of pictures.
_PARTS = 12
_SMALLEST = 0.55
_SIDE = 256

Announce = Callable[[int, int, str], None]


def _quiet(_done: int, _total: int, _text: str) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Material:
    """The networks and pictures of a run of figures, and how much is spent on it.

    Args:
        classifier: the network that is looked into.
        pooling: a network with max-pooling and plain ReLUs, for the connection to DeconvNets.
        judge: a network that took no part; reads what was drawn.
        pictures: files of one kind of thing, or of several, for the features of a layer; none for parts of the packaged
            photographs.
        class_folders: a folder with a folder of pictures per class, on which a head is fitted.
        truths: pictures with true boxes.
        seed: of everything random.
        quick: a twentieth of the steps, to try things out.
        announce: called with (done, in all, what is being done).
        scratch: an empty folder for pictures that are cut out on the way.
        made: what figures share, by a key of their own.
    """

    classifier: Prepared
    pooling: Prepared | None = None
    judge: Prepared | None = None
    pictures: tuple[Path, ...] = ()
    class_folders: Path | None = None
    truths: tuple[Truth, ...] = ()
    seed: int = 0
    quick: bool = False
    announce: Announce = _quiet
    scratch: Path = field(default_factory=Path)
    made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @classmethod
    @contextmanager
    def of(cls, classifier: Prepared, **given: Any) -> Iterator[Material]:
        """A Material with a folder for what is cut out on the way, which is removed afterwards."""
        with tempfile.TemporaryDirectory() as scratch:
            yield cls(classifier, scratch=Path(scratch), **given)

    def steps(self, count: int) -> int:
        """So many steps, or a twentieth of them."""
        return max(3, count // 20) if self.quick else count

    def photograph(self, name: str) -> Image.Image:
        """A packaged photograph: cat, espresso, rocket, flower or motorcycle."""
        package, place = _PACKAGED[name]
        found = find_spec(package)
        assert found is not None
        assert found.origin is not None  # dependencies of ours
        with Image.open(Path(found.origin).parent / place) as picture:
            return picture.convert("RGB")

    def kinds(self) -> list[str | os.PathLike[str]]:
        """Files of pictures for the features of a layer: those given, or parts of packaged photographs."""
        if self.pictures:
            return list(self.pictures)
        if "kinds" not in self.made:
            self.made["kinds"] = list(self._cut_out())
        found: list[str | os.PathLike[str]] = self.made["kinds"]
        return found

    def _cut_out(self) -> Iterator[Path]:
        """Squares at random places and of random sizes, some mirrored: the same thing seen in different ways."""
        random = np.random.default_rng(self.seed)
        for name in ("cat", "espresso", "flower"):
            picture = self.photograph(name)
            for number in range(_PARTS):
                side = round(min(picture.size) * random.uniform(_SMALLEST, 1.0))
                left, top = (int(random.integers(0, room - side + 1)) for room in picture.size)
                part = picture.crop((left, top, left + side, top + side))
                if random.random() < 0.5:
                    part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                path = self.scratch / f"{name}-{number:02d}.png"
                part.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS).save(path, compress_level=1)
                yield path

    def layers(self, count: int = 3) -> list[str]:
        """Names of layers with places, evenly from a third of the way on to the last before the head.

        Blocks are taken (modules that hold others), those that lie least deep of which there are enough.
        """
        with_places = [layer.name for layer in self.classifier.layers if layer.name and _has_places(layer)]
        parents = {name.rpartition(".")[0] for name in with_places}
        names = with_places
        for depth in range(4):
            blocks = [name for name in with_places if name in parents and name.count(".") == depth]
            if len(blocks) >= 2 * count:
                names = blocks
                break
        places = np.linspace(len(names) / 3, len(names) - 1, count).round().astype(int)
        return list(dict.fromkeys(names[place] for place in places))

    def impressions(
        self, classes: Sequence[str], recipe: str, steps: int, frames: int = 0, preset: str | None = None
    ) -> list[Impression]:
        """Images of classes by a recipe, made once for all figures that show them."""
        key = (tuple(classes), recipe, steps, frames, preset)
        if key not in self.made:
            self.made[key] = impress(
                self.classifier,
                list(classes),
                recipe,
                preset=preset,
                steps=self.steps(steps),
                frames=frames,
                seed=self.seed,
                progress=self.announce,
            )
        made: list[Impression] = self.made[key]
        return made

    def fused(self, groups: Sequence[Sequence[str]], recipe: str, steps: int) -> list[Impression]:
        """Images of several classes at once."""
        return fuse(self.classifier, groups, recipe, steps=self.steps(steps), seed=self.seed, progress=self.announce)

    def need_pooling(self) -> Prepared:
        """The network with max-pooling."""
        if self.pooling is None:
            raise LeftOutError("needs a network with max-pooling and plain ReLUs: --pooling-model SPEC")
        return self.pooling

    def need_head(self) -> Head:
        """A head fitted on the folders of classes."""
        if self.class_folders is None:
            raise LeftOutError("needs pictures of two classes, a folder for each: --class-folders FOLDER")
        if "head" not in self.made:
            self.made["head"] = fit_head(
                self.classifier,
                self.class_folders,
                seed=self.seed,
                progress=lambda done, total: self.announce(done, total, "fitting a head"),
            )
        head: Head = self.made["head"]
        return head

    def need_truths(self) -> tuple[Truth, ...]:
        """Pictures with true boxes."""
        if not self.truths:
            raise LeftOutError("needs pictures with true boxes: --images FOLDER --boxes FILE")
        return self.truths


def _has_places(layer: Layer) -> bool:
    return len(layer.shape) == 3 and min(layer.shape[1:]) > 1
