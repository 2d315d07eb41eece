"""Names of classes, and the way from what a person types to an index."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from numbers import Number
from typing import Any, SupportsIndex

from phosphene.errors import NotFoundError, OptionError, suggest, warn

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
# So many classes are listed where a name is none of them.
_FEW = 12
# Whatever holds names as lists, arrays and the columns of tables do, or by index, or indices by name.
LabelsLike = Any


@dataclass(frozen=True)
class Labels:
    """Names of classes, and the way from what a person types to an index.

    Args:
        names: one name per class.
        ids: one identifier per class (WordNet ids), or empty.
        synonyms: further names per class, or empty.

    Example:
        >>> labels = Labels(("tabby", "tiger cat", "tiger"))
        >>> labels.find("tabby"), labels.find("2"), labels.find("tiger c")
        (0, 2, 1)
        >>> labels.find("Tiger_Cat", part=False)
        1
    """

    names: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    synonyms: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        for field in ("names", "ids", "synonyms"):
            given = getattr(self, field)
            if isinstance(given, str | bytes) or not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
                raise OptionError(f"labels: {field}={given!r} is no list; give one per class")
            object.__setattr__(self, field, tuple(given))
        for field, given in (("ids", self.ids), ("synonyms", self.synonyms)):
            if given and len(given) != len(self.names):
                raise OptionError(f"labels of {len(self.names)} names but {len(given)} {field}; give one per class")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index] if 0 <= index < len(self.names) else f"class {index}"

    def describe(self, index: int) -> str:
        """Index, identifier and name, for messages and lists."""
        identifier = f" {self.ids[index]}" if self.ids else ""
        return f"{index}{identifier} {self[index]}"

    def find(self, query: int | str, *, part: bool = True) -> int:
        """The class index for an index or a text: a name, an identifier, an index, an unambiguous part of a name.

        A whole number is the index, always. A text is first of all a name, letter by letter; where some classes are
        named by numbers, a text of digits is never an index.

        Args:
            query: what a person typed, or a table holds.
            part: whether a part of a name is enough, as for a person, who is told which class it is; a label that says
                what is right has to be a whole name, or one of several that stand between commas, and nothing that
                could be another class as well.

        Raises:
            NotFoundError: with the nearest names, or with all the classes that fit.
            OptionError: for what is neither a text nor a whole number.
        """
        if not isinstance(query, str):
            return self._checked(class_index(query))
        text = query.strip()
        if not text:
            raise NotFoundError("a class without a name; give an index, an identifier or a name")
        exact = [index for index, name in enumerate(self.names) if name in (query, text)]
        if exact:
            return self._only(exact, text)
        if _WHOLE_NUMBER.fullmatch(text):
            if any(_WHOLE_NUMBER.fullmatch(name) for name in self.names):
                raise NotFoundError(
                    f"no class '{text}': names of this classifier are numbers, so a number as text is a name"
                    f"{suggest(text, self.names)}; its indices are whole numbers in Python"
                )
            return self._checked(int(text))
        known = self._by_id(text)
        if known is not None:
            return known
        for matches in self._matches(text):
            if matches:
                index = self._only(matches, text)
                if part or _plain(text) in self._whole_names(index):
                    if part and not any(f" {_plain(text)}" in f" {name}" for name in self._compared[index]):
                        # As 'hund', a dog in another language, is in the middle of 'thunder snake'.
                        warn(f"class '{text}' is taken for {self[index]}, the one class with these letters in its name")
                    return index
        if not self.names:
            raise NotFoundError(f"class '{text}': this classifier has no class names; give an index")
        names = [*self.names, *(name for names in self.synonyms for name in names)]
        all_of_few = f"; there are {', '.join(self.names)}" if len(self.names) <= _FEW else ""
        raise NotFoundError(f"no class '{text}'{suggest(text, names) or all_of_few}")

    def _only(self, matches: Sequence[int], text: str) -> int:
        if len(matches) == 1:
            return matches[0]
        listing = "; ".join(self.describe(index) for index in matches[:12])
        more = f" and {len(matches) - 12} more" if len(matches) > 12 else ""
        raise NotFoundError(f"class '{text}' fits several: {listing}{more}; give an index or a full name")

    def search(self, query: str) -> list[int]:
        """All classes that fit a query, best first; empty if none does."""
        query = str(query).strip()
        found = dict.fromkeys(index for index, name in enumerate(self.names) if name == query)
        if _WHOLE_NUMBER.fullmatch(query) and not found:
            return [int(query)] if 0 <= int(query) < len(self) else []
        known = self._by_id(query)
        if known is not None and not found:
            return [known]
        for matches in self._matches(query):
            found.update(dict.fromkeys(matches))
        return list(found)

    def _by_id(self, text: str) -> int | None:
        folded = [identifier.casefold() for identifier in self.ids]
        return folded.index(text.casefold()) if text.casefold() in folded else None

    def _checked(self, index: int) -> int:
        if index < 0 or (self.names and index >= len(self.names)):
            known = f"has {len(self)} classes, 0 to {len(self) - 1}" if self.names else "counts its classes from 0"
            raise NotFoundError(f"no class {index}; this classifier {known}")
        return index

    def _matches(self, text: str) -> Iterator[list[int]]:
        """Classes that fit, from the strictest reading of the text to the loosest."""
        folded, wanted = text.casefold(), _plain(text)
        yield [index for index, name in enumerate(self.names) if name == text]
        yield [index for index, name in enumerate(self.names) if name.casefold() == folded]
        if wanted:
            every = self._compared
            yield [index for index, names in enumerate(every) if names[0] == wanted]
            words = [[f" {name} ".replace(",", " ") for name in names] for names in every]
            yield [index for index, names in enumerate(words) if any(f" {wanted} " in name for name in names)]
            yield [index for index, names in enumerate(every) if any(wanted in name for name in names)]

    @cached_property
    def _compared(self) -> list[list[str]]:
        """The names of each class as they are compared: a table of labels asks as often as it has rows."""
        return [[_plain(name) for name in self._names_of(index)] for index in range(len(self.names))]

    def _names_of(self, index: int) -> tuple[str, ...]:
        return self.names[index], *(self.synonyms[index] if self.synonyms else ())

    def _whole_names(self, index: int) -> list[str]:
        """A class's names as they are compared; of "tench, Tinca tinca" each as well."""
        names = self._names_of(index)
        return [_plain(part) for name in names for part in (name, *name.split(","))]


def _plain(name: str) -> str:
    """A name as it is compared: folders write golden_retriever."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def class_list(value: Any) -> list[Any]:
    """The classes in whatever holds one for all images, or one for each: numbers, texts, lists, arrays, tensors.

    Raises:
        OptionError: for what holds none, in no order, or one-hot rows.

    Example:
        >>> class_list(3), class_list("cat"), class_list(range(2))
        ([3], ['cat'], [0, 1])
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, Set) and len(value) > 1:
        raise OptionError("a target that is a set has no order; give a list with one class for each image")
    if isinstance(value, Mapping | bytes) or callable(value):
        raise OptionError(f"a target of type {type(value).__name__}; give a class, or a list with one for each image")
    try:
        values = value.tolist() if hasattr(value, "tolist") else value
    except (RuntimeError, TypeError) as error:  # a tensor without values of its own: of the device meta, of torch.func
        reason = str(error).strip().split("\n", 1)[0]
        raise OptionError(f"a target that cannot be read ({reason}); give whole numbers") from None
    if isinstance(values, Iterable):
        found = list(values)
        if any(isinstance(item, list | tuple) or getattr(item, "ndim", 0) for item in found):
            raise OptionError(
                "a target of rows and columns; give one class for each image; of one-hot rows that is their argmax(1)"
            )
        if len(found) > 1 and all(isinstance(item, float) for item in found) and sorted(found)[-2:] == [0.0, 1.0]:
            raise OptionError("a target that looks one-hot; give the class itself, which is its argmax()")
        return found
    return [value]


def class_index(value: Any) -> int:
    """A whole number; 1.5, True and names are refused, not rounded.

    Raises:
        OptionError: for anything else.

    Example:
        >>> class_index(3.0)
        3
    """
    if isinstance(value, str):
        raise OptionError(f"class {value!r} is a name; look it up first: classifier.labels.find({value!r})")
    plain = value.tolist() if hasattr(value, "tolist") else value  # of an array or tensor without axes a number
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    if isinstance(plain, bool) or not isinstance(plain, SupportsIndex):
        raise OptionError(f"class {plain!r} is no index; give whole numbers, one for all images or one for each")
    return operator.index(plain)


def as_labels(labels: LabelsLike) -> Labels:
    """Labels from whatever holds names: a list, an array, a column of a table, a dict {index: name} or {name: index}.

    Raises:
        OptionError: for what is none of these, or leaves a class without a name.

    Example:
        >>> as_labels({"dog": 1, "cat": 0}).names, as_labels({"0": "cat", "1": "dog"}).names
        (('cat', 'dog'), ('cat', 'dog'))
    """
    if labels is None:
        return Labels()
    if isinstance(labels, Labels):
        return labels
    if isinstance(labels, str | bytes):
        raise OptionError(f"labels: {labels!r} is one text; give one name per class, as a list")
    if isinstance(labels, Set):
        raise OptionError(f"labels: a {type(labels).__name__} has no order; give a list, one name per class")
    if isinstance(labels, Mapping):
        return Labels(_in_order(labels))
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    if not isinstance(values, Iterable):
        raise OptionError(f"labels: {type(labels).__name__} holds no names; give a list, one name per class")
    return Labels(tuple(_name(index, value) for index, value in enumerate(values)))


def _name(index: int, value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Number) and not isinstance(value, bool) and value == value:
        return str(value)
    raise OptionError(f"labels: label {index} is {value!r}; give one name per class, as text")


def _in_order(labels: Mapping[Any, Any]) -> tuple[str, ...]:
    """The names of {index: name} or {name: index}, by index."""
    by_name = all(isinstance(key, str) and _as_index(value) is not None for key, value in labels.items())
    texts = [value for value in labels.values() if isinstance(value, str)]
    by_index = all(_as_index(key, text=True) is not None for key in labels)
    if by_index and not texts and all(_as_index(key) is not None for key in labels) and len(labels) > 0:
        if {_as_index(value) for value in labels.values()} == set(range(len(labels))):
            raise OptionError("labels: of numbers to numbers, which are the names or indices? give a list of names")
    elif by_name:
        by_index = False
    if not (by_index or by_name):
        raise OptionError("labels: a dict that is neither {index: name} nor {name: index}; give a list of names")
    named: dict[int, str] = {}
    for key, value in labels.items():
        index = _as_index(key, text=True) if by_index else _as_index(value)
        name = _name(index or 0, value if by_index else key)
        assert index is not None
        if index in named:
            raise OptionError(f"labels: '{named[index]}' and '{name}' are both class {index}; give one name per class")
        named[index] = name
    for index in range(len(named)):
        if index not in named:
            odd = sorted(set(named) - set(range(len(named))))
            raise OptionError(
                f"labels: class {index} has no name, but there is a class {odd[0]}; count the classes from 0"
            )
    return tuple(named[index] for index in range(len(named)))


def _as_index(value: Any, *, text: bool = False) -> int | None:
    """A whole number, or None for what is none."""
    if isinstance(value, str):
        return int(value) if text and _WHOLE_NUMBER.fullmatch(value) else None
    try:
        return class_index(value)
    except OptionError:
        return None
