"""What a model file does not say by itself: preprocessing, labels and head, from the JSON file of the same name."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from phosphene.classifier import Classifier, HeadKind, Labels, Preprocess
from phosphene.errors import InputError, OptionError, suggest
from phosphene.labels import as_labels
from phosphene.types import Layout, Size
from phosphene.zoo.weights import first_line

_PREPROCESS = tuple(field.name for field in fields(Preprocess) if field.name != "mean_picture")
_KEYS = (*_PREPROCESS, "labels", "head", "output", "layouts")
# What stands above a column of class names.
_HEADINGS = ("name", "names", "label", "labels", "class", "classes", "class_name")


@dataclass(frozen=True)
class Card:
    """The facts of a JSON card: None where it does not give them."""

    preprocess: Preprocess | None = None
    labels: Labels | None = None
    head: HeadKind | None = None
    output: str | int | None = None
    layouts: Mapping[str, Layout] | None = None

    def over(self, other: Card) -> Card:
        """This card, with the facts of another where it gives none."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(other, **{name: fact for name, fact in own.items() if fact is not None})

    def applied_to(self, classifier: Classifier) -> Classifier:
        """The classifier as the card describes it."""
        whole = self.over(Card(*(getattr(classifier, field.name) for field in fields(self))))
        if isinstance(whole.preprocess, Unsized):
            whole = replace(whole, preprocess=whole.preprocess.sized(classifier.preprocess.size))
        return Classifier(
            classifier.module,
            whole.preprocess,
            whole.labels,
            whole.head or "softmax",
            name=classifier.name,
            output=whole.output,
            inputs=classifier.inputs,
            layouts=whole.layouts,
        )


class Unstated(Preprocess):
    """Images in [0, 1] as they are, since the source of the network does not say how it is fed."""


class Unsized(Preprocess):
    """As a card says that gives no size: the source may know it, as a file whose network takes one size does."""

    def sized(self, size: Size | None) -> Preprocess:
        """The same with the size of a source that has one."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        return Preprocess(**(told if size is None else {**told, "size": size}))


def read_card(path: Path) -> Card:
    """The card beside a model or weights file ("net.json" beside "net.safetensors"); an empty one if there is none.

    Its keys, all optional: size (without it the one that the file states), short_side, mean, std, interpolation, scale,
    order, black, white as in `Preprocess`, the mean also as the name of a .npy file with a picture of means (C, h, w);
    labels, a list or the name of a file; head; output; layouts.

    Raises:
        InputError: if it is no JSON object.
        OptionError: for an unknown key, with the nearest ones.
    """
    place = path.with_suffix(".json")
    if not place.is_file():
        return Card()
    facts = _read_json(place)
    if not isinstance(facts, dict):
        raise InputError(f'{place}: holds no JSON object; write {{"size": [224, 224], "mean": [...], ...}}')
    for key in facts:
        if key not in _KEYS:
            raise OptionError(f"{place}: unknown key '{key}'{suggest(key, _KEYS)} (keys: {', '.join(_KEYS)})")
    settings = {key: _frozen(facts[key]) for key in _PREPROCESS if key in facts}
    if isinstance(settings.get("mean"), str):
        settings["mean"] = _read_array(place.parent / settings["mean"])
    labels = facts.get("labels")
    if isinstance(labels, str):
        labels = read_labels(place.parent / labels)
    return Card(
        None if not settings else Preprocess(**settings) if "size" in settings else Unsized(**settings),
        None if labels is None else as_labels(labels),
        facts.get("head"),
        facts.get("output"),
        facts.get("layouts"),
    )


def read_labels(path: str | Path) -> Labels:
    """Class names from a file.

    Args:
        path: a JSON list, a JSON object index -> name or name -> index; a table (.csv, .tsv) of names, or of indices
            and names; any other file has one name a line.

    Raises:
        InputError: if the file cannot be read or holds no names.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending in (".json", ".csv", ".tsv"):
        found = _read_json(path) if ending == ".json" else _names_in_table(path)
        try:
            names = as_labels(found if isinstance(found, list | dict) else None).names
        except OptionError as error:
            raise InputError(f"{path}: {error}") from None
    else:
        names = tuple(line.strip() for line in _read_text(path).splitlines() if line.strip())
    if not names:
        raise InputError(f"{path}: holds no class names; write one a line, or a JSON list")
    return Labels(names)


def _names_in_table(path: Path) -> Sequence[str] | Mapping[str, str]:
    """The names in the only column of a table, or by the index in the other of two; a line of headings is passed over.

    Raises:
        InputError: for a table of other columns.
    """
    lines = _read_text(path).splitlines()
    separator = max(",;\t", key="".join(lines[:1]).count)
    try:
        read = list(csv.reader(lines, delimiter=separator, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: is no table ({error}); write a quote that is in a name twice") from None
    rows = [[cell.strip() for cell in row] for row in read if any(row)]
    widths = {len(row) for row in rows}
    if widths == {1}:
        names = [name for (name,) in rows]
        return names[names[0].casefold() in _HEADINGS :]
    if widths == {2}:
        for index in (0, 1):
            told = rows if rows[0][index].isdecimal() else rows[1:]
            if told and all(row[index].isdecimal() for row in told):
                by_index = {row[index]: row[1 - index] for row in told}
                if len(by_index) == len(told):
                    return by_index
    raise InputError(
        f"{path}: is no table of class names; give one a line, or two columns, the index "
        f"and the name; names that hold '{separator}' stand in quotes, or one a line in a file .txt"
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # (programs for tables put a mark before the text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'no UTF-8 text'})") from None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: no JSON ({error})") from None


def _read_array(path: Path) -> np.ndarray[Any, Any]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: no array that can be read ({first_line(error)})") from None
    if not isinstance(values, np.ndarray) or values.ndim != 3:
        raise InputError(f"{path}: holds no picture of means; save an array (C, h, w) with numpy.save")
    return values


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
