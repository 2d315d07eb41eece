"""What the layers answer to the pictures of a folder: strongest places, influence on the class, a sample of places."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from phosphene.attribution.result import even_grid
from phosphene.errors import NumericalError
from phosphene.files import text_bytes
from phosphene.graph import spatial_map
from phosphene.images import to_pil
from phosphene.render import thumbnail
from phosphene.runtime import Prepared, activations, forward, input_gradient, layer_gradients
from phosphene.sources import Item
from phosphene.targets import Target, Unit
from phosphene.types import Size, View

if TYPE_CHECKING:
    from phosphene.atlases.desk import Desk, Made, Tell

Floats = NDArray[np.float32]

# Places of a layer that are laid out, over all pictures; of each picture at least one.
_PLACES = 6000
_THUMBNAIL, _CROP = 320, 112
# The share of the gradient of a place that its field holds, and how many units it is measured on.
_FIELD_SHARE, _FIELD_UNITS = 0.8, 6
BEST = 5


@dataclass(frozen=True)
class LayerAnswers:
    """What a layer answers to N pictures.

    Args:
        means: (N, k) over the places.
        peaks: (N, k) the largest value.
        peak_at: (N, k, 2) its place (y, x) in network pixels.
        influence: (N, k) gradient of the best class's score x activation, summed over places.
        places: (M, k) the values at some places.
        where: (M, 3) of these: row of the picture, y and x in network pixels.
    """

    means: Floats
    peaks: Floats
    peak_at: Floats
    influence: Floats
    places: Floats
    where: Floats


@dataclass(frozen=True)
class Answers:
    """What a network answers to the pictures that could be read.

    Args:
        pictures: for each {"number", "key", "path", "name", "thumbnail", "best": [[class, probability], ...]}.
        broken: of those that could not be read: {"key", "path", "error"}.
        probabilities: (N, K).
        layers: by name.
    """

    pictures: tuple[Mapping[str, Any], ...]
    broken: tuple[Mapping[str, Any], ...]
    probabilities: Floats
    layers: Mapping[str, LayerAnswers]


@dataclass(frozen=True)
class Look:
    """A part of an atlas: some pictures, looked at.

    Args:
        number: of the part.
        keys: of the pictures.
        first: number of the first of them among all.
        places: of each layer that are kept of a picture.
    """

    number: int
    keys: tuple[str, ...]
    first: int
    places: int

    @property
    def key(self) -> str:
        """What the part is called."""
        return f"look-{self.number:04d}"

    def make(self, desk: Desk, tell: Tell) -> Made:
        """The answers as an archive of arrays, and a thumbnail of each picture."""
        files: dict[str, bytes] = {}
        pictures: list[dict[str, Any]] = []
        broken: list[dict[str, Any]] = []
        rows: list[dict[str, Floats]] = []
        items = desk.source.chosen(set(self.keys), **desk.classifier.preprocess.reading)
        for item in items:
            number = self.first + self.keys.index(item.key)
            tell(number - self.first, len(self.keys))
            try:
                found = None if item.picture is None else _looked_at(desk, item, self.places)
            except NumericalError as error:
                found, item = None, Item(item.key, item.path, error=f"{item.path}: {error}")
            if found is None:
                broken.append({"key": item.key, "path": item.path, "error": item.error})
                continue
            best = np.argsort(-found["probabilities"], kind="stable")[:BEST]
            name = f"pictures/{number:04d}.webp"
            files[name] = webp(thumbnail(item.picture, _THUMBNAIL))  # type: ignore[arg-type]
            pictures.append(
                {
                    "number": number,
                    "key": item.key,
                    "name": item.key.replace("\\", "/").rpartition("/")[2],
                    "thumbnail": name,
                    "best": [[int(index), float(found["probabilities"][index])] for index in best],
                }
            )
            rows.append(found)
        arrays = _stacked(rows, len(desk.work.config.layers))
        files[f"material/{self.key}.npz"] = npz(arrays)
        return files, {"pictures": pictures, "broken": broken}


def looks(keys: Sequence[str], size: int) -> list[Look]:
    """The parts that look at all pictures."""
    each = max(1, _PLACES // max(1, len(keys)))
    return [Look(start // size, tuple(keys[start : start + size]), start, each) for start in range(0, len(keys), size)]


def _looked_at(desk: Desk, item: Item, count: int) -> dict[str, Floats]:
    """The answers to one picture, by the names of their arrays.

    Raises:
        NumericalError: if the network gives no number.
    """
    classifier, layers = desk.classifier, list(desk.work.config.layers)
    views = classifier.views([item.picture])  # type: ignore[list-item]
    images = classifier.preprocessed([item.picture], views)  # type: ignore[list-item]
    logits = forward(classifier, images)
    if not bool(logits.isfinite().all()):
        raise NumericalError("the network's own scores are NaN or infinite for this picture")
    best = Target.of(int(logits[0].argmax()))
    passed = layer_gradients(classifier, images, best, layers)
    found = {"probabilities": _array(classifier.probabilities(logits)[0])}
    for number, layer in enumerate(layers):
        layout = classifier.layout(layer)
        values = spatial_map(passed.activations[layer], f"layer {layer}", images, layout)[0].float().cpu()
        slopes = spatial_map(passed.gradients[layer], f"layer {layer}", images, layout)[0].float().cpu()
        at = centers((values.shape[1], values.shape[2]), views[0].size)
        flat = values.flatten(1)
        peaks = flat.max(dim=1)
        chosen = _some(item.key, flat.shape[1], count)
        found |= {
            f"means-{number}": _array(flat.mean(dim=1)),
            f"peaks-{number}": _array(peaks.values),
            f"peak_at-{number}": at[peaks.indices.numpy()],
            f"influence-{number}": _array((values * slopes).flatten(1).sum(dim=1)),
            f"places-{number}": _array(flat[:, chosen].T).astype(np.float16),
            f"where-{number}": at[chosen],
        }
    return found


def centers(grid: Size, size: Size) -> Floats:
    """(h * w, 2): the centers (y, x) of a layer's cells in network pixels.

    Example:
        >>> centers((1, 2), (8, 8)).tolist()
        [[4.0, 2.0], [4.0, 6.0]]
    """
    (top, left), (down, across) = even_grid(size, grid)
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    return np.stack([top + down * rows.ravel(), left + across * columns.ravel()], axis=1).astype(np.float32)


def _some(key: str, count: int, wanted: int) -> list[int]:
    """Numbers of some places of a picture, drawn by its key, in order."""
    if wanted >= count:
        return list(range(count))
    seed = int.from_bytes(hashlib.sha256(text_bytes(key)).digest()[:4], "big")
    return sorted(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist())


def _stacked(rows: Sequence[Mapping[str, Floats]], layers: int) -> dict[str, Floats]:
    """The arrays of all pictures of a part; places are one below the other, with the row of their picture."""
    if not rows:
        return {}
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name.split("-")[0] not in _RAGGED}
    for layer in range(layers):
        places, where = f"places-{layer}", f"where-{layer}"
        arrays[places] = np.concatenate([row[places] for row in rows])
        arrays[where] = np.concatenate(
            [np.column_stack([np.full(len(row[where]), number), row[where]]) for number, row in enumerate(rows)]
        ).astype(np.float32)
    return arrays


_RAGGED = ("places", "where")


def joined_answers(parts: Sequence[tuple[Mapping[str, Any], Mapping[str, Floats]]], layers: Sequence[str]) -> Answers:
    """The answers of all parts (record, arrays), in order."""
    some = [(record, arrays) for record, arrays in parts if record["pictures"]]

    def all_of(name: str) -> Floats:
        return np.concatenate([arrays[name] for _, arrays in some])

    def where(name: str) -> Floats:
        before, found = 0, []
        for record, arrays in some:
            found.append(arrays[name] + np.array([before, 0, 0], np.float32))
            before += len(record["pictures"])
        return np.concatenate(found)

    found = {
        layer: LayerAnswers(
            **{name: all_of(f"{name}-{number}") for name in ("means", "peaks", "peak_at", "influence")},
            places=all_of(f"places-{number}").astype(np.float32),
            where=where(f"where-{number}"),
        )
        for number, layer in enumerate(layers if some else ())
    }
    return Answers(
        tuple(picture for record, _ in parts for picture in record["pictures"]),
        tuple(one for record, _ in parts for one in record["broken"]),
        all_of("probabilities") if some else np.zeros((0, 0), np.float32),
        found,
    )


def field_side(classifier: Prepared, layer: str, images: Tensor) -> int:
    """The side, in network pixels, of the square about a place that holds most of its gradient with the image.

    What a place can see in theory is often more than the image; this is what it does look at, measured in the middle.
    """
    _, found = activations(classifier, images[:1], [layer])
    grid = spatial_map(found[layer], f"layer {layer}", images[:1], classifier.layout(layer))
    middle = (grid.shape[2] // 2, grid.shape[3] // 2)
    strongest = grid[0, :, middle[0], middle[1]].topk(min(_FIELD_UNITS, grid.shape[1])).indices.tolist()
    size = (int(images.shape[-2]), int(images.shape[-1]))
    y, x = centers((grid.shape[2], grid.shape[3]), size)[middle[0] * grid.shape[3] + middle[1]]
    total = torch.zeros(size)
    for channel in strongest:
        _, gradient = input_gradient(classifier, images, Unit(layer, channel, middle))
        total += gradient.abs().sum(dim=(0, 1)).float().cpu()
    rows = (torch.arange(size[0]) + 0.5 - float(y)).abs()[:, None]
    columns = (torch.arange(size[1]) + 0.5 - float(x)).abs()[None]
    radius = torch.maximum(rows.expand(size), columns.expand(size)).flatten()
    order = radius.argsort()
    mass = total.flatten()[order].cumsum(0)
    if not float(mass[-1]) > 0:
        return min(size)
    reached = int(torch.searchsorted(mass, _FIELD_SHARE * mass[-1]))
    return max(8, min(min(size), round(2 * float(radius[order][min(reached, len(order) - 1)]))))


def crop(picture: Any, view: View, at: Sequence[float], side: int) -> Image.Image:
    """The square of a field about a place (y, x) in network pixels, out of the picture itself, kept inside of it."""
    shown = to_pil(picture).convert("RGB")
    (top, left, _, _), (down, across) = view.crop, view.scale
    y, x = (float(at[0]) + top) * down, (float(at[1]) + left) * across
    height, width = min(side * down, shown.height), min(side * across, shown.width)
    y0 = min(max(0.0, y - height / 2), shown.height - height)
    x0 = min(max(0.0, x - width / 2), shown.width - width)
    return shown.resize((_CROP, _CROP), Image.Resampling.LANCZOS, box=(x0, y0, x0 + width, y0 + height))


def webp(picture: Image.Image, quality: int = 80) -> bytes:
    """A picture as a small WebP."""
    content = io.BytesIO()
    picture.convert("RGB").save(content, "WEBP", quality=quality, method=4)
    return content.getvalue()


def npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as one compressed archive: the same arrays, the same bytes."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def _array(values: Tensor) -> Floats:
    return np.asarray(values.detach().float().cpu().numpy(), np.float32)
