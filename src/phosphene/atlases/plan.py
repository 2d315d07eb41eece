"""The parts of an atlas, in three stages: each stage needs what the one before it left."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from phosphene.atlases.desk import Desk, Part
from phosphene.atlases.drawn import Channels, Impressions
from phosphene.atlases.laid_out import Cells, Map
from phosphene.atlases.look import looks
from phosphene.atlases.seen import Evidence, Facets
from phosphene.atlases.work import CHANNELS_AT_ONCE, CLASSES_AT_ONCE, LOOKED_AT, chunks, width
from phosphene.files import text_bytes
from phosphene.store import file_stem

STAGES = 3


def stage(desk: Desk, number: int) -> list[Part]:
    """The parts of a stage; the stages before it have to be made.

    The first looks at the pictures; the second draws classes and channels, finds evidence and facets, and lays places
    out; the third draws the cells of the activation atlases. The parts of a stage need nothing of each other.

    Args:
        desk: of the atlas.
        number: 0, 1 or 2.
    """
    if number == 0:
        return list(looks(desk.work.keys, LOOKED_AT))
    return _drawn(desk) if number == 1 else _cells(desk)


def folders(layers: Sequence[str]) -> dict[str, str]:
    """The folder of each layer's files; a name that is none of a file gets a mark that tells it from others.

    Example:
        >>> folders(["blocks.10", "a/b"])
        {'blocks.10': 'layer/blocks.10', 'a/b': 'layer/a-b-c14cddc0'}
    """
    marks = {layer: hashlib.sha256(text_bytes(layer)).hexdigest()[:8] for layer in layers}
    stems = {layer: file_stem(layer) for layer in layers}
    names = {layer: stem if stem == layer else f"{stem}-{marks[layer]}" for layer, stem in stems.items()}
    return {layer: f"layer/{name}" for layer, name in names.items()}


def channels_of(desk: Desk, layer: str) -> list[int]:
    """The channels of a layer that are shown, in order.

    Those that were named, or all; of a number of them those that tell most: of the last layer the ones that the head
    takes most for the classes shown, class by class; else those whose largest values differ most between pictures, in
    units of their mean; without pictures they are spread evenly.
    """
    text, count = desk.work.config.channels, width(desk.classifier, layer)
    if "," in text:
        return sorted({int(one) for one in text.split(",") if one.strip()})
    wanted = count if text == "all" else min(int(text), count)
    if wanted == count:
        return list(range(count))
    weights = desk.head_weights(layer)
    if weights is not None:
        order = weights[list(desk.work.classes)].argsort(dim=1, descending=True, stable=True).T.flatten().tolist()
        return sorted(list(dict.fromkeys(order))[:wanted])
    if desk.work.keys and len(desk.answers.pictures) > 1:
        found = desk.answers.layers[layer]
        spread = found.peaks.std(axis=0) / np.maximum(np.abs(found.peaks).mean(axis=0), 1e-6)
        return sorted(np.argsort(-spread, kind="stable")[:wanted].tolist())
    return sorted({round(place) for place in np.linspace(0, count - 1, wanted)})


def _drawn(desk: Desk) -> list[Part]:
    config, work = desk.work.config, desk.work
    groups = chunks(work.classes, CLASSES_AT_ONCE)
    seeds = range(config.seed, config.seed + config.seeds)
    parts: list[Part] = [
        Impressions(number, group, seed)
        for number, (seed, group) in enumerate((seed, group) for seed in seeds for group in groups)
    ]
    seen = len(desk.answers.pictures) if work.keys else 0
    if seen:
        parts += [Evidence(number, group) for number, group in enumerate(groups)]
    for layer, folder in folders(config.layers).items():
        parts += [
            Channels(number, layer, folder, group)
            for number, group in enumerate(chunks(channels_of(desk, layer), CHANNELS_AT_ONCE))
        ]
        if seen and config.grid:
            parts.append(Map(layer, folder))
        facets = min(config.facets, seen // 2)
        if facets:
            parts.append(Facets(layer, folder, facets))
    return parts


def _cells(desk: Desk) -> list[Part]:
    parts: list[Part] = []
    if not (desk.work.keys and desk.answers.pictures and desk.work.config.grid):
        return parts
    for layer, folder in folders(desk.work.config.layers).items():
        map = Map(layer, folder)
        cells = [(cell["row"], cell["column"]) for cell in desk.record(map)["cells"]]
        for number, group in enumerate(chunks(cells, CHANNELS_AT_ONCE)):
            parts.append(Cells(number, map, group, number * CHANNELS_AT_ONCE))
    return parts
