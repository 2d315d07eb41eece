"""Parts about the pictures: evidence for classes on them, and the facets of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phosphene.atlases.drawn import IMPRESSION, small
from phosphene.atlases.look import webp
from phosphene.images import to_pil
from phosphene.render import draw, group_color, thumbnail, thumbnail_map
from phosphene.store import file_stem
from phosphene.tasks.attributions import explain
from phosphene.tasks.facets import DrawnFacet, collect, draw_layers

if TYPE_CHECKING:
    from phosphene.atlases.desk import Desk, Made, Tell

_PICTURES, _SIDE = 3, 360
_LIKELY = 0.01
_MAPPED, _THUMBNAIL = 400, 72


@dataclass(frozen=True)
class Evidence:
    """A part of an atlas: what speaks for some classes, laid on the pictures where they are most probable.

    Args:
        number: of the part.
        classes: their indices.
    """

    number: int
    classes: tuple[int, ...]

    @property
    def key(self) -> str:
        """What the part is called."""
        return f"evidence-{self.number:05d}"

    def make(self, desk: Desk, tell: Tell) -> Made:
        """An overlay for each class and picture."""
        probabilities = desk.answers.probabilities
        chosen = {index: _most_probable(probabilities[:, index]) for index in self.classes}
        pictures = desk.pictures({row for rows in chosen.values() for row in rows})
        files: dict[str, bytes] = {}
        record = []
        for done, (index, rows) in enumerate(chosen.items()):
            shown = [pictures[row][0] for row in rows]
            method, seed = desk.work.config.method, desk.work.config.seed
            overlays = []
            for rank, (row, picture) in enumerate(zip(rows, shown, strict=True)):
                tell(done, len(chosen))
                result = explain(desk.classifier, [picture], method, target=index, seed=seed)
                name = f"class/{index}/evidence-{rank}.webp"
                files[name] = webp(draw(result, side=_SIDE), 78)
                known = desk.answers.pictures[row]
                overlays.append(
                    {
                        "picture": known["number"],
                        "name": known["name"],
                        "probability": float(probabilities[row, index]),
                        "image": name,
                        "problem": result.problems[0] if result.problems else None,
                    }
                )
            record.append({"index": index, "pictures": overlays})
        return files, {"method": desk.work.config.method, "classes": record}


@dataclass(frozen=True)
class Facets:
    """A part of an atlas: the facets of a layer in the pictures, and the map on which they lie.

    Args:
        layer: by name.
        folder: of the layer's files.
        count: of facets.
    """

    layer: str
    folder: str
    count: int

    @property
    def key(self) -> str:
        """What the part is called."""
        return f"facets-{file_stem(self.folder.replace('/', '-'))}"

    def make(self, desk: Desk, tell: Tell) -> Made:
        """An image for each facet, and a map of the pictures."""

        def progress(done: int, total: int, _text: str) -> None:
            tell(done, total)

        config = desk.work.config
        collected = collect(desk.classifier, desk.readable, [self.layer], progress=progress)
        recipe = f"minds_eye:steps={config.channel_steps}"
        (found,) = draw_layers(
            desk.classifier,
            collected,
            [self.layer],
            facets=self.count,
            recipe=recipe,
            seed=config.seed,
            frames=1,
            progress=progress,
        )
        shown = range(min(_MAPPED, len(collected.paths)))
        small_ones = {
            row: thumbnail(picture, _THUMBNAIL)
            for row, picture in collected.pictures(shown, **desk.classifier.preprocess.reading)
        }
        sheet = thumbnail_map(
            found.map.points.numpy(),
            [small_ones.get(row) for row in range(len(collected.paths))],
            found.map.labels.tolist(),
            side=840,
            thumbnail=48,
            front={row for facet in found.map.facets for row in facet.exemplars[:3]},
        )
        numbers = {picture["key"]: picture for picture in desk.answers.pictures}
        files = {f"{self.folder}/facets.webp": webp(sheet, 80)}
        record = []
        for number, facet in enumerate(found.facets):
            name = f"{self.folder}/facet-{number}.webp"
            files[name] = webp(small(to_pil(facet.image), IMPRESSION), 82)
            keys = [collected.keys[row] for row in facet.facet.exemplars]
            record.append(
                {
                    "image": name,
                    "color": group_color(number),
                    "pictures": len(facet.facet.members),
                    "exemplars": [numbers[key]["number"] for key in keys if key in numbers],
                    "cosine": _finite(facet),
                    "channels": list(facet.channels[:8]),
                }
            )
        return files, {"layer": self.layer, "map": f"{self.folder}/facets.webp", "facets": record, "recipe": recipe}


def _most_probable(probabilities: NDArray[np.float32]) -> list[int]:
    """The rows of the first few pictures of a class; the first alone where the class is as good as ruled out in all.

    Example:
        >>> _most_probable(np.array([0.1, 0.0, 0.6])), _most_probable(np.array([0.001, 0.0, 0.002]))
        ([2, 0], [2])
    """
    best = [int(row) for row in np.argsort(-probabilities, kind="stable")[:_PICTURES]]
    return [row for row in best if probabilities[row] >= _LIKELY] or best[:1]


def _finite(facet: DrawnFacet) -> float | None:
    value = facet.target_cosine
    return value if np.isfinite(value) else None
