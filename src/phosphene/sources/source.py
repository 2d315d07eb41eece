"""What a source is, a class with one method `entries`, and how one is registered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from phosphene.cancel import Cancel
from phosphene.errors import OptionError
from phosphene.sources.ahead import load_ahead
from phosphene.sources.item import Entry, Item

# The types that a carried column may have, by the names that Arrow gives them.
ColumnType = str
COLUMN_TYPES: tuple[ColumnType, ...] = ("string", "int64", "float64", "bool")


class Source:
    """Base of all sources. A new one is a subclass in a file of its own, registered, with one method: `entries`.

    Iterating over a source gives its Items in order, decoded ahead in threads.

    Example:
        >>> class Blank(Source):
        ...     def entries(self):
        ...         yield Entry("blank.png", "blank.png", lambda: torch.zeros(3, 8, 8))
        >>> [(item.key, item.picture.shape, item.error) for item in Blank()]
        [('blank.png', torch.Size([3, 8, 8]), None)]
    """

    # What open_source calls it, filled in by register_source.
    name: ClassVar[str] = ""

    def entries(self) -> Iterator[Entry]:
        """The pictures in their order, none of them read; the same keys whenever nothing has changed.

        Raises:
            InputError: if the listing itself cannot go on.
        """
        raise NotImplementedError

    @property
    def column_types(self) -> Mapping[str, ColumnType]:
        """The columns that entries carry, with one of COLUMN_TYPES each."""
        return {}

    def keys(self) -> list[str]:
        """The keys of all pictures in order; reads no picture."""
        return [entry.key for entry in self.entries()]

    def items(
        self,
        *,
        skip: Container[str] = (),
        threads: int | None = None,
        window: int | None = None,
        cancel: Cancel | None = None,
        **reading: Any,
    ) -> Iterator[Item]:
        """The pictures in order, decoded ahead in threads, which end when the iterator does or is closed.

        Args:
            skip: keys that are not wanted; their pictures are not read.
            threads: how many pictures are read at the same time; None for one more than processors, at most 8.
            window: the most pictures in memory that were not asked for yet; None for twice the threads.
            cancel: ends the iteration before the next picture.
            **reading: how files are read, as read_image takes it.

        Raises:
            CancelledError: if `cancel` asks for it.
            OptionError: if pictures cannot be read in the way that is asked for.
        """
        wanted = (entry for entry in self.entries() if entry.key not in skip)
        return load_ahead(wanted, threads=threads, window=window, cancel=cancel, **reading)

    def chosen(self, keys: Collection[str], **reading: Any) -> Iterator[Item]:
        """The pictures of these keys alone, in the source's order; no other is read.

        Args:
            keys: of the pictures.
            **reading: as `items` takes it.

        Example:
            >>> class Blank(Source):
            ...     def entries(self):
            ...         for key in "abc":
            ...             yield Entry(key, key, lambda: torch.zeros(3, 8, 8))
            >>> [item.key for item in Blank().chosen({"c", "a"})]
            ['a', 'c']
        """
        return self.items(skip=_AllBut(keys), **reading)

    def __iter__(self) -> Iterator[Item]:
        return self.items()


class _AllBut:
    """Whatever is not among some keys."""

    def __init__(self, keys: Collection[str]) -> None:
        self.keys = frozenset(keys)

    def __contains__(self, key: object) -> bool:
        return key not in self.keys


Kind = TypeVar("Kind", bound=type[Source])


@dataclass(frozen=True)
class SourceKind:
    """A registered source: its name, what makes one from a spec, and whether a spec looks like one."""

    name: str
    factory: Callable[..., Source]
    claims: Callable[[str], bool]
    looks_like: str


KINDS: dict[str, SourceKind] = {}


def register_source(name: str, *, claims: Callable[[str], bool], looks_like: str) -> Callable[[Kind], Kind]:
    """Register a Source class that is made from a spec, the text that a user types.

    Args:
        name: what stands before a spec that is to be read by this source and no other (``tar:photos``).
        claims: whether a spec without a name looks like one of this source; may look at the file system.
        looks_like: such a spec in words, for the message when none fits.

    Example:
        >>> @register_source("blank", claims=lambda spec: spec == "blank", looks_like="the word blank")
        ... class Blank(Source):
        ...     def __init__(self, spec): ...
        >>> KINDS.pop("blank").factory("blank").name
        'blank'
    """

    def decorate(source: Kind) -> Kind:
        present = KINDS.get(name)
        if present is not None and present.factory.__module__ != source.__module__:
            raise OptionError(f"source '{name}' is registered already, by {present.factory.__module__}")
        KINDS[name] = SourceKind(name, source, claims, looks_like)
        source.name = name
        return source

    return decorate
