"""What every task on pictures has in common: its shape, and how a batch of items is computed in groups of one size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from phosphene.errors import InputError, ModelError, PhospheneError
from phosphene.images import Picture, picture_size
from phosphene.runtime import Prepared
from phosphene.sources import Item
from phosphene.store import Row
from phosphene.tasks.stream import no_answer

# Called with (steps done, steps in all, what is being done).
Progress = Callable[[int, int, str], None]
# Called with a picture and what was found of it, as soon as it is.
Say = Callable[[Item, str], None]

Result = TypeVar("Result")


class PictureTask(Protocol):
    """A config whose `run` makes a row of each picture; frozen, and it can be pickled."""

    # The kind of row that it makes.
    rows: ClassVar[type[Row]]

    def described(self) -> Mapping[str, Any]:
        """All options but the seed, which all runs have, as the manifest has them: what decides the rows."""

    def pictures_at_once(self, classifier: Prepared) -> int:
        """How many pictures one call of `run` is meant to get."""

    def run(
        self,
        classifier: Prepared,
        items: Sequence[Item],
        *,
        start: int = 0,
        progress: Progress | None = None,
        say: Say | None = None,
        first: bool = False,
    ) -> Iterator[Row]:
        """A row for each item, in order.

        Args:
            classifier: that looks at the pictures.
            items: pictures, or errors in their place.
            start: number of the first item in the run; the names of files have it.
            progress: called by what takes many passes.
            say: called with what is known of a picture before its row is there.
            first: whether no picture of the run was done before: what is asked for and cannot be done for any of these
                is refused then, as it is the options' or the network's fault.

        Raises:
            OptionError: for what was asked for and makes no sense, or cannot be done by the network.
        """


def computed(
    classifier: Prepared, items: Sequence[Item], compute: Callable[[Prepared, Sequence[Item]], Sequence[Result | str]]
) -> list[Result | str]:
    """For each item what was computed, or the error that stands in its place.

    Pictures that the network sees at one size go together; one by one if the network takes inputs that are told of
    each picture. What a group cannot be computed for is tried picture by picture, so that one picture spoils no other.

    Args:
        classifier: that looks at the pictures.
        items: pictures, or errors in their place.
        compute: gives a result or an error for each picture of a group, by a classifier that knows all its inputs.
    """
    found: dict[int, Result | str] = {
        number: item.error or "no picture" for number, item in enumerate(items) if item.picture is None
    }
    for group in _together(classifier, items):
        results = _each(classifier, [items[number] for number in group], compute)
        found |= dict(zip(group, results, strict=True))
    return [found[number] for number in range(len(items))]


def answered(
    items: Sequence[Item],
    answers: Sequence[bool],
    compute: Callable[[Sequence[Item]], Sequence[Result | str]],
) -> list[Result | str]:
    """What is computed for the pictures that the network has an answer for, and the error of the others."""
    some = [item for item, there in zip(items, answers, strict=True) if there]
    results = iter(compute(some) if some else ())
    return [
        next(results) if there else str(no_answer(item.path).error) for item, there in zip(items, answers, strict=True)
    ]


def pictures_of(items: Sequence[Item]) -> list[Picture]:
    """The pictures of items that have one."""
    return [item.picture for item in items if item.picture is not None]


def _together(classifier: Prepared, items: Sequence[Item]) -> list[list[int]]:
    """Numbers of the items that have a picture, in groups that go through the network together."""
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, item in enumerate(items):
        if item.picture is not None:
            size = None if classifier.preprocess.size else picture_size(item.picture)
            groups[number if classifier.inputs.of_item is not None else size].append(number)
    return list(groups.values())


def _each(
    classifier: Prepared, items: Sequence[Item], compute: Callable[[Prepared, Sequence[Item]], Sequence[Result | str]]
) -> list[Result | str]:
    try:
        return list(compute(_told(classifier, items[0]), items))
    except PhospheneError as error:
        # A network of any size may refuse one picture and take the next.
        own = isinstance(error, ModelError) and classifier.preprocess.size is None
        if not (own or isinstance(error, InputError)):
            raise
        if len(items) == 1:
            return [str(error)]
    return [_each(classifier, [item], compute)[0] for item in items]


def _told(classifier: Prepared, item: Item) -> Prepared:
    """The classifier with the inputs that are told of a picture, where there are such."""
    return classifier if classifier.inputs.of_item is None else classifier.given(**classifier.inputs.told(item))
