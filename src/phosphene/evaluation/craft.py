"""CRAFT: the concepts that a class's pictures are made of, found without a name for any, and what each counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.attribution.result import even_grid
from phosphene.classifier import Classifier
from phosphene.devices import own_random_state
from phosphene.errors import ModelError, OptionError
from phosphene.evaluation.concepts import BATCH, Floats, Place, one_goal
from phosphene.evaluation.craft_options import CraftOptions
from phosphene.evaluation.heat import Progress, nothing_measured, several
from phosphene.evaluation.pieces import Keep, Piece, measured_now
from phosphene.graph import channel_axis, spatial_map
from phosphene.grids import to_network_size
from phosphene.images import to_pil
from phosphene.render import Sheet, Tile, bar_chart, heat_layer, overlay, scale_of, shown_as, side_by_side, stacked
from phosphene.runtime import Copies, Prepared, activations, forward, prepare, replaced_scores
from phosphene.targets import Target, TargetLike
from phosphene.tasks.notebook import told
from phosphene.tasks.stream import stream
from phosphene.types import Record, Shown, View, short_seed
from phosphene.zoo import load_classifier

Wide = NDArray[np.float64]
Rows = tuple[int, int, int, int]

# Pictures that a concept is shown by, and the height of each in pixels.
_SHOWN, _SIDE = 6, 128
# Importances are shares of the score that the concepts give; of less than this part of the real one they say little.
_ENOUGH = 0.5
# Of both factorizations: so often the factors are gone over at most.
_ROUNDS = 5000
# Of the largest: scores that differ by less are the same but for rounding.
_SAME = 1e-6


@dataclass(frozen=True)
class Crop:
    """A part of a picture that shows a concept.

    Args:
        image: number of the picture among those that could be read.
        part: (top, left, height, width) in pixels of what the network sees.
        amount: how much of the concept is in it: the length of that part of the layer's output.
    """

    image: int
    part: Rows
    amount: float


@dataclass(frozen=True)
class Concept:
    """One concept of the pictures.

    Args:
        number: from 1, the most important first.
        importance: total Sobol index of the score in the concept's amount, the mean over the pictures; 0 to 1.
        spread: its standard deviation over the pictures.
        drop: by how much the score falls where the concept is taken out, the mean over the pictures; negative where it
            rises, so that the concept speaks against the class.
        crops: the one of each picture that shows most of it, the best first.
    """

    number: int
    importance: float
    spread: float
    drop: float
    crops: tuple[Crop, ...]

    @property
    def says(self) -> str:
        """What was found, in words."""
        return f"concept {self.number}: importance {self.importance:.2f}, without it {-self.drop:+.2g}"


@dataclass(frozen=True, eq=False)
class FoundConcepts(Shown):
    """The concepts of a class's pictures at one layer.

    Args:
        concepts: the most important first.
        vectors: (K, C) of each the direction in the layer's channels, no number below 0, of length 1.
        maps: (N, K, h, w) how much of each concept is at each place of each picture's output.
        target: what was explained, as people read it.
        layer: dotted name.
        crop_count: how many crops the concepts were found in.
        left_over: of the crops' outputs, the part that the concepts do not account for: |A - U W| / |A|.
        score: of the target, the mean over the pictures.
        rebuilt: the same where the layer's output is U W: of nothing but the concepts.
        unmoved: pictures whose score no mask of concepts changes; they do not count in the importances.
        pictures: (N, C, H, W) in [0, 1] what the network saw.
        views: where in each picture that is.
        paths: of the pictures.
        broken: the files that could not be read.
    """

    concepts: tuple[Concept, ...]
    vectors: Floats
    maps: Tensor
    target: str
    layer: str
    crop_count: int
    left_over: float
    score: float
    rebuilt: float
    unmoved: int
    pictures: Tensor
    views: tuple[View, ...]
    paths: tuple[str, ...]
    broken: tuple[Record, ...]

    def __repr__(self) -> str:
        found = ", ".join(f"{one.importance:.2f}" for one in self.concepts)
        return f"FoundConcepts({self.target} at {self.layer}: {found})"

    @property
    def notes(self) -> list[str]:
        """What makes the importances say little about the target."""
        if abs(self.rebuilt - self.score) <= (1 - _ENOUGH) * abs(self.score):
            return []
        return [
            f"from the concepts alone the score is {self.rebuilt:.3g} instead of {self.score:.3g}: the importances are "
            "shares of that, and say little of what the network goes by; take more concepts or another layer"
        ]

    def chart(self) -> Image.Image:
        """The importances as bars."""
        bars = {f"concept {one.number}": min(max(one.importance, 0.0), 1.0) for one in self.concepts}
        return bar_chart(bars, label=f"share of the variance of {self.target}'s score (total Sobol index)")

    def crops_picture(self, concept: Concept) -> Image.Image:
        """The crops that show a concept best, side by side."""
        return side_by_side([to_pil(self._cut(crop)) for crop in concept.crops[:_SHOWN]], height=_SIDE)

    def maps_picture(self, concept: Concept) -> Image.Image:
        """Where the concept is in the pictures of these crops, with one scale for all of them."""
        rows = [crop.image for crop in concept.crops[:_SHOWN]]
        size = (int(self.pictures.shape[-2]), int(self.pictures.shape[-1]))
        own = self.maps[:, concept.number - 1]
        scale = scale_of(own, "positive")
        grid = even_grid(size, (int(own.shape[-2]), int(own.shape[-1])))
        laid = [
            overlay(to_pil(self.pictures[row]), heat_layer(values, scale))
            for row, values in zip(rows, to_network_size(own[rows], *grid, size), strict=True)
        ]
        return side_by_side(laid, height=_SIDE)

    def _cut(self, crop: Crop) -> Tensor:
        top, left, height, width = crop.part
        return self.pictures[crop.image, :, top : top + height, left : left + width]

    def rows(self) -> list[dict[str, Any]]:
        """As manifests and answers list the concepts; boxes in pixels of the pictures as they are."""
        return [
            {
                "concept": one.number,
                "importance": one.importance,
                "spread": one.spread,
                "drop": one.drop,
                "crops": [
                    {"path": self.paths[crop.image], "box": self._box(crop), "amount": crop.amount}
                    for crop in one.crops[:_SHOWN]
                ],
            }
            for one in self.concepts
        ]

    def _box(self, crop: Crop) -> list[float]:
        view, (top, left, height, width) = self.views[crop.image], crop.part
        y, x = view.crop[0] + top, view.crop[1] + left
        down, right = view.scale
        return [x * right, y * down, (x + width) * right, (y + height) * down]


@shown_as(FoundConcepts)
def _craft_sheet(found: FoundConcepts) -> Sheet:
    rows = [
        (Tile(stacked([found.crops_picture(one), found.maps_picture(one)]), (one.says,)),) for one in found.concepts
    ]
    table = [(str(one.number), f"{one.importance:.2f}", f"{-one.drop:+.2g}") for one in found.concepts]
    title = f"{found.target} at {found.layer}, {len(found.paths)} pictures"
    return Sheet(tuple(rows), title, (("concept", "importance", "score without it"), *table))


def craft(
    classifier: Classifier | nn.Module | str,
    pictures: Sequence[Place],
    *,
    target: TargetLike,
    layer: str | None = None,
    seed: int = 0,
    keep: Keep = measured_now,
    progress: Progress | None = None,
    **options: Any,
) -> FoundConcepts:
    """The concepts of a class's pictures, and what each counts for the class: non-negative factors of a layer's output.

    Crops at random places of the pictures are resized to what the network takes; their outputs at a layer, averaged
    over places, are the rows of A (n, C), which is factorized into A ~ U W with U (n, K) and W (K, C) without a number
    below zero. The rows of W are the concepts; the crops with most of one in U show what it is. At each place of a
    whole picture's output the amounts U of the same W are its concept maps. What a concept counts is the total Sobol
    index of its amount: the score h(U m W), with each column of U multiplied by its own m in [0, 1], is looked at over
    a quasi-random design of masks m; the index of a concept is the mean of (h(a) - h(a with the concept's mask of
    b))^2 over 2 Var h (Jansen's estimator). An index says how much, not which way: `drop` does.

    Ours: crops at random places, not on a grid; the lengths of the concepts in U, not in W; the variance over both
    halves of the design. Pictures that the network takes for the class are meant.

    Args:
        classifier: what is explained: a Classifier, a network, or a spec for load_classifier.
        pictures: files of the class.
        target: the class (by index or name), or another target; of a class the logit.
        layer: where: a layer without outputs below zero, such as behind a ReLU; by default the last such layer with
            places that is not the scores' own.
        seed: of the crops, the factorization and the masks.
        keep: gives the pieces that are known already and takes the new ones.
        progress: called with (pictures done, in all, what is being done).
        **options: concepts, crops, size, designs: those of CraftOptions.

    Returns:
        FoundConcepts.

    Raises:
        InputError: if no picture could be read.
        OptionError: for settings out of range, for fewer crops or channels than concepts, for a target that is several
            classes, and for a layer that the target does not depend on.
        ModelError: for a layer with outputs below zero or without places, or a network without another.

    References:
        fel2023craft, sections 3.1 to 3.3; jansen1999 for the estimator; lee1999 for the factorization.
    """
    classifier, progress = prepare(load_classifier(classifier)), told(progress)
    pictures = several(pictures, "picture files")
    chosen = CraftOptions.of(**options)
    concepts, designs = chosen.concepts, chosen.designs
    goal = one_goal(classifier, target)
    seen = _seen(classifier, pictures, layer, chosen, seed, keep, progress)
    if not seen.parts:
        raise nothing_measured("concepts", seen.broken)
    rows = np.concatenate(seen.rows)
    if not rows.any():
        raise OptionError(f"the output of layer {seen.layer} is zero for all crops; name another layer")
    if concepts > min(rows.shape):
        raise OptionError(
            f"{concepts} concepts in {len(rows)} crops and {rows.shape[1]} channels; ask for fewer, or for more crops"
        )
    amounts, vectors = factorized(rows, concepts, seed)
    images = torch.cat(seen.images)
    inside = _Rebuilt(classifier, images, goal, seen.layer, vectors)
    masks = sobol_masks(concepts, designs, seed)
    clean, masked, maps = inside.scores(masks, keep, progress)
    indices = total_indices(masked[:, : len(masks) - concepts - 1], designs)
    if not indices.any():
        raise OptionError(f"what is explained does not depend on layer {seen.layer}; name a layer before it")
    full, without = masked[:, -concepts - 1], masked[:, -concepts:]
    moved = indices[indices.any(axis=1)]  # of the others no index is defined
    importance, spread = moved.mean(axis=0), moved.std(axis=0)
    drop = (full[:, None] - without).mean(axis=0)
    order = np.argsort(-importance, kind="stable")
    return FoundConcepts(
        concepts=tuple(
            Concept(
                number=place + 1,
                importance=float(importance[row]),
                spread=float(spread[row]),
                drop=float(drop[row]),
                crops=_best(amounts[:, row], seen.parts),
            )
            for place, row in enumerate(order)
        ),
        vectors=vectors[order].astype(np.float32),
        maps=maps[:, torch.from_numpy(order.copy())],
        target=goal.label(classifier.labels),
        layer=seen.layer,
        crop_count=len(rows),
        left_over=float(np.linalg.norm(rows - amounts @ vectors) / np.linalg.norm(rows)),
        score=float(clean.mean()),
        rebuilt=float(full.mean()),
        unmoved=len(indices) - len(moved),
        pictures=images.cpu(),
        views=tuple(seen.views),
        paths=tuple(seen.paths),
        broken=tuple(seen.broken),
    )


@dataclass
class _Seen:
    """What was read: pictures, their crops, and the crops' outputs at the layer."""

    layer: str
    images: list[Tensor] = field(default_factory=list)
    rows: list[Wide] = field(default_factory=list)
    parts: list[tuple[int, Rows]] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    broken: list[Record] = field(default_factory=list)

    def add(self, piece: Piece, device: torch.device) -> None:
        """What was found of a few pictures."""
        found = piece.values
        self.layer = found["layer"]
        self.parts += [(len(self.paths) + image, tuple(part)) for image, part in found["parts"]]
        self.views += [View(**{name: tuple(value) for name, value in view.items()}) for view in found["views"]]
        self.paths += found["paths"]
        self.broken += [Record(path, "error", why) for path, why in found["broken"]]
        if found["paths"]:
            self.images.append(torch.from_numpy(piece.arrays["images"]).to(device))
            self.rows.append(piece.arrays["rows"])


def _seen(
    classifier: Prepared,
    pictures: Sequence[Place],
    layer: str | None,
    options: CraftOptions,
    seed: int,
    keep: Keep,
    progress: Progress | None,
) -> _Seen:
    seen = _Seen("" if layer is None else classifier.layer_name(layer))
    together = BATCH if classifier.preprocess.size is not None else 1
    for start in range(0, len(pictures), together):
        part = pictures[start : start + together]
        generator = np.random.default_rng([seed, start])
        look = partial(_looked, classifier, part, seen.layer, options, generator)
        seen.add(keep(f"crops of pictures {start + 1} to {start + len(part)}", look), classifier.device)
        if progress is not None:
            progress(start + len(part), len(pictures), "outputs for crops")
    if len({images.shape[1:] for images in seen.images}) > 1:
        raise ModelError(
            f"{classifier.name} sees each picture in a size of its own; give pictures of one size, or the network an "
            "input size"
        )
    return seen


def _looked(
    classifier: Prepared, pictures: Sequence[Place], layer: str, options: CraftOptions, generator: np.random.Generator
) -> Piece:
    """A few pictures, where their crops lie, and the outputs for these; an empty layer is looked for."""
    (batch,) = stream(classifier, pictures, size=len(pictures))
    arrays: dict[str, NDArray[Any]] = {}
    parts: list[tuple[int, Rows]] = []
    if batch.images is not None:
        layer = layer or _default_layer(classifier, batch.images[:1])
        batch, _ = batch.answered(_outputs(classifier, batch.images, layer).flatten(1))
    if batch.images is not None:
        rows = []
        for index, image in enumerate(batch.images):
            cut, places = random_crops(image, options.crops, options.size, generator)
            output = _outputs(classifier, cut, layer)
            maps = spatial_map(output, f"the output of layer {layer}", cut, classifier.layout(layer))
            rows.append(_not_negative(maps.flatten(2).mean(dim=2), layer))
            parts += [(index, place) for place in places]
        arrays = {"images": batch.images.cpu().numpy(), "rows": np.concatenate(rows)}
    values = {
        "layer": layer,
        "parts": parts,
        "views": [asdict(view) for view in batch.views],
        "paths": list(batch.paths),
        "broken": [(record.path, record.error) for record in batch.broken],
    }
    return Piece(values, arrays)


def _outputs(classifier: Prepared, images: Tensor, layer: str) -> Tensor:
    output = activations(classifier, images, [layer])[1][layer]
    if len(output) != len(images):
        raise ModelError(f"the output of layer {layer} has no row for each picture; name another layer")
    return output


def _default_layer(classifier: Prepared, image: Tensor) -> str:
    """The last layer with places whose output for an image is nowhere below zero and that is not the scores' own."""
    classes = int(forward(classifier, image).shape[1])
    for name in classifier.looks.candidate_layers:
        output = activations(classifier, image, [name])[1][name]
        count = output.shape[channel_axis(output, image, classifier.layout(name))]
        if count not in (1, classes) and bool((output >= 0).all()) and bool(output.any()):
            return name
    raise ModelError(
        f"{classifier.name} has no layer with places whose output is nowhere below zero, as behind a ReLU: CRAFT takes "
        "such outputs apart; test concepts of your own (TCAV), or see the facets of a layer (features)"
    )


def _not_negative(rows: Tensor, layer: str) -> Wide:
    if not bool((rows >= 0).all()):
        raise ModelError(
            f"the output of layer {layer} has numbers below zero, or NaN: CRAFT takes apart what a layer such as a "
            "ReLU gives; name such a layer"
        )
    return _wide(rows)


def random_crops(image: Tensor, count: int, size: float, generator: np.random.Generator) -> tuple[Tensor, list[Rows]]:
    """(crops (count, C, H, W) resized to the image's own size, (top, left, height, width) of each).

    Args:
        image: (C, H, W).
        count: of crops.
        size: of both sides, as a part of the image's.
        generator: of their places.

    Example:
        >>> crops, parts = random_crops(torch.rand(3, 12, 18), 2, 0.5, np.random.default_rng(0))
        >>> crops.shape, [part[2:] for part in parts]
        (torch.Size([2, 3, 12, 18]), [(6, 9), (6, 9)])
    """
    whole = (int(image.shape[-2]), int(image.shape[-1]))
    height, width = (max(1, round(size * side)) for side in whole)
    tops, lefts = (
        generator.integers(0, side - length + 1, count).tolist()
        for side, length in zip(whole, (height, width), strict=True)
    )
    parts = [(top, left, height, width) for top, left in zip(tops, lefts, strict=True)]
    cut = torch.stack([image[:, top : top + height, left : left + width] for top, left, _, _ in parts])
    return F.interpolate(cut, whole, mode="bilinear", align_corners=False), parts


def factorized(rows: Wide, count: int, seed: int = 0) -> tuple[Wide, Wide]:
    """(U (n, K), W (K, C)) with rows ~ U W, neither with a number below zero; the rows of W have length 1.

    By coordinate descent from non-negative double singular value decomposition, as scikit-learn's.

    Args:
        rows: (n, C), no number below zero.
        count: K.
        seed: of the start.

    Example:
        >>> parts = np.array([[1.0, 0, 0], [0, 1, 1]])
        >>> amounts, vectors = factorized(np.array([[1.0, 0], [0, 2], [3, 1], [1, 1]]) @ parts, 2)
        >>> bool(np.allclose(amounts @ vectors, np.array([[1.0, 0], [0, 2], [3, 1], [1, 1]]) @ parts, atol=1e-2))
        True
    """
    with own_random_state():  # (what is loaded with it draws numbers)
        from sklearn.decomposition import NMF

    model = NMF(count, init="nndsvda", max_iter=_ROUNDS, random_state=short_seed(seed))
    amounts, vectors = model.fit_transform(rows), model.components_
    lengths = np.linalg.norm(vectors, axis=1)
    lengths = np.where(lengths > 0, lengths, 1.0)
    return amounts * lengths, vectors / lengths[:, None]


def amounts_of(rows: Wide, vectors: Wide) -> Wide:
    """(n, K) the amounts, none below zero, that come nearest to rows (n, C) with these vectors (K, C).

    Example:
        >>> amounts_of(np.array([[2.0, 0.0, 3.0]]), np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])).round(3)
        array([[2., 3.]])
    """
    with own_random_state():  # (what is loaded with it draws numbers)
        from sklearn.decomposition import non_negative_factorization

    found: Wide = non_negative_factorization(
        rows, H=vectors, n_components=len(vectors), update_H=False, max_iter=_ROUNDS, tol=1e-6
    )[0]
    return found


def sobol_masks(count: int, designs: int, seed: int = 0) -> Wide:
    """(designs * (K + 2) + 1 + K, K) the masks that scores are looked at for, in [0, 1].

    The two halves a and b of a scrambled Sobol sequence; a with each column of b in turn; then all concepts whole, and
    all but each.

    Example:
        >>> sobol_masks(3, 4).shape, sobol_masks(3, 4)[-2:].tolist()
        ((24, 3), [[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    """
    from scipy.stats import qmc

    one, other = np.split(qmc.Sobol(2 * count, rng=seed).random(designs), 2, axis=1)
    mixed = [np.where(np.arange(count) == column, other, one) for column in range(count)]
    return np.concatenate([one, other, *mixed, np.ones((1, count)), 1 - np.eye(count)])


def total_indices(scores: Wide, designs: int) -> Wide:
    """(N, K) total Sobol indices by Jansen's estimator; zero where the scores do not change but for rounding.

    Args:
        scores: (N, designs * (K + 2)) for the first rows of `sobol_masks`.
        designs: as there.

    Example:
        >>> masks = sobol_masks(2, 256)[:-3]
        >>> total_indices((masks @ np.array([3.0, 1.0]))[None], 256).round(2)
        array([[0.9, 0.1]])

    References:
        jansen1999.
    """
    from scipy.stats import sobol_indices

    one, other, *mixed = np.split(scores, scores.shape[1] // designs, axis=1)
    found = sobol_indices(func={"f_A": one, "f_B": other, "f_AB": np.stack(mixed)}, n=designs)
    indices: Wide = np.asarray(found.total_order).reshape(len(scores), len(mixed))
    return np.where((np.ptp(scores, axis=1) > _SAME * np.abs(scores).max(axis=1))[:, None], indices, 0.0)


class _Rebuilt:
    """The network with the layer's output made of concepts.

    Args:
        classifier: the network.
        images: (N, C, H, W) that it sees.
        target: whose score is looked at.
        layer: whose output is made of concepts.
        vectors: (K, C) the concepts.
    """

    def __init__(self, classifier: Prepared, images: Tensor, target: Target, layer: str, vectors: Wide) -> None:
        self.classifier, self.images, self.target, self.layer = classifier, images, target, layer
        self.vectors = vectors

    def scores(self, masks: Wide, keep: Keep, progress: Progress | None) -> tuple[Wide, Wide, Tensor]:
        """(scores (N,) as they are, scores (N, M) for the masks, amounts (N, K, h, w) at the places of the output).

        For a mask the amounts of each concept are multiplied by its number in that row of masks.
        """
        pieces = []
        for index in range(len(self.images)):
            pieces.append(keep(f"masks of picture {index + 1}", partial(self._scored, index, masks)).arrays)
            if progress is not None:
                progress(index + 1, len(self.images), "scores for masks of concepts")
        clean, masked, amounts = (
            np.concatenate([piece[name] for piece in pieces]) for name in ("clean", "masked", "amounts")
        )
        return clean, masked, self._maps(torch.from_numpy(amounts))

    def _scored(self, index: int, masks: Wide) -> Piece:
        """The scores of one image, and the amounts (1, places, K), the places as the output has them."""
        vectors, columns = (torch.from_numpy(values).float() for values in (self.vectors, masks))
        layout, image = self.classifier.layout(self.layer), self.images[index : index + 1]
        found: list[Tensor] = []

        def copies_of(_index: int, output: Tensor) -> Copies:
            axis = channel_axis(output, image, layout)
            rows = output.movedim(axis, -1)  # (1, places, C)
            flat = _not_negative(rows.reshape(-1, rows.shape[-1]).float(), self.layer)
            amounts = torch.from_numpy(amounts_of(flat, self.vectors)).float().reshape(*rows.shape[:-1], -1)
            found.append(amounts)

            def made(numbers: range) -> Tensor:
                chosen = columns[numbers.start : numbers.stop]
                shape = (len(chosen), *[1] * (amounts.ndim - 2), chosen.shape[1])
                return ((amounts * chosen.reshape(shape)) @ vectors).movedim(-1, axis)

            return Copies(len(masks), made)

        clean, masked, _ = replaced_scores(self.classifier, image, self.target, self.layer, copies_of)
        return Piece({}, {"clean": _wide(clean), "masked": _wide(masked), "amounts": found[-1].numpy()})

    def _maps(self, amounts: Tensor) -> Tensor:
        if amounts.ndim == 4:
            return amounts.movedim(-1, 1)
        around = (self.classifier.layout(self.layer) or "NTC")[3:]
        return spatial_map(amounts, f"the output of layer {self.layer}", self.images.cpu(), f"NTC{around}")


def _wide(values: Tensor) -> Wide:
    return values.cpu().numpy().astype(np.float64)


def _best(amounts: Wide, parts: Sequence[tuple[int, Rows]]) -> tuple[Crop, ...]:
    """The crop of each picture with most of a concept, the best first."""
    found: dict[int, Crop] = {}
    for row in np.argsort(-amounts, kind="stable").tolist():
        image, part = parts[row]
        if amounts[row] > 0:
            found.setdefault(image, Crop(image, part, float(amounts[row])))
    return tuple(found.values())
