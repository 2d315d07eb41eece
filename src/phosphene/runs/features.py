"""The run behind `phosphene features`: a folder of pictures -> facets of layers, drawn; report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from phosphene.images import expand_paths, read_image, to_pil
from phosphene.pipeline.features import (
    Collected,
    DrawnFacet,
    LayerFeatures,
    collect,
    draw_layers,
    drawing_spec,
    layer_names,
)
from phosphene.render import group_color, side_by_side, thumbnail, thumbnail_map
from phosphene.runs.session import Common, Session
from phosphene.store import file_stem
from phosphene.synthesis.facets import check_counts

# Beyond so many pictures the map shows the others as dots.
_THUMBNAILS = 400
_STRIP = 7


@dataclass(frozen=True)
class Wish:
    """What is to be drawn.

    Args:
        pictures: folders of pictures, or pictures.
        layers: dotted names, or "default"; none for the default layer.
        facets: clusters of pictures.
        exemplars: pictures that stand for a cluster.
        recipe: recipe spec.
        preset: best or paper; None for the recipe's own.
        terms: full, dot or distance; None for the recipe's own.
        top_k: channels that the dot product looks at; None for the recipe's own.
        steps: None for the preset's.
        previous: the layer before, by name, "auto" or "none".
    """

    pictures: tuple[str, ...]
    layers: tuple[str, ...] = ()
    facets: int = 3
    exemplars: int = 10
    recipe: str = "minds_eye"
    preset: str | None = None
    terms: str | None = None
    top_k: int | None = None
    steps: int | None = None
    previous: str = "auto"


def draw_features(wish: Wish, common: Common) -> dict[str, Any]:
    """Find and draw the facets of layers; a broken picture is a row among the errors, the others count.

    Returns:
        The JSON answer of the command: {"run", "report", "layers": [...], "errors": [...]}.

    Raises:
        InputError: if no picture can be read.
        OptionError: for too few pictures, or options that make no sense.
        NotFoundError: for an unknown layer or recipe.
    """
    classifier = common.load()
    spec = drawing_spec(wish.recipe, preset=wish.preset, terms=wish.terms, top_k=wish.top_k, steps=wish.steps)
    names = layer_names(classifier, wish.layers)
    if wish.previous not in ("auto", "none"):
        classifier.layer_name(wish.previous)
    paths = expand_paths(wish.pictures)
    check_counts(len(paths), wish.facets, wish.exemplars)
    options = {**asdict(wish), "layers": names, "recipe": str(spec), "pictures": len(paths)}
    session = Session.start("features", common, classifier, **options)
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    try:
        collected = collect(classifier, paths, names, progress=common.announce)
        errors = [{"path": record.path, "error": record.error} for record in collected.broken]
        thumbnails = _Thumbnails(collected.paths)
        drawn = draw_layers(
            classifier,
            collected,
            facets=wish.facets,
            exemplars=wish.exemplars,
            recipe=spec,
            previous=wish.previous,
            seed=common.seed,
            frames=_STRIP,
            progress=common.announce,
        )
        for layer in drawn:
            rows += [_layer_row(session, layer, collected, thumbnails)]
    except KeyboardInterrupt:
        session.finish(complete=False, layers=rows, errors=errors)
        raise
    return session.finish(layers=rows, errors=errors)


class _Thumbnails:
    """Small copies of pictures, each read once."""

    def __init__(self, paths: Sequence[str], side: int = 144) -> None:
        self.paths = paths
        self.side = side
        self._made: dict[int, Image.Image] = {}

    def __getitem__(self, index: int) -> Image.Image:
        if index not in self._made:
            self._made[index] = thumbnail(read_image(self.paths[index]), self.side)
        return self._made[index]


def _layer_row(session: Session, drawn: LayerFeatures, collected: Collected, thumbnails: _Thumbnails) -> dict[str, Any]:
    stem = file_stem(drawn.layer)
    front = {row for facet in drawn.facets for row in facet.facet.exemplars}
    shown = front | set(range(min(_THUMBNAILS, len(collected.paths))))
    sheet = thumbnail_map(
        drawn.map.points.numpy(),
        [thumbnails[row] if row in shown else None for row in range(len(collected.paths))],
        drawn.map.labels.tolist(),
        front=front,
    )
    arrays = session.folder.save_array(
        f"{stem}/map.npy", np.column_stack([drawn.map.points.numpy(), drawn.map.labels.numpy()]).astype(np.float32)
    )
    return {
        "layer": drawn.layer,
        "previous": drawn.previous,
        "shape": list(drawn.shape),
        "recipe": drawn.spec,
        "steps": drawn.steps,
        "seconds": drawn.seconds,
        "seconds_per_step_and_facet": drawn.seconds / max(1, drawn.steps) / len(drawn.facets),
        "notes": list(drawn.notes),
        "map": session.folder.save_image(f"{stem}/map.jpg", sheet, quality=88),
        "points": arrays,
        "facets": [
            _facet_row(session, f"{stem}/facet-{number}", number, facet, drawn, thumbnails)
            for number, facet in enumerate(drawn.facets)
        ],
    }


def _facet_row(
    session: Session, stem: str, number: int, facet: DrawnFacet, drawn: LayerFeatures, thumbnails: _Thumbnails
) -> dict[str, Any]:
    folder = session.folder
    frames = [to_pil(frame) for frame in facet.frames]
    steps = [1, *(round(index * drawn.steps / _STRIP) for index in range(1, _STRIP + 1))][-len(frames) :]
    strip = side_by_side([to_pil(facet.start), *frames], ["start", *(f"step {step}" for step in steps)], height=128)
    exemplars = [
        {
            "path": path,
            "weight": float(weight),
            "distance": float(distance),
            "cosine": cosine,
            "picture": folder.save_image(f"{stem}-exemplar-{rank}.jpg", thumbnails[row], quality=86),
        }
        for rank, (path, row, weight, distance, cosine) in enumerate(
            zip(
                facet.exemplars,
                facet.facet.exemplars,
                facet.facet.weights,
                facet.facet.distances,
                facet.exemplar_cosines,
                strict=True,
            )
        )
    ]
    return {
        "image": folder.save_image(f"{stem}.png", to_pil(facet.image)),
        "start": folder.save_image(f"{stem}-start.jpg", to_pil(facet.start), quality=88),
        "strip": folder.save_image(f"{stem}-way.jpg", strip, quality=86),
        "color": group_color(number),
        "members": len(facet.facet.members),
        "exemplars": exemplars,
        "channels": list(facet.channels),
        "activations": {"target": list(facet.wanted), "image": list(facet.reached)},
        "target_cosine": facet.target_cosine,
        "start_cosine": facet.start_cosine,
        "predicted": [asdict(best) for best in facet.predicted],
        "losses": facet.losses,
    }
