"""What an atlas shows and how it is drawn: data alone that can be pickled, so that any worker can draw a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from PIL import Image

from phosphene.errors import ModelError, OptionError
from phosphene.graph import spatial_size, token_axis
from phosphene.runtime import Prepared, forward
from phosphene.tasks import ImpressConfig
from phosphene.tasks.attributions import explain
from phosphene.tasks.facets import layer_names
from phosphene.zoo import ModelChoice

# Pictures that are looked at in one part, classes and channels that are drawn side by side.
LOOKED_AT, CLASSES_AT_ONCE, CHANNELS_AT_ONCE = 32, 8, 12


@dataclass(frozen=True)
class AtlasConfig:
    """What an atlas shows.

    Args:
        classes: names, indices or WordNet ids; "all" for all of them.
        layers: dotted names, or "default"; none for the default layer.
        channels: how many of each layer, "all", or which: "3,17,40".
        seeds: impressions of each class, with one seed after another.
        recipe: of the impressions.
        steps: of the impressions; None for the recipe's own.
        channel_steps: of the pictures of channels, and of the cells of the activation atlas.
        grid: cells of a side of the activation atlas; 0 for none.
        facets: of each layer; 0 for none.
        method: of the evidence on pictures.
        limit: the first pictures alone; None for all.
        seed: of everything random.
    """

    classes: tuple[str, ...] = ("all",)
    layers: tuple[str, ...] = ()
    channels: str = "48"
    seeds: int = 2
    recipe: str = "class_impression"
    steps: int | None = None
    channel_steps: int = 64
    grid: int = 12
    facets: int = 3
    method: str = "grad_cam"
    limit: int | None = None
    seed: int = 0

    def checked(self, classifier: Prepared) -> AtlasConfig:
        """The same with classes as indices and layers by name.

        Raises:
            OptionError: for numbers that make no sense.
            NotFoundError: for a class, layer or recipe that there is not.
            ModelError: for a layer without places.
        """
        for name, lowest in (("seeds", 1), ("channel_steps", 1), ("grid", 0), ("facets", 0)):
            if getattr(self, name) < lowest:
                raise OptionError(f"--{name.replace('_', '-')} {getattr(self, name)}: give {lowest} or more")
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"--limit {self.limit}: give 1 or more")
        ImpressConfig(("0",), recipe=self.recipe, steps=self.steps).spec  # noqa: B018 (refuses what does not fit)
        layers = layer_names(classifier, list(self.layers))
        for layer in layers:
            _check_channels(self.channels, layer, width(classifier, layer))
        return replace(self, classes=tuple(map(str, self._classes(classifier))), layers=layers)

    def try_method(self, classifier: Prepared) -> None:
        """Explain a gray picture, so that a method that cannot do it is refused before minutes of drawing.

        Raises:
            PhospheneError: for a method that there is not, options that make no sense, or a network that does not
                allow it.
        """
        size = classifier.preprocess.size or (224, 224)
        explain(classifier, Image.new("RGB", size[::-1], "gray"), self.method, target=int(self.classes[0]))

    def _classes(self, classifier: Prepared) -> list[int]:
        if "all" in self.classes and "all" not in classifier.labels.names:
            return list(range(class_count(classifier)))
        if len(classifier.labels):
            return list(dict.fromkeys(classifier.labels.find(name) for name in self.classes))
        count = class_count(classifier)
        wrong = [name for name in self.classes if not name.isdecimal() or int(name) >= count]
        if wrong:
            raise OptionError(f"class '{wrong[0]}': the network has no names; give an index from 0 to {count - 1}")
        return list(dict.fromkeys(int(name) for name in self.classes))

    def described(self) -> dict[str, Any]:
        """All options but the seed, as the manifest has them: what decides the files."""
        options = {**asdict(self), "classes": list(self.classes), "layers": list(self.layers)}
        del options["seed"]
        return options


@dataclass(frozen=True)
class Work:
    """What holds for all parts of an atlas.

    Args:
        place: its folder, or a URL.
        model: which classifier; every process loads its own.
        config: checked.
        images: what holds the pictures, as typed; none for an atlas without pictures.
        keys: of the pictures, in order.
    """

    place: str
    model: ModelChoice
    config: AtlasConfig
    images: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[int, ...]:
        """The indices of the classes."""
        return tuple(map(int, self.config.classes))


def class_count(classifier: Prepared) -> int:
    """How many classes a network has."""
    size = classifier.preprocess.size or (64, 64)
    return len(classifier.labels) or int(forward(classifier, classifier.mean_picture(size)[None]).shape[1])


def width(classifier: Prepared, layer: str) -> int:
    """How many channels a layer has.

    Raises:
        ModelError: if it has no places.
    """
    found = next((one for one in classifier.layers if one.name == layer), None)
    size = classifier.preprocess.size or (224, 224)
    grid = None if found is None else spatial_size(found.shape, size, found.layout)
    if found is None or grid is None:
        raise ModelError(f"layer {layer} has no places in the image; an atlas shows layers that have: name another")
    if len(found.shape) == 2:
        return found.shape[2 - token_axis(found.layout)]
    return found.shape[2] if found.shape[:2] == grid else found.shape[0]


def chunks(items: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    """The items in groups of `size`, the last one smaller.

    Example:
        >>> chunks("abcde", 2)
        [('a', 'b'), ('c', 'd'), ('e',)]
    """
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def _check_channels(text: str, layer: str, count: int) -> None:
    """Refuse what names no channels of a layer."""
    wanted = text.strip().rstrip(",").split(",")
    if text == "all" or (len(wanted) == 1 and "," not in text and text.isdecimal() and int(text) > 0):
        return
    for one in wanted if "," in text else [""]:
        if not one.strip().isdecimal():
            raise OptionError(f"--channels {text}: give how many, such as 48, or all, or which, such as 3,17,40")
        if int(one) >= count:
            raise OptionError(f"--channels {text}: no channel {one} in layer {layer}; it has {count}, from 0")
