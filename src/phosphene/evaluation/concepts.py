"""Concepts: is a class more sensitive to what a folder of pictures shows than to what random pictures show?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.devices import own_random_state
from phosphene.errors import InputError, ModelError, OptionError
from phosphene.evaluation.heat import Progress, nothing_measured, several
from phosphene.evaluation.pieces import Keep, Piece, measured_now
from phosphene.images import list_images
from phosphene.render import Sheet, Tile, bar_chart, shown_as
from phosphene.runtime import Prepared, activations, layer_gradients, prepare
from phosphene.targets import Target, TargetLike, resolve_one
from phosphene.tasks.deep_features import deep_feature_layer
from phosphene.tasks.notebook import told
from phosphene.tasks.stream import stream
from phosphene.types import Record, Shown, short_seed
from phosphene.zoo import load_classifier

Floats = NDArray[np.float32]
Place = str | os.PathLike[str]

# Of a set (ours): with fewer, a third that is held out says nothing of how well the concept is told apart.
FEWEST = 10
# A t-test needs a spread, and the sets of a ring two different neighbors each.
_FEWEST_SETS = 3
_HELD_OUT = 1 / 3
# Pictures that are looked at together.
BATCH = 16
# Gradients of two pictures whose cosine differs from 1 by less are the same but for rounding and for their length.
_SAME = 1e-5


@dataclass(frozen=True)
class ConceptTest:
    """What was found of one concept at one layer.

    Args:
        concept: name of its folder.
        layer: dotted name.
        scores: the share of the pictures whose score rises toward the concept, once for each random set.
        chance: the same of each random set against the next one: what a concept that means nothing gets.
        accuracy: share of held-out pictures on the right side of the concept's boundary, the mean over the sets.
        t: Welch's statistic of `scores` against `chance`; None where neither has any spread.
        p: its two-sided probability; None as t.
        tests: how many tests the run made; p is corrected for these.
        level: below which the corrected probability is called significant.
    """

    concept: str
    layer: str
    scores: tuple[float, ...]
    chance: tuple[float, ...]
    accuracy: float
    t: float | None = None
    p: float | None = None
    tests: int = 1
    level: float = 0.05

    @property
    def score(self) -> float:
        """The mean over the random sets."""
        return float(np.mean(self.scores))

    @property
    def p_corrected(self) -> float | None:
        """The probability times the number of tests, at most 1 (Bonferroni).

        Example:
            >>> ConceptTest("striped", "4", (1.0,), (0.5,), 1.0, t=3.0, p=0.02, tests=4).p_corrected
            0.08
        """
        return None if self.p is None else min(1.0, self.p * self.tests)

    @property
    def significant(self) -> bool:
        """Whether the scores differ from those of random sets by more than chance explains."""
        return self.p_corrected is not None and self.p_corrected < self.level

    @property
    def verdict(self) -> str:
        """What was found, in words."""
        if self.p_corrected is None:
            return "no test: neither the concept nor the random sets have any spread"
        if not self.significant:
            return f"not told from random sets (corrected p {self.p_corrected:.2g})"
        way = "for" if self.score > np.mean(self.chance) else "against"
        return f"speaks {way} it (corrected p {self.p_corrected:.2g})"

    def row(self) -> dict[str, Any]:
        """As manifests and answers list it."""
        return {
            "concept": self.concept,
            "layer": self.layer,
            "score": self.score,
            "random_score": float(np.mean(self.chance)),
            "scores": list(self.scores),
            "random_scores": list(self.chance),
            "accuracy": self.accuracy,
            "t": self.t,
            "p": self.p,
            "p_corrected": self.p_corrected,
            "significant": self.significant,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class ConceptTests(Shown):
    """The tests of all concepts at all layers.

    Args:
        tests: one for each concept at each layer.
        target: what was explained, as people read it.
        images: how many pictures were looked at.
        sets: pictures that could be read of each concept and of each random set, in this order.
        broken: the files that could not be read.
        vectors: by layer and concept, the mean of the concept's unit vectors against each random set, (D,) of length 1:
            what `Direction` takes.
    """

    tests: tuple[ConceptTest, ...]
    target: str
    images: int
    sets: Mapping[str, int]
    broken: tuple[Record, ...]
    vectors: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"ConceptTests({self.target}: {', '.join(f'{one.concept} {one.score:.2f}' for one in self.tests)})"

    def chart(self) -> Image.Image:
        """The mean scores as bars, those of random sets in grey, a star at what is significant."""
        bars: dict[str, float] = {}
        for one in self.tests:
            bars[f"{one.concept}{' *' if one.significant else ''}, {one.layer}"] = one.score
        chance = {f"random, {one.layer}": float(np.mean(one.chance)) for one in self.tests}
        return bar_chart(
            bars | chance, label=f"share of pictures whose score for {self.target} rises", quiet=tuple(chance)
        )


@shown_as(ConceptTests)
def _concepts_sheet(found: ConceptTests) -> Sheet:
    rows = [(one.concept, one.layer, f"{one.score:.2f}", one.verdict) for one in found.tests]
    table = (("concept", "layer", "score", "verdict"), *rows)
    return Sheet(((Tile(found.chart(), ()),),), f"{found.target}, {found.images} pictures", table)


def tcav(
    classifier: Classifier | nn.Module | str,
    pictures: Sequence[Place],
    concepts: Sequence[Place],
    random: Sequence[Place],
    *,
    target: TargetLike,
    layers: Sequence[str] = (),
    sets: int = 10,
    level: float = 0.05,
    seed: int = 0,
    keep: Keep = measured_now,
    progress: Progress | None = None,
) -> ConceptTests:
    """Test with concept activation vectors: does what a folder of pictures shows raise a class's score?

    At a layer, a linear classifier (hinge loss by stochastic gradient, as the authors') is fitted to tell the outputs
    f(x) for pictures of the concept from those for random pictures; its normal, which points to the concept, is the
    concept's vector v. The score is the share of `pictures` whose logit h rises along it: grad h(f(x)) . v > 0.
    It is taken once for each random set, and these scores are compared with those of random sets in the concept's place
    (each against the next, in a ring) by Welch's two-sided t-test, Bonferroni-corrected for all concepts and layers of
    the call. The runs share pictures, so that p is a guide and not exact, as in the paper.

    Args:
        classifier: what is explained: a Classifier, a network, or a spec for load_classifier.
        pictures: files of the class.
        concepts: folders, each with pictures of one concept.
        random: folders, each a set of random pictures; or one folder, which is cut into `sets` disjoint sets. Of each
            set at most as many as the smallest concept has are taken.
        target: the class (by index or name), or another target.
        layers: where; by default the last one with a fine grid (see `deep_feature_layer`).
        sets: how many random sets are made of a single folder.
        level: below which a corrected probability is called significant.
        seed: of the sets, the held-out parts and the fits.
        keep: gives the pieces that are known already and takes the new ones.
        progress: called with (pictures done, in all, what is being done).

    Returns:
        ConceptTests.

    Raises:
        InputError: for folders without enough pictures, or if no picture could be read.
        OptionError: for a target that is several classes or the best of each picture, for fewer than three random sets,
            and for a layer where the gradient is the same for all pictures: behind it all is linear.
        ModelError: where the network's outputs at the layer have no row for each picture.

    References:
        kim2018, sections 3.2 to 3.5.
    """
    classifier, progress = prepare(load_classifier(classifier)), told(progress)
    pictures, concepts = several(pictures, "picture files"), several(concepts, "folders")
    random = several(random, "folders")
    goal = one_goal(classifier, target)
    if not 0 < level < 1:
        raise OptionError(f"level={level} must lie between 0 and 1, such as 0.05")
    groups = concept_sets(concepts, random, sets, seed)
    chosen = [classifier.layer_name(layer) for layer in dict.fromkeys(layers)] or [_default_layer(classifier)]
    look = _Look(classifier, chosen, len(pictures) + sum(map(len, groups.values())), keep, progress)
    names = [Path(folder).name for folder in concepts]
    # Known as a whole when all is done, so that the outputs of layers need not be kept for ever.
    piece = keep("tests", partial(_all_tests, look, pictures, goal, groups, names, seed))
    found = piece.values
    sides = [{name: tuple(values[name]) for name in ("scores", "chance")} for values in found["tests"]]
    tests = [
        ConceptTest(**{**values, **own}, tests=len(sides), level=level)
        for values, own in zip(found["tests"], sides, strict=True)
    ]
    broken = tuple(Record(path, "error", why) for path, why in found["broken"])
    vectors: dict[str, dict[str, Floats]] = {}
    for number, test in enumerate(tests):
        vectors.setdefault(test.layer, {})[test.concept] = piece.arrays[str(number)]
    return ConceptTests(tuple(tests), goal.label(classifier.labels), found["images"], found["sets"], broken, vectors)


def _all_tests(
    look: _Look,
    pictures: Sequence[Place],
    goal: Target,
    groups: Mapping[str, Sequence[Place]],
    names: Sequence[str],
    seed: int,
) -> Piece:
    """Every concept at every layer, and what was looked at for it."""
    slopes, images = look.at("images", pictures, goal)
    if not images:
        raise nothing_measured("concepts", [Record(path, "error", why) for path, why in look.broken])
    for layer in look.layers:
        _refuse_linear(slopes[layer], layer)
    outputs: dict[str, dict[str, Floats]] = {}
    counts: dict[str, int] = {}
    for name, paths in groups.items():
        outputs[name], counts[name] = look.at(name, paths)
        if counts[name] < FEWEST:
            raise InputError(f"{name}: {counts[name]} pictures could be read; at least {FEWEST} are needed")
    drawn = [name for name in groups if name not in names]
    found: list[dict[str, Any]] = []
    vectors: dict[str, Floats] = {}
    for layer in look.layers:
        rows = {name: values[layer] for name, values in outputs.items()}
        for test, vector in _tested(names, drawn, layer, slopes[layer], rows, seed):
            vectors[str(len(found))] = vector
            found.append(test)
    return Piece({"tests": found, "images": images, "sets": counts, "broken": look.broken}, vectors)


def one_goal(classifier: Prepared, target: TargetLike) -> Target:
    """The one target that concepts may speak for, its names looked up.

    Raises:
        OptionError: for several classes, or the best of each picture.
    """
    goal = resolve_one(target, classifier.labels)
    if not isinstance(goal, Target) or len(goal.singles()) != 1:
        raise OptionError("which class do the concepts speak for? name one class, or another target")
    return goal.found_in(classifier)


def concept_sets(concepts: Sequence[Place], random: Sequence[Place], sets: int, seed: int) -> dict[str, list[Path]]:
    """The files of each concept by its folder's name, then those of each random set ("random 1", ...).

    Raises:
        InputError: for a folder with too few pictures.
        OptionError: for no concept, two of one name, or too few random sets.
    """
    found: dict[str, list[Path]] = {}
    for folder in concepts:
        name = Path(folder).name
        if name in found:
            raise OptionError(f"two concepts are called '{name}'; rename one of the folders")
        found[name] = list_images(folder)
        _refuse_few(str(folder), found[name])
    if not found:
        raise OptionError("no concept was given; name at least one folder of pictures")
    most = min(map(len, found.values()))
    generator = np.random.default_rng(seed)
    pools = [list_images(folder) for folder in random]
    mixed = [[pool[index] for index in generator.permutation(len(pool))] for pool in pools]
    count = len(mixed) if len(mixed) > 1 else sets
    if count < _FEWEST_SETS or not mixed:
        raise OptionError(
            f"{count if mixed else 0} random sets; at least {_FEWEST_SETS} are needed, ten or more are good"
        )
    parts = mixed if len(mixed) > 1 else [mixed[0][start::count] for start in range(count)]
    for number, part in enumerate(parts, start=1):
        where = str(random[number - 1]) if len(mixed) > 1 else f"{random[0]}, cut into {count} random sets"
        _refuse_few(where, part)
        found[f"random {number}"] = part[:most]
    return found


def _refuse_few(where: str, paths: Sequence[Path]) -> None:
    if len(paths) < FEWEST:
        raise InputError(f"{where}: {len(paths)} pictures in a set; at least {FEWEST} are needed")


def _default_layer(classifier: Prepared) -> str:
    size = classifier.preprocess.size
    found = None if size is None else deep_feature_layer(classifier.layers, size)
    if found is None:
        raise OptionError(f"{classifier.name} has no layer that concepts are looked for in by default; name one")
    return found


@dataclass
class _Look:
    """Passes over sets of pictures, with what could not be read and how far it is."""

    classifier: Prepared
    layers: list[str]
    total: int
    keep: Keep
    progress: Progress | None
    broken: list[tuple[str, str]] = field(default_factory=list)
    done: int = 0

    def at(self, name: str, paths: Sequence[Place], target: Target | None = None) -> tuple[dict[str, Floats], int]:
        """(per layer (n, D) outputs, or gradients of the target's score; n pictures that could be read)."""
        rows: dict[str, list[Floats]] = {layer: [] for layer in self.layers}
        count, size = 0, BATCH if self.classifier.preprocess.size is not None else 1
        for start in range(0, len(paths), size):
            part = paths[start : start + size]
            where = f"{name}, pictures {start + 1} to {start + len(part)}"
            piece = self.keep(where, partial(self._looked, part, target))
            self.broken += [(path, why) for path, why in piece.values["broken"]]
            count += piece.values["count"]
            for layer, values in piece.arrays.items():
                rows[layer].append(values)
            self.done += len(part)
            if self.progress is not None:
                self.progress(self.done, self.total, "outputs of layers" if target is None else "gradients")
        return {layer: _stacked(parts, layer) for layer, parts in rows.items()}, count

    def _looked(self, paths: Sequence[Place], target: Target | None) -> Piece:
        """What there is at the layers for pictures that are looked at together."""
        (batch,) = stream(self.classifier, paths, size=len(paths))
        arrays: dict[str, Floats] = {}
        if batch.images is not None:
            values = [self._flat(value, layer, batch.images) for layer, value in self._values(batch.images, target)]
            batch, kept = batch.answered(torch.cat(values, dim=1))
            parts = torch.split(kept, [value.shape[1] for value in values], dim=1)
            arrays = {layer: part.cpu().numpy() for layer, part in zip(self.layers, parts, strict=True)}
        broken = [[record.path, record.error] for record in batch.broken]
        return Piece({"count": len(paths) - len(broken), "broken": broken}, arrays)

    def _values(self, images: Tensor, target: Target | None) -> list[tuple[str, Tensor]]:
        if target is None:
            found = activations(self.classifier, images, self.layers)[1]
        else:
            found = layer_gradients(self.classifier, images, target, self.layers).gradients
        return [(layer, found[layer]) for layer in self.layers]

    def _flat(self, values: Tensor, layer: str, images: Tensor) -> Tensor:
        if len(values) != len(images):
            raise ModelError(
                f"the output of layer {layer} has {len(values)} rows for {len(images)} pictures; name a layer that has "
                "one for each"
            )
        return values.flatten(1).float()


def _stacked(parts: Sequence[Floats], layer: str) -> Floats:
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        raise ModelError(
            f"the output of layer {layer} has another size for each picture; give pictures of one size, or the network "
            "an input size"
        )
    return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)


def _refuse_linear(slopes: Floats, layer: str) -> None:
    """Refuse a layer at which the score has one slope whatever the picture: the share could be but 0 or 1."""
    lengths = np.linalg.norm(slopes, axis=1, keepdims=True)
    if not lengths.any():
        raise OptionError(f"what is explained does not depend on layer {layer}; name a layer before it")
    if (lengths == 0).any() or len(slopes) < 2:
        return
    directions = slopes / lengths
    if float((directions @ directions[0]).min()) > 1 - _SAME:
        raise OptionError(
            f"at layer {layer} the gradient is the same for all pictures (all behind it is linear), and the share of "
            "them would be 0 or 1; name a layer further from the scores"
        )


def _tested(
    names: Sequence[str], drawn: Sequence[str], layer: str, slopes: Floats, outputs: Mapping[str, Floats], seed: int
) -> list[tuple[dict[str, Any], Floats]]:
    """Each concept at one layer against the random sets, and these in a ring: what its ConceptTest is made of, and the
    concept's mean vector.
    """
    ring = pairwise([*drawn, drawn[0]])
    chance = tuple(tcav_score(slopes, concept_vector(outputs[one], outputs[other], seed)[0]) for one, other in ring)
    found = []
    for name in names:
        fits = [concept_vector(outputs[name], outputs[other], seed) for other in drawn]
        scores = tuple(tcav_score(slopes, vector) for vector, _ in fits)
        accuracy = float(np.mean([right for _, right in fits]))
        mean = np.mean([vector for vector, _ in fits], axis=0)
        one = {"concept": name, "layer": layer, "scores": scores, "chance": chance, "accuracy": accuracy}
        t, p = told_apart(scores, chance)
        found.append((one if t is None else one | {"t": t, "p": p}, mean / max(float(np.linalg.norm(mean)), 1e-12)))
    return found


def concept_vector(concept: Floats, others: Floats, seed: int = 0) -> tuple[Floats, float]:
    """(the unit vector (D,) that points from others to the concept, held-out accuracy of the boundary that it is of).

    A third of each is held out, by the seed.

    Args:
        concept: (n, D) outputs of a layer for pictures of the concept.
        others: (m, D) for other pictures.
        seed: of the split and of the fit.

    Raises:
        ModelError: if the outputs do not differ at all.

    Example:
        >>> shifted = np.eye(2, dtype=np.float32).repeat(12, axis=0) + np.float32([3, 0])
        >>> vector, accuracy = concept_vector(shifted, shifted - np.float32([6, 0]))
        >>> bool(vector[0] > 0.9), accuracy
        (True, 1.0)
    """
    with own_random_state():  # (what is loaded with it draws numbers)
        from sklearn.linear_model import SGDClassifier
        from sklearn.model_selection import train_test_split

    rows = np.concatenate([concept, others])
    truth = np.repeat([1, 0], [len(concept), len(others)])
    fitted, held, fitted_truth, held_truth = train_test_split(
        rows, truth, test_size=_HELD_OUT, random_state=short_seed(seed), stratify=truth
    )
    # The fit never leaves the span of the rows; there are far fewer of these than values in each.
    basis = np.linalg.qr(fitted.T.astype(np.float64)).Q  # (D, n)
    # The authors' settings, with ten times their steps at most: some fits want more.
    model = SGDClassifier(alpha=0.01, max_iter=10_000, tol=1e-3, random_state=short_seed(seed))
    model.fit(fitted @ basis, fitted_truth)
    vector = basis @ model.coef_[0]
    length = float(np.linalg.norm(vector))
    if not (np.isfinite(length) and length > 0):
        raise ModelError("the layer's outputs are the same for all pictures, or not finite: no concept is told apart")
    return (vector / length).astype(np.float32), float((model.predict(held @ basis) == held_truth).mean())


def tcav_score(gradients: Floats, vector: Floats) -> float:
    """The share of pictures whose score rises along a vector (D,), by gradients (N, D).

    Example:
        >>> tcav_score(np.float32([[1, 0], [2, 5], [-1, 9], [3, 3]]), np.float32([1, 0]))
        0.75
    """
    return float((gradients @ vector > 0).mean())


def told_apart(scores: Sequence[float], chance: Sequence[float]) -> tuple[float | None, float | None]:
    """(t, two-sided p) of Welch's test; (None, None) where neither side has any spread.

    Example:
        >>> told_apart([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
        (None, None)
    """
    from scipy.stats import ttest_ind_from_stats

    if len(set(scores)) == 1 and len(set(chance)) == 1:
        return None, None
    sides = [(np.mean(values), np.std(values, ddof=1), len(values)) for values in (scores, chance)]
    # (of the values themselves scipy warns where one side has no spread)
    t, p = ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False)
    return float(t), float(p)
