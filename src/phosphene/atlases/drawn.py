"""Parts that are drawn from the network alone: impressions of classes, pictures of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from phosphene.atlases.look import crop, webp
from phosphene.graph import layers_feeding
from phosphene.images import to_pil
from phosphene.store import file_stem
from phosphene.synthesis.directions import draw_channels
from phosphene.targets import Target
from phosphene.tasks.impressions import Job, configured, synthesize
from phosphene.tasks.read_impressions import read_impressions

if TYPE_CHECKING:
    from phosphene.atlases.desk import Desk, Made, Tell

IMPRESSION, CHANNEL = 224, 160
_PLACES = 6


@dataclass(frozen=True)
class Impressions:
    """A part of an atlas: impressions of some classes from one seed.

    Args:
        number: of the part.
        classes: their indices.
        seed: of the images.
    """

    number: int
    classes: tuple[int, ...]
    seed: int

    @property
    def key(self) -> str:
        """What the part is called."""
        return f"classes-{self.number:05d}"

    def make(self, desk: Desk, tell: Tell) -> Made:
        """The images, and what the network reads in them."""
        config, classifier = desk.work.config, desk.classifier
        jobs = [Job(Target.of(index), self.seed) for index in self.classes]
        spec = configured(config.recipe, None, config.steps)
        made = list(
            synthesize(
                classifier, jobs, spec, batch_size=len(jobs), progress=lambda done, total, _text: tell(done, total)
            )
        )
        read = read_impressions(classifier, made)
        files, record = {}, []
        for job, image, reading in zip(jobs, made, read, strict=True):
            index = job.target.classes[0]
            name = f"class/{index}/{self.seed}.webp"
            files[name] = webp(small(to_pil(image.image), IMPRESSION), 84)
            probability = reading.classes[0].probability if reading.classes else None
            record.append({"index": index, "seed": self.seed, "image": name, "probability": probability})
        return files, {"impressions": record, "recipe": str(spec)}


@dataclass(frozen=True)
class Channels:
    """A part of an atlas: pictures of some channels of a layer, and where they are strongest in the pictures.

    Args:
        number: of the part.
        layer: by name.
        folder: of the layer's files.
        channels: their indices.
    """

    number: int
    layer: str
    folder: str
    channels: tuple[int, ...]

    @property
    def key(self) -> str:
        """What the part is called."""
        return f"channels-{file_stem(self.folder.replace('/', '-'))}-{self.number:05d}"

    def make(self, desk: Desk, tell: Tell) -> Made:
        """The pictures, and crops of the strongest places."""
        config, classifier = desk.work.config, desk.classifier
        drawn = draw_channels(
            classifier,
            [self.layer, *layers_feeding(classifier.layers, self.layer)],
            self.channels,
            steps=config.channel_steps,
            seed=config.seed,
            watch=lambda step: tell(step.index, step.steps),
        )
        files: dict[str, bytes] = {}
        record: list[dict[str, Any]] = []
        places = self._places(desk, files) if desk.work.keys and desk.answers.pictures else {}
        for channel, image in zip(self.channels, drawn, strict=True):
            name = None if image is None else f"{self.folder}/{channel}.webp"
            if image is not None and name is not None:
                files[name] = webp(small(to_pil(image), CHANNEL))
            record.append({"index": channel, "image": name, "places": places.get(channel, [])})
        return files, {"layer": self.layer, "channels": record}

    def _places(self, desk: Desk, files: dict[str, bytes]) -> dict[int, list[dict[str, Any]]]:
        """The pictures in which each channel is strongest, its field cut out of them."""
        found = desk.answers.layers[self.layer]
        chosen = {
            channel: [
                int(row)
                for row in np.argsort(-found.peaks[:, channel], kind="stable")[:_PLACES]
                if found.peaks[row, channel] > 0
            ]
            for channel in self.channels
        }
        pictures = desk.pictures({row for rows in chosen.values() for row in rows})
        places: dict[int, list[dict[str, Any]]] = {}
        for channel, rows in chosen.items():
            places[channel] = []
            for rank, row in enumerate(rows):
                at = found.peak_at[row, channel].tolist()
                name = f"{self.folder}/{channel}-{rank}.webp"
                files[name] = webp(crop(*pictures[row], at, desk.field(self.layer)), 76)
                known = desk.answers.pictures[row]
                places[channel].append(
                    {
                        "picture": known["number"],
                        "name": known["name"],
                        "value": float(found.peaks[row, channel]),
                        "at": at,
                        "image": name,
                    }
                )
        return places


def small(picture: Image.Image, side: int) -> Image.Image:
    """A picture with a shorter side of at most `side` pixels."""
    factor = side / min(picture.size)
    if factor >= 1:
        return picture
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS)
