"""features: what layers respond to in a set of pictures -> facets, drawn, a row for each layer."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from phosphene.classifier import Preprocess
from phosphene.images import to_pil
from phosphene.registry import Spec
from phosphene.render import facet_spokes, group_color, side_by_side, thumbnail, thumbnail_map
from phosphene.runtime import Prepared
from phosphene.store import Asset, Exemplar, FacetRow, FeatureRow, Row, file_stem
from phosphene.synthesis.facets import check_counts, usual_exemplars
from phosphene.tasks.facets import (
    Collected,
    DrawnFacet,
    LayerFeatures,
    Pin,
    draw_layers,
    drawing_spec,
    layer_names,
    pin_of,
)
from phosphene.tasks.impress import bands_of
from phosphene.tasks.task import Progress

# Beyond so many pictures the map shows the others as dots.
_THUMBNAILS = 400
_STRIP = 7


@dataclass(frozen=True)
class FeaturesConfig:
    """Which facets of which layers are drawn, and how.

    Args:
        layers: dotted names, or "default"; none for the default layer.
        facets: clusters of pictures.
        exemplars: pictures that stand for a cluster; None for ten, of few pictures for their share.
        recipe: recipe spec.
        preset: best or paper; None for the recipe's own.
        terms: full, dot or distance; None for the recipe's own.
        top_k: channels that the dot product looks at; None for the recipe's own.
        steps: None for the preset's.
        previous: the layer before, by name, "auto" or "none".
        pin: the same targets for all layers: a layer by name, a run of features, or a JSON file of facets.
        seed: of everything random.
    """

    layers: tuple[str, ...] = ()
    facets: int = 3
    exemplars: int | None = None
    recipe: str = "minds_eye"
    preset: str | None = None
    terms: str | None = None
    top_k: int | None = None
    steps: int | None = None
    previous: str = "auto"
    pin: str | None = None
    seed: int = 0
    rows: ClassVar[type[Row]] = FeatureRow

    @property
    def spec(self) -> Spec:
        """The recipe with the options that were given beside it."""
        return drawing_spec(self.recipe, preset=self.preset, terms=self.terms, top_k=self.top_k, steps=self.steps)

    def names(self, classifier: Prepared) -> tuple[str, ...]:
        """The layers by name.

        Raises:
            NotFoundError: for a layer that there is not, `previous` too.
        """
        names = layer_names(classifier, self.layers)
        if self.previous not in ("auto", "none"):
            classifier.layer_name(self.previous)
        return names

    def pinned(self, classifier: Prepared) -> Pin:
        """What `pin` names.

        Raises:
            InputError: for a run or a file that holds no facets.
            NotFoundError: for what is neither there nor a layer.
        """
        return pin_of(classifier, self.pin)

    def for_pictures(self, count: int) -> FeaturesConfig:
        """The same with the number of exemplars for so many pictures.

        Raises:
            OptionError: for too few pictures.

        Example:
            >>> FeaturesConfig().for_pictures(5).exemplars, FeaturesConfig().for_pictures(100).exemplars
            (1, 10)
        """
        exemplars = usual_exemplars(count, self.facets) if self.exemplars is None else self.exemplars
        check_counts(count, self.facets, exemplars)
        return replace(self, exemplars=exemplars)

    def described(self, classifier: Prepared) -> dict[str, Any]:
        """All options but the seed, as the manifest of a run has them."""
        options = {**asdict(self), "layers": self.names(classifier), "recipe": str(self.spec)}
        del options["seed"]
        return options

    def run(
        self,
        classifier: Prepared,
        collected: Collected,
        *,
        without: Container[str] = (),
        progress: Progress | None = None,
    ) -> Iterator[FeatureRow]:
        """A row for each layer, as soon as its facets are drawn.

        Args:
            classifier: whose layers they are.
            collected: what the layers answered to the pictures.
            without: layers that are there already.
            progress: called with (steps done, in all, what is being done).
        """
        thumbnails = _Thumbnails(collected, classifier.preprocess.reading)
        drawn = draw_layers(
            classifier,
            collected,
            self.names(classifier),
            pin=self.pinned(classifier),
            facets=self.facets,
            exemplars=self.exemplars,
            recipe=self.spec,
            previous=self.previous,
            seed=self.seed,
            frames=_STRIP,
            without=without,
            progress=progress,
        )
        for layer in drawn:
            yield _layer_row(layer, collected, thumbnails, classifier.preprocess)


class _Thumbnails:
    """Small copies of pictures, each read once, as the network was shown it."""

    def __init__(self, collected: Collected, reading: Mapping[str, Any], side: int = 144) -> None:
        self.collected, self.reading, self.side = collected, reading, side
        self._made: dict[int, Image.Image] = {}

    def of(self, rows: Collection[int]) -> Mapping[int, Image.Image]:
        """Of some rows, and whatever was made before."""
        missing = set(rows) - self._made.keys()
        if missing:
            read = self.collected.pictures(missing, **self.reading)
            self._made |= {row: thumbnail(picture, self.side) for row, picture in read}
        return self._made


def _layer_row(drawn: LayerFeatures, collected: Collected, made: _Thumbnails, preprocess: Preprocess) -> FeatureRow:
    stem = file_stem(drawn.layer)
    front = {row for facet in drawn.facets for row in facet.facet.exemplars}
    shown = front | set(range(min(_THUMBNAILS, len(collected.paths))))
    thumbnails = made.of(shown)
    sheet = thumbnail_map(
        drawn.map.points.numpy(),
        [thumbnails[row] if row in shown else None for row in range(len(collected.paths))],
        drawn.map.labels.tolist(),
        centers=drawn.map.centers.numpy(),
        front=front,
    )
    points = np.column_stack([drawn.map.points.numpy(), drawn.map.labels.numpy()]).astype(np.float32)
    return FeatureRow(
        drawn.layer,
        drawn.layer,
        facets=tuple(
            _facet_row(f"{stem}/facet-{number}", number, facet, drawn, thumbnails, preprocess)
            for number, facet in enumerate(drawn.facets)
        ),
        previous=drawn.previous,
        shape=tuple(drawn.shape),
        recipe=drawn.spec,
        steps=drawn.steps,
        seconds=drawn.seconds,
        seconds_per_step_and_facet=drawn.seconds / max(1, drawn.steps) / len(drawn.facets),
        notes=tuple(drawn.notes),
        map=Asset(f"{stem}/map.jpg", sheet, {"quality": 88}),
        points=Asset(f"{stem}/map.npy", points),
    )


def _kept_steps(steps: int) -> list[int]:
    """The steps whose images `draw_layers` keeps.

    Example:
        >>> _kept_steps(160), _kept_steps(5)
        ([1, 23, 46, 69, 92, 115, 138, 160], [1, 2, 3, 4, 5])
    """
    return sorted({1, *(-(-number * steps // _STRIP) for number in range(1, _STRIP + 1))})


def _facet_row(
    stem: str,
    number: int,
    facet: DrawnFacet,
    drawn: LayerFeatures,
    thumbnails: Mapping[int, Image.Image],
    preprocess: Preprocess,
) -> FacetRow:
    frames = [to_pil(frame) for frame in facet.frames]
    labels = ["start", *(f"step {step}" for step in _kept_steps(drawn.steps))]
    strip = side_by_side([to_pil(facet.start), *frames], labels, height=128)
    chosen = zip(
        facet.exemplars,
        facet.facet.exemplars,
        facet.facet.weights,
        facet.facet.distances,
        facet.exemplar_cosines,
        strict=True,
    )
    exemplars = tuple(
        Exemplar(
            path,
            float(weight),
            float(distance),
            cosine,
            Asset(f"{stem}-exemplar-{rank}.jpg", thumbnails[row], {"quality": 86}),
        )
        for rank, (path, row, weight, distance, cosine) in enumerate(chosen)
    )
    rows = list(facet.facet.exemplars)
    spokes = facet_spokes(
        (drawn.map.points[rows] - drawn.map.centers[number]).numpy(),
        [thumbnails[row] for row in rows],
        facet.facet.distances.tolist(),
        facet.facet.weights.tolist(),
        color=group_color(number),
    )
    return FacetRow(
        image=Asset(f"{stem}.png", to_pil(facet.image)),
        spokes=Asset(f"{stem}-center.jpg", spokes, {"quality": 88}),
        exemplars=exemplars,
        channels=tuple(facet.channels),
        target_cosine=facet.target_cosine,
        losses={name: tuple(values) for name, values in facet.losses.items()},
        start=Asset(f"{stem}-start.jpg", to_pil(facet.start), {"quality": 88}),
        strip=Asset(f"{stem}-way.jpg", strip, {"quality": 86}),
        color=group_color(number),
        members=len(facet.facet.members),
        activations={"target": tuple(facet.wanted), "image": tuple(facet.reached)},
        start_cosine=facet.start_cosine,
        predicted=tuple(facet.predicted),
        bands=bands_of(stem, facet.image, preprocess),
    )
