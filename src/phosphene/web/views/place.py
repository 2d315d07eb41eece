"""A place of a picture: which channels of a layer are strongest there, where else they are, what they respond to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from phosphene.errors import ModelError, NumericalError, OptionError
from phosphene.geometry import lay_on_original
from phosphene.graph import layers_feeding, spatial_map
from phosphene.images import Picture
from phosphene.render import heat_layer, scale_of, thumbnail
from phosphene.runtime import Prepared, activations
from phosphene.store import Asset, file_stem
from phosphene.targets import Unit
from phosphene.tasks import ImpressConfig
from phosphene.tasks.map_rows import REPORT_SIDE
from phosphene.types import View
from phosphene.web.asks import ExplainAsk, PlaceCalls
from phosphene.web.desk import Desk, Drawn
from phosphene.web.pictures import Chosen
from phosphene.web.views.frame import file_url, named, render
from phosphene.web.worker import Job

_CHANNELS = 4
_CLASSES = 3
# Enough to see what it is, in about a second; the seed is always the same, so that a picture can be kept.
_DRAWING = "class_impression:steps=32"


@dataclass(frozen=True)
class Layered:
    """A layer's output for one picture, with its places.

    Args:
        name: of the layer.
        values: (k, h, w).
        view: what the network saw of the picture.
    """

    name: str
    values: Tensor
    view: View

    def cell(self, at: tuple[float, float]) -> tuple[int, int]:
        """(row, column) of the cell at a place, given as shares of the picture's width and height.

        Raises:
            OptionError: if the network saw nothing of that place.
        """
        (top, left, height, width), (down, across) = self.view.crop, self.view.scaled
        y, x = at[1] * down - top, at[0] * across - left
        if not (0 <= y < height and 0 <= x < width):
            raise OptionError(
                "the network did not see this place: choose one inside the dashed frame, or the whole view"
            )
        return int(y / height * self.values.shape[1]), int(x / width * self.values.shape[2])


def place(desk: Desk, ask: ExplainAsk, chosen: Chosen, job: Job) -> Iterator[str]:
    """The channels that are strongest at `ask.at`: where they are at once, then a picture of each.

    Raises:
        PhospheneError: for a layer without places, or a place that the network did not see.
    """
    if ask.at is None:
        raise OptionError("choose a place on a map")
    classifier, model = desk.classifier(ask.model), desk.spec(ask.model)
    item = chosen.item(**classifier.preprocess.reading)
    assert item.picture is not None
    layer = classifier.layer_name(ask.layer or None)
    seen = look(classifier, item.picture, layer, ask.view)
    row, column = seen.cell(ask.at)
    there = seen.values[:, row, column]
    # Of channels that are equally strong (a ReLU6 ends at 6) those first that are weaker elsewhere.
    elsewhere = seen.values.mean(dim=(1, 2))
    strongest = sorted(range(len(there)), key=lambda index: (-float(there[index]), float(elsewhere[index])))[:_CHANNELS]
    small = thumbnail(item.picture, REPORT_SIDE)
    files = {"picture.jpg": Asset("picture.jpg", small, {"quality": 88})}
    files |= {f"channel-{index}.png": _laid(seen, index, (small.height, small.width)) for index in strongest}
    urls = desk.shelf.put(files)
    array = file_url(desk.shelf, Asset(f"{file_stem(layer)}.npy", seen.values.numpy()))
    cards: list[dict[str, Any]] = [
        {
            "channel": index,
            "value": float(there[index]),
            "heat": urls[f"channel-{index}.png"],
            "classes": _speaks_for(classifier, layer, index),
            "drawn": desk.channels.get((model, layer, index)),
            "why": "",
        }
        for index in strongest
    ]

    def page() -> str:
        drawn = [(card["drawn"].layer if card["drawn"] else layer, card["channel"]) for card in cards]
        calls = PlaceCalls(
            replace(named(ask, desk.first), picture=chosen.name), layer, (row, column), tuple(drawn), _DRAWING
        )
        return render(
            "place",
            layer=layer,
            at=ask.at,
            cards=[card | {"drawn": card["drawn"] and file_url(desk.shelf, card["drawn"].image)} for card in cards],
            picture=urls["picture.jpg"],
            array=array,
            name=chosen.name,
            cell=(row, column),
            calls={"command": calls.command(), "python": calls.python(model)},
        )

    yield page()
    for card in cards:
        if card["drawn"] is None:
            try:
                drawn = draw_channel(classifier, layer, card["channel"], job)
            except (NumericalError, ModelError) as error:
                card["why"] = str(error).split(":", 1)[0]
            else:
                desk.channels.put((model, layer, card["channel"]), drawn)
                card["drawn"] = drawn
            yield page()


def look(classifier: Prepared, picture: Picture, layer: str, view: str) -> Layered:
    """A layer's output for one picture.

    Raises:
        ModelError: if it has no places.
    """
    views = classifier.views([picture], view)  # type: ignore[arg-type]
    images = classifier.preprocessed([picture], views)
    _, found = activations(classifier, images, [layer])
    values = spatial_map(found[layer], f"layer {layer}", images, classifier.layout(layer))
    return Layered(layer, values[0].cpu(), views[0])


def draw_channel(classifier: Prepared, layer: str, channel: int, job: Job) -> Drawn:
    """An image that a channel responds to, drawn from the network alone.

    A channel that is silent at the gray start has no gradient; then what feeds it is drawn, before its ReLU.

    Raises:
        NumericalError: if that has none either.
    """

    def progress(done: int, total: int, _text: str) -> None:
        job.progress(done, total, f"Drawing channel {channel}")

    sources = [layer, *layers_feeding(classifier.layers, layer)]
    for source in sources:
        config = ImpressConfig(target=Unit(source, channel), recipe=_DRAWING)
        try:
            (row,) = config.run(classifier, config.jobs(classifier), progress=progress)
        except NumericalError:
            if source == sources[-1]:
                raise
        else:
            assert isinstance(row.image, Asset)
            return Drawn(replace(row.image, name=f"channel-{channel}.jpg", options={"quality": 88}), source)
    raise NumericalError(f"no gradient for channel {channel}")


def _laid(seen: Layered, channel: int, size: tuple[int, int]) -> Asset:
    values = seen.values[channel]
    height, width = seen.view.crop[2] / values.shape[0], seen.view.crop[3] / values.shape[1]
    grid = ((height / 2, width / 2), (height, width))
    laid = lay_on_original(values, *grid, seen.view, size=size)
    inside = lay_on_original(torch.ones_like(values), *grid, seen.view, size=size) > 0
    layer = heat_layer(laid, scale_of(values, "positive"), inside.numpy())
    return Asset(f"channel-{channel}.png", layer, {"compress_level": 3})


def _speaks_for(classifier: Prepared, layer: str, channel: int) -> list[dict[str, Any]]:
    """The classes that a channel of the last layer adds most to, by the weights of the head; [] for other layers."""
    try:
        _, head = classifier.linear_head
    except ModelError:
        return []
    of_each = head.class_weights(len(classifier.labels))
    if of_each is None or not (layer == head.layer or head.layer.startswith(f"{layer}.")):
        return []
    weights = of_each[:, channel]
    best = weights.argsort(descending=True)[:_CLASSES].tolist()
    return [{"label": classifier.labels[index], "weight": float(weights[index])} for index in best]
