"""Who draws the parts of an atlas: with the network, the pictures and what was made before at hand.

A part is a frozen dataclass with a `key` and a `make`; it is made when its record lies in the folder `material`, which
is written last. A worker needs nothing but the Work and the part, both of which can be pickled.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from phosphene.atlases.look import Answers, field_side, joined_answers, looks
from phosphene.atlases.work import LOOKED_AT, Work, width
from phosphene.cancel import Cancel
from phosphene.errors import InputError, ModelError
from phosphene.files import is_file, join, read_file, write_whole
from phosphene.images import Picture
from phosphene.runtime import Prepared
from phosphene.sources import Entry, Source, open_pictures
from phosphene.store import without_nan
from phosphene.types import View

# Files by name, and the record.
Made = tuple[Mapping[str, bytes], Mapping[str, Any]]
# Called with (done, in all) within a part.
Tell = Callable[[int, int], None]


class Part(Protocol):
    """Something of an atlas that one worker draws by itself."""

    @property
    def key(self) -> str:
        """What it is called: its record is material/KEY.json."""

    def make(self, desk: Desk, tell: Tell) -> Made:
        """Its files and its record; the same whoever makes it."""


class Desk:
    """Draws parts of an atlas.

    Args:
        work: what holds for all parts.
        classifier: that work.model would load; None loads it.
    """

    def __init__(self, work: Work, classifier: Prepared | None = None) -> None:
        self.work = work
        self.classifier = work.model.load() if classifier is None else classifier
        self._fields: dict[str, int] = {}

    def make(self, part: Part, tell: Tell = lambda _done, _total: None, cancel: Cancel | None = None) -> str:
        """Draw a part and put it in its place, its record last.

        Args:
            part: to draw.
            tell: called on the way.
            cancel: ends it there; nothing is written then.

        Returns:
            Its key.

        Raises:
            OutputError: if it cannot be written.
        """
        cancel = cancel or Cancel()
        cancel.raise_if_cancelled()

        def stoppable(done: int, total: int) -> None:
            cancel.raise_if_cancelled()
            tell(done, total)

        files, record = part.make(self, stoppable)
        for name, content in files.items():
            write_whole(self.work.place, name, content)
        text = json.dumps(without_nan(record), allow_nan=False, ensure_ascii=True)
        write_whole(self.work.place, _record_name(part), (text + "\n").encode("ascii"))
        return part.key

    def is_made(self, part: Part) -> bool:
        """Whether a part is in its place."""
        return is_file(join(self.work.place, _record_name(part)))

    def record(self, part: Part) -> dict[str, Any]:
        """What a part that is made says of itself."""
        found: dict[str, Any] = json.loads(read_file(join(self.work.place, _record_name(part))))
        return found

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of an archive that a part left."""
        content = read_file(join(self.work.place, name))
        with np.load(io.BytesIO(content), allow_pickle=False) as table:
            return {key: table[key] for key in table.files}

    @cached_property
    def source(self) -> Source:
        """The pictures, as far as they were listed when the atlas was begun."""
        return chosen_of(open_pictures(self.work.images), self.work.keys)

    @cached_property
    def readable(self) -> Source:
        """The pictures that the network has an answer for."""
        return chosen_of(self.source, [picture["key"] for picture in self.answers.pictures])

    @cached_property
    def answers(self) -> Answers:
        """What the network answers to the pictures, once all were looked at."""
        parts = looks(self.work.keys, LOOKED_AT)
        read = [(self.record(part), self.arrays(f"material/{part.key}.npz")) for part in parts]
        return joined_answers(read, self.work.config.layers)

    def pictures(self, rows: Collection[int]) -> dict[int, tuple[Picture, View]]:
        """Pictures and what the network sees of them, by their rows among the answers.

        Raises:
            InputError: if one can no longer be read.
        """
        keys = {self.answers.pictures[row]["key"]: row for row in rows}
        found = {}
        for item in self.source.chosen(set(keys), **self.classifier.preprocess.reading):
            if item.picture is None:
                raise InputError(str(item.error))
            (view,) = self.classifier.views([item.picture])
            found[keys[item.key]] = (item.picture, view)
        return found

    def field(self, layer: str) -> int:
        """The side of what a place of a layer looks at, measured on the first picture, in network pixels."""
        if layer not in self._fields:
            ((picture, view),) = self.pictures([0]).values()
            images = self.classifier.preprocessed([picture], [view])
            self._fields[layer] = field_side(self.classifier, layer, images)
        return self._fields[layer]

    @cached_property
    def head(self) -> tuple[str, Tensor] | None:
        """(layer, weights (K, k)) of the linear head; None for a network that ends otherwise."""
        try:
            _, head = self.classifier.linear_head
        except ModelError:
            return None
        weights = head.class_weights(len(self.classifier.labels))
        return None if weights is None else (head.layer, weights)

    def head_weights(self, layer: str) -> Tensor | None:
        """(K, k): how much each channel of a layer adds to each class; None for a layer that is not the last."""
        if self.head is None or not (layer == self.head[0] or self.head[0].startswith(f"{layer}.")):
            return None
        return self.head[1] if self.head[1].shape[1] == width(self.classifier, layer) else None


class _Chosen(Source):
    """Some pictures of a source, in its order."""

    def __init__(self, source: Source, keys: Collection[str]) -> None:
        self.source, self.wanted = source, frozenset(keys)

    def entries(self) -> Iterator[Entry]:
        return (entry for entry in self.source.entries() if entry.key in self.wanted)


def chosen_of(source: Source, keys: Collection[str]) -> Source:
    """The pictures of these keys, as a source of its own.

    Example:
        >>> from phosphene.sources import Files
        >>> chosen_of(Files(["a.jpg", "b.jpg"]), ["b.jpg"]).keys()
        ['b.jpg']
    """
    return _Chosen(source, keys)


def _record_name(part: Part) -> str:
    return f"material/{part.key}.json"
