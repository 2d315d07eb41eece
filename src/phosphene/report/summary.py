"""What a run says as a whole: how many, how right, what is taken for what, where the evidence lies, class by class."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from phosphene.store import Record

_BINS = 24
_MOST_CONFUSED = 20
_MATRIX = 12


@dataclass(frozen=True)
class Seen:
    """One picture in numbers.

    Args:
        key: of the picture.
        outcome: "right", "wrong", "failed", or "told" where no label says what is right.
        label: the true class as the source calls it.
        index: of the true class.
        best: the best class.
        values: what it can be sorted by.
        audited: (evidence inside the mask, share of the mask) of each method that was audited.
    """

    key: str
    outcome: str
    label: str | None
    index: int | None
    best: str | None
    values: Mapping[str, float]
    audited: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    in_best: bool | None = None


@dataclass(frozen=True)
class ClassRow:
    """One class in numbers; shares are of the pictures that were not failed, None where nothing says so."""

    name: str
    count: int
    right: float | None
    probability: float | None
    audits: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Histogram:
    """How often which values occur; `wrong` counts those of pictures that were taken for something else."""

    name: str
    low: float
    high: float
    counts: tuple[int, ...]
    wrong: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """What the page says of the run.

    Args:
        outcomes: how many pictures of each.
        top5: share of the labeled pictures whose class is among those told.
        classes: most frequent first.
        confusions: (true class, taken for, how often), most frequent first.
        matrix: (classes, counts of taking the row for the column) of the classes that are confused most.
        histograms: of what pictures can be sorted by.
        methods: that were audited.
        columns: for the page's script.
    """

    outcomes: Mapping[str, int]
    top5: float | None
    classes: tuple[ClassRow, ...]
    by: str
    confusions: tuple[tuple[str, str, int], ...]
    matrix: tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]
    histograms: tuple[Histogram, ...]
    methods: tuple[str, ...]
    columns: dict[str, Any]

    @property
    def accuracy(self) -> float | None:
        """Share of the labeled pictures whose best class is right."""
        labeled = self.outcomes["right"] + self.outcomes["wrong"]
        return self.outcomes["right"] / labeled if labeled else None


def seen_of(group: Sequence[Record], columns: Sequence[str]) -> Seen:
    """One picture from its records.

    Args:
        group: all records of the picture.
        columns: of the source, as they are called in the shards.
    """
    first = group[0]
    predicted = first["predicted"] or ()
    failed = any(record["status"] == "error" for record in group)
    outcome = "told" if first["correct"] is None else "right" if first["correct"] else "wrong"
    values: dict[str, Any] = {"probability": predicted[0]["probability"] if predicted else None}
    several = len({record["method"] for record in group}) > 1
    audited: dict[str, tuple[float, float]] = {}
    for record in group:
        behind = f" ({record['method']})" if several else ""
        for name, shown in (("score", "score"), ("evidence_inside", "evidence inside"), ("seconds", "seconds")):
            values.setdefault(f"{shown}{behind}", record[name])
        if record["evidence_inside"] is not None and record["mask_share"] is not None:
            audited.setdefault(record["method"] or "map", (record["evidence_inside"], record["mask_share"]))
    values |= {name: first[name] for name in columns if isinstance(first[name], int | float)}
    index = first["label_index"]
    return Seen(
        first["key"],
        "failed" if failed else outcome,
        first["label"],
        index,
        predicted[0]["label"] if predicted else None,
        {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)},
        audited,
        None if index is None or not predicted else any(best["index"] == index for best in predicted),
    )


def summary(seen: Sequence[Seen], names: Mapping[int, str]) -> Summary:
    """The numbers of a run from those of its pictures.

    Args:
        seen: the pictures.
        names: of the classes that are known, by index.
    """
    true = [one.label if one.index is None else names.get(one.index, one.label) for one in seen]
    outcomes = dict.fromkeys(("right", "wrong", "told", "failed"), 0) | Counter(one.outcome for one in seen)
    by_label = any(one.label is not None for one in seen)
    groups: dict[str, list[Seen]] = defaultdict(list)
    for one, own in zip(seen, true, strict=True):
        name = own if by_label else one.best
        if name is not None:
            groups[name].append(one)
    classes = [_class_row(name, group) for name, group in groups.items()]
    pairs = [(one.outcome, (own or "", one.best or "")) for one, own in zip(seen, true, strict=True)]
    judged = Counter(pair for outcome, pair in pairs if outcome in ("right", "wrong"))
    # (Of several true classes the best is one of them where it is right, whatever they are called together.)
    wrong = Counter(pair for outcome, pair in pairs if outcome == "wrong")
    within = [one.in_best for one in seen if one.in_best is not None]
    methods = tuple(dict.fromkeys(method for one in seen for method in one.audited))
    return Summary(
        outcomes,
        sum(within) / len(within) if within else None,
        tuple(sorted(classes, key=lambda row: -row.count)),
        "true class" if by_label else "best class",
        tuple((true, taken, count) for (true, taken), count in wrong.most_common(_MOST_CONFUSED)),
        _matrix(judged, wrong),
        tuple(_histogram(name, seen) for name in _sorts(seen)),
        methods,
        _columns(seen, true),
    )


def _class_row(name: str, group: Sequence[Seen]) -> ClassRow:
    judged = [one.outcome == "right" for one in group if one.outcome in ("right", "wrong")]
    sure = [one.values["probability"] for one in group if "probability" in one.values]
    audits: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in group:
        for method, pair in one.audited.items():
            audits[method].append(pair)
    means = {
        method: (sum(inside for inside, _ in pairs) / len(pairs), sum(area for _, area in pairs) / len(pairs))
        for method, pairs in audits.items()
    }
    return ClassRow(
        name,
        len(group),
        sum(judged) / len(judged) if judged else None,
        sum(sure) / len(sure) if sure else None,
        means,
    )


def _matrix(
    judged: Mapping[tuple[str, str], int], wrong: Mapping[tuple[str, str], int]
) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    confused: Counter[str] = Counter()
    for (true, taken), count in wrong.items():
        confused[true] += count
        confused[taken] += count
    names = [name for name, _ in confused.most_common(_MATRIX)]
    return tuple(names), tuple(tuple(judged.get((true, taken), 0) for taken in names) for true in names)


def _sorts(seen: Iterable[Seen]) -> list[str]:
    """What pictures can be sorted by."""
    return list(dict.fromkeys(name for one in seen for name in one.values))


def _histogram(name: str, seen: Sequence[Seen]) -> Histogram:
    told = [(one.values[name], one.outcome == "wrong") for one in seen if name in one.values]
    low, high = min(value for value, _ in told), max(value for value, _ in told)
    if name == "probability" or name.startswith("evidence inside"):
        low, high = 0.0, 1.0
    span = (high - low) or 1.0
    counts, wrong = [0] * _BINS, [0] * _BINS
    for value, is_wrong in told:
        place = min(_BINS - 1, int((value - low) / span * _BINS))
        counts[place] += 1
        wrong[place] += is_wrong
    return Histogram(name, low, high, tuple(counts), tuple(wrong))


def _columns(seen: Sequence[Seen], true: Sequence[str | None]) -> dict[str, Any]:
    names: dict[str, int] = {}

    def number(name: str | None) -> int:
        return -1 if name is None else names.setdefault(name, len(names))

    best = [number(one.best) for one in seen]
    own = [number(name) for name in true]
    values = {
        name: [float(f"{one.values[name]:.4g}") if name in one.values else None for one in seen]
        for name in _sorts(seen)
    }
    outcomes = "".join({"right": "r", "wrong": "w", "told": "t", "failed": "f"}[one.outcome] for one in seen)
    return {"names": list(names), "best": best, "true": own, "outcomes": outcomes, "values": values}
