"""head: a folder of pictures per class in, a classifier of these classes out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.devices import own_random_state
from phosphene.errors import InputError, ModelError, OptionError
from phosphene.images import EXTENSIONS, list_images
from phosphene.runtime import head_features, prepare
from phosphene.tasks.stream import stream
from phosphene.types import Record, counted, short_seed
from phosphene.zoo.head import with_head

Progress = Callable[[int, int], None]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Inverse strengths of the penalty that cross-validation chooses from (ours): from hardly any freedom to much.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_FOLDS = 5


@dataclass(frozen=True)
class Head:
    """A fitted head, and how well it does on pictures it has not seen.

    Args:
        classifier: the network with the new head.
        weight: (1, k) for two classes, (K, k) for more; on the features as the network pools them.
        bias: (1,) or (K,).
        labels: names of the classes, those of the folders.
        counts: pictures of each class that could be read.
        accuracy: share of the held-out pictures that are right.
        fitted_accuracy: the same over the pictures it was fitted on.
        confusion: (K, K) held-out pictures, a row per true and a column per predicted class.
        held_out: one record per held-out picture: label, predicted, probability of the predicted class.
        broken: one record per picture that could not be read.
        strength: the inverse penalty that cross-validation chose.
        notes: what makes the accuracy say less than it seems to: files that lie in several places.
    """

    classifier: Classifier
    weight: Tensor
    bias: Tensor
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    accuracy: float
    fitted_accuracy: float
    confusion: Indices
    held_out: tuple[Record, ...]
    broken: tuple[Record, ...]
    strength: float
    notes: tuple[str, ...] = ()


def fit_head(
    classifier: Classifier,
    folder: str | os.PathLike[str],
    *,
    held_out: float = 0.2,
    seed: int = 0,
    name: str = "head",
    progress: Progress | None = None,
) -> Head:
    """A logistic regression on the network's pooled features, with a folder of pictures for each class.

    Two classes get one output and a sigmoid (positive for the second folder in the order of names), more get a
    softmax. The features are standardized for the fit, and the standardization folded into the weights, so that the
    head is one linear layer and class activation maps remain exact. The penalty (L2) is the strongest whose
    log loss in five-fold cross-validation over the fitted part is within one standard error of the best (ours: the
    best itself drives probabilities to 0 and 1, where no occluder moves them); the held-out part chooses nothing.

    Args:
        classifier: a network that ends in global average pooling and one linear layer.
        folder: has one folder per class.
        held_out: share of the pictures of each class that is kept for measuring.
        seed: of the split.
        name: what reports call the new classifier.
        progress: called with (pictures seen, pictures in all).

    Returns:
        A Head.

    Raises:
        InputError: if there are fewer than two classes, or too few pictures of one.
        OptionError: if `held_out` leaves nothing to fit on or to measure.
        ModelError: if the network does not end in pooling and one linear layer.
    """
    check_held_out(held_out)
    groups = class_folders(folder)
    listed = {group.name: list_images(group) for group in groups}
    _require_enough({label: len(members) for label, members in listed.items()}, "pictures")  # before they are all read
    paths = [path for members in listed.values() for path in members]
    prepared = prepare(classifier)
    features, kept, broken = _features(prepared, paths, progress)
    names = tuple(listed)
    truth = np.array([names.index(Path(path).relative_to(folder).parts[0]) for path in kept], dtype=np.int64)
    counts = np.bincount(truth, minlength=len(names))
    fitted, kept_out = _split(truth, counts, names, held_out, seed)
    weight, bias, strength = _logistic(features[fitted], truth[fitted], seed)
    head = with_head(classifier, weight, bias, names, name)
    scores = head.probabilities(_scores(torch.from_numpy(features), weight, bias)).numpy()
    predicted = scores.argmax(axis=1)
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (truth[kept_out], predicted[kept_out]), 1)
    records = tuple(
        Record(
            kept[index],
            "ok",
            values={
                "label": names[truth[index]],
                "predicted": names[predicted[index]],
                "probability": float(scores[index].max()),
            },
        )
        for index in kept_out
    )
    return Head(
        classifier=head,
        weight=weight,
        bias=bias,
        labels=names,
        counts=tuple(int(count) for count in counts),
        accuracy=float((predicted == truth)[kept_out].mean()),
        fitted_accuracy=float((predicted == truth)[fitted].mean()),
        confusion=confusion,
        held_out=records,
        broken=broken,
        strength=strength,
        notes=(*_strays(folder), *_repeated(kept, truth, set(kept_out.tolist()))),
    )


def _strays(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Pictures beside the folders of classes."""
    beside = (path for path in Path(folder).iterdir() if not path.name.startswith(".") and path.is_file())
    count = sum(path.suffix.lower() in EXTENSIONS for path in beside)
    if count:
        yield f"of no class, and left out: {counted(count, 'picture')} directly in {folder}"


def _repeated(paths: Sequence[str], truth: Indices, held_out: Set[int]) -> Iterator[str]:
    """What is told of files that are the same byte for byte, in several classes or on both sides of the split."""
    same: dict[bytes, list[int]] = {}
    for index, path in enumerate(paths):
        with suppress(OSError):  # (it may be gone by now)
            same.setdefault(hashlib.sha256(Path(path).read_bytes()).digest(), []).append(index)
    mixed = [group for group in same.values() if len({int(truth[index]) for index in group}) > 1]
    if mixed:
        first = mixed[0][0]
        other = next(index for index in mixed[0] if truth[index] != truth[first])
        count = counted(len(mixed), "picture")
        yield f"{count} in several classes, byte for byte ({paths[first]}, {paths[other]}): no head can tell them apart"
    groups = [group for group in same.values() if not held_out >= set(group)]
    leaked = [index for group in groups for index in group if index in held_out]
    if leaked:
        yield (
            f"{len(leaked)} of {counted(len(held_out), 'held-out picture')} also among the fitted ones, byte for byte "
            f"({paths[leaked[0]]}): the accuracy says less than it seems to"
        )


def check_held_out(held_out: float) -> None:
    """Refuse a share that leaves nothing to fit on or to measure.

    Raises:
        OptionError: if it is one.
    """
    if not 0 < held_out < 1:
        raise OptionError(f"held_out={held_out} must lie between 0 and 1, such as 0.2")


def class_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """The folders in a folder, one for each class, in the order of their names.

    Raises:
        InputError: if there are fewer than two.
    """
    parent = Path(folder)
    if not parent.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(found) < 2:
        raise InputError(f"{folder}: holds {len(found)} folders; expected one for each of at least two classes")
    return found


def _features(
    classifier: Classifier, paths: Sequence[Path], progress: Progress | None
) -> tuple[Floats, list[str], tuple[Record, ...]]:
    """(features (N, k), the N files they are of, the files that could not be read)."""
    rows: list[Floats] = []
    kept: list[str] = []
    broken: list[Record] = []
    for batch in stream(classifier, paths):
        broken += batch.broken
        if batch.images is not None:
            _, values, _ = head_features(classifier, batch.images)
            before = len(batch.broken)
            batch, values = batch.answered(values.mean(dim=(2, 3)))  # (n, k, h, w) -> (n, k)
            broken += batch.broken[before:]
            rows.append(values.cpu().double().numpy())
            kept += batch.paths
        if progress is not None:
            progress(batch.done, len(paths))
    return np.concatenate(rows) if rows else np.zeros((0, 0)), kept, tuple(broken)


def _require_enough(counts: Mapping[str, int], what: str) -> None:
    few = [f"'{label}' has {count}" for label, count in counts.items() if count < 2 * _FOLDS]
    if few:
        raise InputError(f"too few {what}: class {', '.join(few)}; at least {2 * _FOLDS} of each are needed")


def _split(
    truth: Indices, counts: Indices, names: Sequence[str], held_out: float, seed: int
) -> tuple[Indices, Indices]:
    """(fitted, held out): of each class the same share, at least one and not all."""
    generator = np.random.default_rng(seed)
    fitted: list[Indices] = []
    kept_out: list[Indices] = []
    _require_enough(dict(zip(names, counts.tolist(), strict=True)), "readable pictures")
    for index in range(len(names)):
        members = generator.permutation(np.flatnonzero(truth == index))
        cut = min(max(1, round(held_out * len(members))), len(members) - _FOLDS)
        kept_out.append(members[:cut])
        fitted.append(members[cut:])
    return np.sort(np.concatenate(fitted)), np.sort(np.concatenate(kept_out))


def _logistic(features: Floats, truth: Indices, seed: int) -> tuple[Tensor, Tensor, float]:
    """(weight (K, k), bias (K,), chosen inverse penalty) on the raw features; K is 1 for two classes."""
    with own_random_state():  # (what is loaded with it draws numbers)
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_score

    if not np.isfinite(features).all():
        raise ModelError("the features of this network hold NaN or infinity; no head can be fitted")
    center, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread == 0] = 1
    standard = (features - center) / spread
    models = [LogisticRegression(C=strength, max_iter=5000) for strength in STRENGTHS]
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=short_seed(seed))
    losses = [-cross_val_score(model, standard, truth, scoring="neg_log_loss", cv=folds) for model in models]
    found = models[_simplest(losses)].fit(standard, truth)
    weight = found.coef_ / spread
    bias = found.intercept_ - weight @ center
    return torch.from_numpy(weight), torch.from_numpy(bias), float(found.C)


def _simplest(losses: Sequence[Floats]) -> int:
    """The strongest penalty whose loss is within one standard error of the best; the strongest comes first."""
    best = min(losses, key=lambda folds: float(folds.mean()))
    bound = best.mean() + best.std(ddof=1) / len(best) ** 0.5
    return next(index for index, folds in enumerate(losses) if folds.mean() <= bound)


def _scores(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, K) logits; one output becomes (-z, z)."""
    scores = features @ weight.T + bias
    return torch.cat([-scores, scores], dim=1) if scores.shape[1] == 1 else scores
