"""features: a folder of pictures and a layer in, an image per facet of what the layer responds to out."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.devices import clock
from phosphene.errors import InputError, OptionError
from phosphene.graph import LayerName, layer_before
from phosphene.images import Picture, to_pil
from phosphene.registry import Spec, entry, format_spec, make_spec, parse_spec
from phosphene.render import Sheet, Tile, shown_as
from phosphene.runtime import Prepared, activations, plain_mode, prepare
from phosphene.runtime.prepare import Precision
from phosphene.sources import Source, open_pictures
from phosphene.store import PinnedFacet, read_pinned
from phosphene.synthesis.facets import (
    Facet,
    FacetMap,
    find_facets,
    pinned_facets,
    strongest_channels,
    usual_exemplars,
)
from phosphene.synthesis.matching import channel_values
from phosphene.synthesis.recipes.minds_eye import Exemplars
from phosphene.synthesis.streams import Streams
from phosphene.tasks.notebook import told
from phosphene.tasks.read_impressions import eight_bits
from phosphene.tasks.stream import Pictures, as_source, no_answer, stream
from phosphene.types import Prediction, Record, Results, Shown, seed_number, whole_number
from phosphene.zoo import load_classifier

# Called with (steps done, steps in all, what is being done).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, repr=False)
class DrawnFacet:
    """One facet of a layer and the image drawn for it.

    Args:
        image: (C, H, W) in [0, 1].
        start: (C, h, w) the weighted sum of the exemplars' pictures.
        facet: the images of the facet, its exemplars and their weights.
        exemplars: paths of the exemplars, nearest to the center first.
        channels: the channels of the layer that DM looked at, strongest first.
        wanted: (k,) what the exemplars make of these channels, the target activation.
        reached: (k,) what the drawn image, in 8 bits as it is saved, makes of them.
        target_cosine: cosine of its pooled activation with the target, over all channels.
        start_cosine: the same of the weighted sum of the exemplars' pictures.
        exemplar_cosines: the same of each exemplar.
        losses: per term its value at each step.
        frames: some images on the way, the first and the last among them.
        predicted: what the classifier says of it.
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
class LayerFeatures(Shown):
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

    def __repr__(self) -> str:
        return f"LayerFeatures({self.layer}: {len(self.facets)} facets of {len(self.paths)} pictures; {self.spec})"


@shown_as(LayerFeatures)
def _features_sheet(found: LayerFeatures) -> Sheet:
    tiles = []
    for number, facet in enumerate(found.facets):
        best = facet.predicted[0] if facet.predicted else ""
        lines = (
            f"facet {number}",
            f"{len(facet.facet.members)} pictures, target cosine {facet.target_cosine:.2f}",
            f"read as {best}",
        )
        tiles.append(Tile(to_pil(facet.image), lines))
    return Sheet((tuple(tiles),), f"{found.layer}, {found.spec}, {found.steps} steps")


@dataclass(frozen=True)
class Collected:
    """Pooled activations of a set of pictures.

    Args:
        source: of the pictures.
        keys: of those that could be read.
        paths: of the same.
        pooled: per layer (N, k).
        broken: one record per picture that could not be read.
    """

    source: Source
    keys: tuple[str, ...]
    paths: tuple[str, ...]
    pooled: dict[str, Tensor]
    broken: tuple[Record, ...] = ()

    def pictures(self, rows: Collection[int], **reading: Any) -> Iterator[tuple[int, Picture]]:
        """(row, picture) of some rows once more, in their order; read one at a time.

        Raises:
            InputError: if one can no longer be read.
        """
        keys = {self.keys[row]: row for row in rows}
        for item in self.source.chosen(keys, **reading):
            if item.picture is None:
                raise InputError(str(item.error))
            yield keys.pop(item.key), item.picture
        if keys:
            raise InputError("the pictures changed while they were being read; run the command again")


# The facets that all layers share: those found at a layer, by name, or given ones; None for facets of each layer's own.
Pin = str | tuple[PinnedFacet, ...] | None


def pin_of(classifier: Prepared, pin: str | os.PathLike[str] | None) -> Pin:
    """What `pin` names: facets in a run or a file, or the layer whose facets all layers are to share.

    Raises:
        InputError: for a run or a file that holds no facets.
        NotFoundError: for what is neither there nor a layer.
    """
    if not isinstance(pin, str | os.PathLike | None):
        raise OptionError(f"pin={pin!r} is no layer, run or file of facets; give its name")
    if pin is None or not (isinstance(pin, os.PathLike) or os.path.exists(pin) or pin.endswith(".json")):
        return None if pin is None else classifier.layer_name(None if pin == "default" else pin)
    return read_pinned(pin)


def features(
    classifier: Classifier | nn.Module | str,
    images: str | os.PathLike[str] | Source | Sequence[str | os.PathLike[str]] | None = None,
    layers: LayerName | Sequence[LayerName] | None = None,
    *,
    facets: int = 3,
    exemplars: int | None = None,
    recipe: str | Spec = "minds_eye",
    previous: str = "auto",
    pin: str | os.PathLike[str] | None = None,
    precision: Precision | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Results[LayerFeatures]:
    """What layers respond to in a set of pictures: facets of their activations, and an image drawn for each.

    Args:
        classifier: a Classifier, a network, or a spec for load_classifier.
        images: a folder of pictures, a file, a pattern, a table, a list, tar shards, a URL of any of these, or several;
            of a single kind of thing for the clearest facets. None where `pin` brings them.
        layers: dotted names or modules; None for the default layer.
        facets: clusters of pictures, each of which gives an image.
        exemplars: pictures that stand for a cluster; None for ten, of few pictures for their share.
        recipe: recipe spec such as "minds_eye:top_k=30,steps=100".
        previous: the layer before, by name; "auto" for the last one to finish before each layer, "none" for none.
        pin: the same targets for all layers: the name of the layer whose facets are taken for all, or a run of
            features (a folder) or a JSON file whose exemplars and weights are.
        precision: "exact" or "fast".
        seed: of the clustering and of the drawing.
        progress: called with (steps done, in all, a line about it); None shows a bar in notebooks.

    Returns:
        One LayerFeatures per layer.

    Raises:
        InputError: if no picture can be read.
        OptionError: for fewer pictures than facets or exemplars, or a recipe that needs no pictures.
        NotFoundError: for an unknown layer.
        NumericalError: if activations or gradients are NaN or infinite.

    Example:
        >>> import tempfile, numpy, PIL.Image
        >>> from pathlib import Path
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
    progress, seed = told(progress), seed_number(seed)
    facets = whole_number(facets, "facets")
    exemplars = None if exemplars is None else whole_number(exemplars, "exemplars")
    prepared = prepare(load_classifier(classifier), precision=precision)
    spec = drawing_spec(recipe)
    one = layers is None or isinstance(layers, str) or not isinstance(layers, Sequence)
    names = layer_names(prepared, [layers] if one else layers)  # type: ignore[arg-type, list-item]
    pinned = pin_of(prepared, pin)
    source = pictures_for(images, pinned)
    collected = collect(prepared, source, layers_to_read(names, pinned), progress=progress)
    drawn = draw_layers(
        prepared,
        collected,
        names,
        pin=pinned,
        facets=facets,
        exemplars=exemplars,
        recipe=spec,
        previous=previous,
        seed=seed,
        progress=progress,
    )
    return Results(drawn)


def pictures_for(images: Any, pin: Pin) -> Source:
    """The pictures to look at: those that are given, or the pinned exemplars.

    Args:
        images: a Source, a folder, a file or several; None or an empty list for none.
        pin: facets that bring their own pictures, or not.

    Raises:
        OptionError: if both or none are given.
    """
    none = images is None or (isinstance(images, list | tuple) and not images)
    if isinstance(pin, tuple):
        if not none:
            raise OptionError("features: the pinned facets bring their own pictures; leave the folder out")
        return open_pictures(list(dict.fromkeys(path for facet in pin for path in facet.paths)))
    if none:
        raise OptionError("features: give a folder of pictures, or with pin a run or file that brings its own")
    return _source(images)


def layers_to_read(names: Sequence[str], pin: Pin) -> tuple[str, ...]:
    """The layers that are drawn, and the one whose facets are taken for all."""
    return tuple(dict.fromkeys([*names, *([pin] if isinstance(pin, str) else [])]))


def _source(images: Any) -> Source:
    if isinstance(images, Source):
        return images
    alone = isinstance(images, str | os.PathLike) or not isinstance(images, Iterable) or hasattr(images, "ndim")
    places: list[Any] = [images] if alone else list(images)
    if not all(isinstance(place, str | os.PathLike) for place in places):
        raise OptionError("features: pictures are read from files a few at a time; give a folder or a list of paths")
    return open_pictures([os.fspath(place) for place in places])


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
    classifier: Prepared, pictures: Pictures, layers: Sequence[str], *, progress: Progress | None = None
) -> Collected:
    """Pooled activations of pictures, read a few at a time: memory for one row per picture only.

    Raises:
        InputError: if no picture can be read.
    """
    keys: list[str] = []
    paths: list[str] = []
    rows: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    broken: list[Record] = []
    source = as_source(pictures)
    total = len(source.keys())
    for batch in stream(classifier, source):
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
            for key, path, fine in zip(batch.keys, batch.paths, alive.tolist(), strict=True):
                if fine:
                    keys.append(key)
                    paths.append(path)
                else:
                    broken.append(no_answer(path))
        if progress is not None:
            progress(batch.done, total, "activations")
    if not keys:
        first = f" ({broken[0].error})" if broken else ""
        raise InputError(f"none of the {total} files is a picture that can be read{first}")
    pooled = {layer: torch.cat(values) for layer, values in rows.items()}
    return Collected(source, tuple(keys), tuple(paths), pooled, tuple(broken))


def draw_layers(
    classifier: Prepared,
    collected: Collected,
    layers: Sequence[str],
    *,
    facets: int = 3,
    exemplars: int | None = None,
    recipe: str | Spec = "minds_eye",
    previous: str = "auto",
    pin: Pin = None,
    seed: int = 0,
    frames: int = 8,
    without: Container[str] = (),
    progress: Progress | None = None,
) -> Iterator[LayerFeatures]:
    """The facets of each layer, found or pinned, and drawn, each layer as soon as it is done; `without` some."""
    spec = parse_spec(recipe, "recipe")
    layers = [layer for layer in layers if layer not in without]
    before = {layer: _previous(classifier, layer, previous) for layer in layers}

    def facets_at(layer: str) -> FacetMap:
        pooled = collected.pooled[layer]
        each = usual_exemplars(len(pooled), facets) if exemplars is None else exemplars
        return find_facets(pooled, facets, exemplars=each, seed=seed)

    if isinstance(pin, tuple):
        given = _pinned_rows(collected, pin)
        maps = {layer: pinned_facets(collected.pooled[layer], given, seed=seed) for layer in layers}
    elif pin is not None:
        maps = dict.fromkeys(layers, facets_at(pin))
    else:
        maps = {layer: facets_at(layer) for layer in layers}
    for layer, found in maps.items():
        yield _drawn_layer(classifier, collected, layer, before[layer], found, spec, seed, frames, progress)


def _pinned_rows(collected: Collected, pin: tuple[PinnedFacet, ...]) -> list[tuple[list[int], list[float]]]:
    """Rows and weights of each facet's exemplars.

    Raises:
        InputError: if one of the pictures could not be read: without it the target would be another.
    """
    rows = {path: row for row, path in enumerate(collected.paths)}
    lost = [path for facet in pin for path in facet.paths if path not in rows]
    if lost:
        known = {str(record.path): record.error for record in collected.broken}
        raise InputError(f"a pinned exemplar cannot be read: {known.get(lost[0]) or lost[0]}")
    return [([rows[path] for path in facet.paths], list(facet.weights)) for facet in pin]


def _previous(classifier: Prepared, layer: str, previous: str) -> str | None:
    if previous == "none":
        return None
    if previous != "auto":
        return classifier.layer_name(previous)
    layers = list(classifier.layers)
    # (What makes a weight, or goes over learned prompts, is of no picture.)
    while (found := layer_before(layers, layer)) is not None and not classifier.looks.changes_with_picture(found):
        layers = [one for one in layers if one.name != found]
    return found


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
    recipe = entry("recipe", spec.name)
    losses: list[dict[str, Tensor]] = []
    kept: list[Tensor] = []
    last: Tensor | None = None
    # (What is made of the pictures goes into gradients, as nothing made in inference mode does.)
    with plain_mode(classifier.device, gradients=False):
        images = _seen(classifier, collected, [facet.exemplars for facet in found.facets])
        given = Exemplars(layer, images, tuple(facet.weights for facet in found.facets), previous)
        streams = Streams.of(seed, [f"{layer} facet {index}" for index in range(len(images))])
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


def _seen(classifier: Prepared, collected: Collected, groups: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """(n, C, H, W) the pictures of each group of rows as the network sees them."""
    rows = {row for group in groups for row in group}
    pictures = dict(collected.pictures(rows, **classifier.preprocess.reading))
    chosen = [[pictures[row] for row in group] for group in groups]
    return tuple(classifier.preprocessed(group, classifier.views(group)) for group in chosen)


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
        logits, reached = self._pooled(eight_bits(images))
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
