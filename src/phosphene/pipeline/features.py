"""features: a folder of pictures and a layer in, an image per facet of what the layer responds to out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.devices import clock
from phosphene.errors import InputError, OptionError
from phosphene.graph import LayerName, layer_before
from phosphene.images import expand_paths, read_image
from phosphene.pipeline.stream import no_answer, stream
from phosphene.registry import Spec, entry, format_spec, make_spec, parse_spec
from phosphene.runtime import Prepared, activations, prepare
from phosphene.runtime.prepare import Precision
from phosphene.synthesis.facets import Facet, FacetMap, find_facets, strongest_channels
from phosphene.synthesis.matching import channel_values
from phosphene.synthesis.recipes.minds_eye import Exemplars
from phosphene.synthesis.streams import Streams
from phosphene.types import Prediction, Record
from phosphene.zoo import load_classifier

# Called with (steps done, steps in all, what is being done).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class DrawnFacet:
    """One facet of a layer and the image drawn for it.

    Args:
        image: (C, H, W) in [0, 1].
        start: (C, h, w) the weighted sum of the exemplars' pictures.
        facet: the images of the facet, its exemplars and their weights.
        exemplars: paths of the exemplars, nearest to the center first.
        channels: the channels of the layer that DM looked at, strongest first.
        wanted: (k,) what the exemplars make of these channels, the target activation.
        reached: (k,) what the drawn image makes of them.
        target_cosine: cosine of the drawn image's pooled activation with the target, over all channels.
        start_cosine: the same of the weighted sum of the exemplars' pictures.
        exemplar_cosines: the same of each exemplar.
        losses: per term its value at each step.
        frames: some images on the way, the first and the last among them.
        predicted: what the classifier says of the drawn image.
    """

    image: Tensor
    start: Tensor
    facet: Facet
    exemplars: tuple[str, ...]
    channels: tuple[int, ...]
    wanted: tuple[float, ...]
    reached: tuple[float, ...]
    target_cosine: float
    start_cosine: float
    exemplar_cosines: tuple[float, ...]
    losses: dict[str, list[float]]
    frames: tuple[Tensor, ...]
    predicted: tuple[Prediction, ...]


@dataclass(frozen=True)
class LayerFeatures:
    """What a layer responds to in a set of pictures.

    Args:
        layer: dotted name.
        previous: the layer before that the loss looks at; None for none.
        shape: of the layer's output for one image.
        spec: the recipe and its options.
        map: all pictures on a map of two dimensions, and their facets.
        paths: of the pictures, in the order of the map's rows.
        facets: the drawn facets, largest first.
        seconds: wall time of the drawing.
        steps: number of steps.
        notes: what the reader should know.
    """

    layer: str
    previous: str | None
    shape: tuple[int, ...]
    spec: str
    map: FacetMap
    paths: tuple[str, ...]
    facets: tuple[DrawnFacet, ...]
    seconds: float
    steps: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collected:
    """Pooled activations of a set of pictures.

    Args:
        paths: of the pictures that could be read.
        pooled: per layer (N, k).
        broken: one record per file that could not be read.
    """

    paths: tuple[str, ...]
    pooled: dict[str, Tensor]
    broken: tuple[Record, ...] = field(default_factory=tuple)


def features(
    classifier: Classifier | str,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    layers: LayerName | Sequence[LayerName] | None = None,
    *,
    facets: int = 3,
    exemplars: int = 10,
    recipe: str | Spec = "minds_eye",
    previous: str = "auto",
    precision: Precision | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[LayerFeatures]:
    """What layers respond to in a set of pictures: facets of their activations, and an image drawn for each.

    Args:
        classifier: a Classifier, or a spec for load_classifier.
        images: a folder of pictures, a file, or several; of a single kind of thing for the clearest facets.
        layers: dotted names or modules; None for the default layer.
        facets: clusters of pictures, each of which gives an image.
        exemplars: pictures that stand for a cluster.
        recipe: recipe spec such as "minds_eye:top_k=30,steps=100".
        previous: the layer before, by name; "auto" for the last one to finish before each layer, "none" for none.
        precision: "exact" or "fast".
        seed: of the clustering and of the drawing.
        progress: called with (steps done, in all, a line about it).

    Returns:
        One LayerFeatures per layer.

    Raises:
        InputError: if no picture can be read.
        OptionError: for fewer pictures than facets or exemplars, or a recipe that needs no pictures.
        NotFoundError: for an unknown layer.
        NumericalError: if activations or gradients are NaN or infinite.

    Example:
        >>> import tempfile, numpy, PIL.Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> for index in range(6):
        ...     noise = numpy.random.default_rng(index).integers(0, 255, (16, 16, 3), numpy.uint8)
        ...     PIL.Image.fromarray(noise).save(folder / f"{index}.png")
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> from phosphene.classifier import Preprocess
        >>> found = features(Classifier(net, Preprocess((16, 16))), folder, "1", facets=2, exemplars=2,
        ...                  recipe="minds_eye:steps=5,top_k=2")
        >>> [facet.image.shape for facet in found[0].facets]
        [torch.Size([3, 16, 16]), torch.Size([3, 16, 16])]
    """
    prepared = prepare(load_classifier(classifier), precision=precision)
    spec = drawing_spec(recipe)
    one = layers is None or isinstance(layers, str) or not isinstance(layers, Sequence)
    names = layer_names(prepared, [layers] if one else layers)  # type: ignore[arg-type, list-item]
    alone = isinstance(images, str | os.PathLike) or not isinstance(images, Iterable) or hasattr(images, "ndim")
    sources: list[Any] = [images] if alone else list(images)  # type: ignore[arg-type]
    if not all(isinstance(source, str | os.PathLike) for source in sources):
        raise OptionError("features: pictures are read from files a few at a time; give a folder or a list of paths")
    collected = collect(prepared, expand_paths(sources), names, progress=progress)
    drawn = draw_layers(
        prepared,
        collected,
        facets=facets,
        exemplars=exemplars,
        recipe=spec,
        previous=previous,
        seed=seed,
        progress=progress,
    )
    return list(drawn)


def drawing_spec(recipe: str | Spec, **given: Any) -> Spec:
    """The recipe with options set that were given (not None).

    Raises:
        OptionError: if the recipe draws from the classifier alone.
    """
    spec = parse_spec(recipe, "recipe")
    if entry("recipe", spec.name).family != "features":
        raise OptionError(f"{spec.name} draws classes and needs no pictures; use impress, or the recipe minds_eye")
    options = {**spec.keywords, **{name: value for name, value in given.items() if value is not None}}
    configured = make_spec(spec.name, "recipe", **options)
    entry("recipe", spec.name).configured(configured)  # refuses what does not fit before any picture is read
    return configured


def layer_names(classifier: Prepared, layers: Sequence[LayerName | None]) -> tuple[str, ...]:
    """The dotted names of layers; "default" and None stand for the default layer; each once, in the order given."""
    found = [classifier.layer_name(None if layer == "default" else layer) for layer in layers]
    return tuple(dict.fromkeys(found or [classifier.default_layer]))


def collect(
    classifier: Prepared, paths: Sequence[Path], layers: Sequence[str], *, progress: Progress | None = None
) -> Collected:
    """Pooled activations of pictures from files, read a few at a time: memory for one row per picture only.

    Raises:
        InputError: if no picture can be read.
    """
    kept: list[str] = []
    rows: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    broken: list[Record] = []
    for batch in stream(classifier, paths):
        broken += batch.broken
        if batch.images is not None:
            _, found = activations(classifier, batch.images, layers)
            pooled: dict[str, Tensor] = {}
            for layer in layers:
                layout = prepare(classifier).layout(layer)
                values = channel_values(found[layer], batch.images, f"layer {layer}", layout=layout)
                pooled[layer] = values[..., 0].cpu()
            alive = torch.stack([values.isfinite().all(dim=1) for values in pooled.values()]).all(dim=0)
            for layer in layers:
                rows[layer].append(pooled[layer][alive])
            kept += [str(path) for path, fine in zip(batch.paths, alive.tolist(), strict=True) if fine]
            broken += [no_answer(path) for path, fine in zip(batch.paths, alive.tolist(), strict=True) if not fine]
        if progress is not None:
            progress(batch.done, len(paths), "activations")
    if not kept:
        first = f" ({broken[0].error})" if broken else ""
        raise InputError(f"none of the {len(paths)} files is a picture that can be read{first}")
    return Collected(tuple(kept), {layer: torch.cat(values) for layer, values in rows.items()}, tuple(broken))


def draw_layers(
    classifier: Prepared,
    collected: Collected,
    *,
    facets: int = 3,
    exemplars: int = 10,
    recipe: str | Spec = "minds_eye",
    previous: str = "auto",
    seed: int = 0,
    frames: int = 8,
    progress: Progress | None = None,
) -> Iterator[LayerFeatures]:
    """The facets of each layer, found and drawn, each layer as soon as it is done."""
    spec = parse_spec(recipe, "recipe")
    before = {layer: _previous(classifier, layer, previous) for layer in collected.pooled}
    maps = {
        layer: find_facets(pooled, facets, exemplars=exemplars, seed=seed) for layer, pooled in collected.pooled.items()
    }
    for layer, found in maps.items():
        yield _drawn_layer(classifier, collected, layer, before[layer], found, spec, seed, frames, progress)


def _previous(classifier: Prepared, layer: str, previous: str) -> str | None:
    if previous == "none":
        return None
    return layer_before(classifier.layers, layer) if previous == "auto" else classifier.layer_name(previous)


def _drawn_layer(
    classifier: Prepared,
    collected: Collected,
    layer: str,
    previous: str | None,
    found: FacetMap,
    spec: Spec,
    seed: int,
    frames: int,
    progress: Progress | None,
) -> LayerFeatures:
    start = clock(classifier.device)
    images = tuple(_seen(classifier, [collected.paths[row] for row in facet.exemplars]) for facet in found.facets)
    given = Exemplars(layer, images, tuple(facet.weights for facet in found.facets), previous)
    streams = Streams.of(seed, [f"{layer} facet {index}" for index in range(len(images))])
    recipe = entry("recipe", spec.name)
    losses: list[dict[str, Tensor]] = []
    kept: list[Tensor] = []
    last: Tensor | None = None
    for step in recipe.function(classifier, given, streams, recipe.configured(spec)):
        last = step.images
        losses.append(step.extras)
        if step.index == 1 or step.index * frames // step.steps > (step.index - 1) * frames // step.steps:
            kept.append(step.images.cpu())
        if progress is not None:
            progress(step.index, step.steps, f"{layer}")
    assert last is not None
    drawn = _Drawn(classifier, collected, layer, found, given, spec)
    shape = next(item.shape for item in classifier.layers if item.name == layer)
    notes = [*found.notes]
    if previous is None:
        notes.append(f"no layer ran before {layer}: the loss has no term for it")
    return LayerFeatures(
        layer=layer,
        previous=previous,
        shape=shape,
        spec=format_spec(spec),
        map=found,
        paths=collected.paths,
        facets=drawn.facets(last, losses, kept),
        seconds=clock(classifier.device) - start,
        steps=len(losses),
        notes=tuple(notes),
    )


def _seen(classifier: Prepared, paths: Sequence[str]) -> Tensor:
    """(n, C, H, W) the pictures as the network sees them."""
    pictures = [read_image(path, classifier.preprocess.channels) for path in paths]
    return classifier.preprocessed(pictures, classifier.views(pictures))


@dataclass(frozen=True)
class _Drawn:
    """What is needed to tell how the drawn images of a layer turned out."""

    classifier: Prepared
    collected: Collected
    layer: str
    map: FacetMap
    exemplars: Exemplars
    spec: Spec

    def facets(
        self, images: Tensor, losses: Sequence[dict[str, Tensor]], frames: Sequence[Tensor]
    ) -> tuple[DrawnFacet, ...]:
        """One DrawnFacet per image."""
        pooled = self.collected.pooled[self.layer]
        target = torch.stack([facet.mean(pooled) for facet in self.map.facets])
        channels = strongest_channels(target, int(self.spec.keywords.get("top_k", _top_k(self.spec))))
        logits, reached = self._pooled(images)
        begin = self.exemplars.start()
        _, of_start = self._pooled(begin)
        predicted = self.classifier.predictions(logits)
        return tuple(
            DrawnFacet(
                image=images[row].cpu(),
                start=begin[row].cpu(),
                facet=facet,
                exemplars=tuple(self.collected.paths[number] for number in facet.exemplars),
                channels=tuple(channels[row].tolist()),
                wanted=tuple(target[row, channels[row]].tolist()),
                reached=tuple(reached[row, channels[row]].tolist()),
                target_cosine=_cosine(reached[row], target[row]),
                start_cosine=_cosine(of_start[row], target[row]),
                exemplar_cosines=tuple(_cosine(pooled[number], target[row]) for number in facet.exemplars),
                losses={name: torch.stack([step[name][row] for step in losses]).tolist() for name in losses[0]},
                frames=tuple(frame[row] for frame in frames),
                predicted=tuple(predicted[row]),
            )
            for row, facet in enumerate(self.map.facets)
        )

    def _pooled(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(logits, pooled activations (n, k)) of images."""
        logits, found = activations(self.classifier, images, [self.layer])
        layout = prepare(self.classifier).layout(self.layer)
        return logits, channel_values(found[self.layer], images, f"layer {self.layer}", layout=layout)[..., 0].cpu()


def _top_k(spec: Spec) -> Any:
    return entry("recipe", spec.name).options["top_k"].default


def _cosine(value: Tensor, target: Tensor) -> float:
    return float(torch.cosine_similarity(value.double(), target.double(), dim=0))
