"""What a sink is: where the rows of a run go. A class with one door, `write`, and an end, `close`."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from phosphene.discovery import discover
from phosphene.errors import NotFoundError, OptionError, suggest
from phosphene.store.plan import Plan
from phosphene.store.rows import Row


class Sink:
    """Base of all sinks. A new one is a subclass in a file of its own, registered, with `write` and `close`.

    As a context it closes itself: complete at the end of the block, incomplete if the block is left by an exception.

    Example:
        >>> from phosphene.store import PredictRow
        >>> class Printed(Sink):
        ...     def write(self, row):
        ...         print(row.key)
        >>> with Printed() as sink:
        ...     sink.write(PredictRow("a.jpg", "photos/a.jpg"))
        a.jpg
    """

    # What open_sink calls it, filled in by register_sink.
    name: ClassVar[str] = ""
    # Keys whose rows are there already, of a run that is gone on with.
    done: frozenset[str] = frozenset()

    def write(self, row: Row) -> None:
        """Take one row; when this returns a reader of the run may see it, and never a part of it."""
        raise NotImplementedError

    def close(self, *, complete: bool = True, **facts: Any) -> None:
        """End the run.

        Args:
            complete: False if it was stopped before all was done.
            **facts: what is known now and goes to the manifest.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)


Kind = TypeVar("Kind", bound=type[Sink])
SINKS: dict[str, Callable[..., Sink]] = {}


def register_sink(name: str) -> Callable[[Kind], Kind]:
    """Register a Sink class that is made from (place, plan, *, overwrite, resume, options of its own).

    Example:
        >>> @register_sink("nowhere")
        ... class Nowhere(Sink):
        ...     def __init__(self, place, plan, *, overwrite=False, resume=False): ...
        >>> SINKS.pop("nowhere").name
        'nowhere'
    """

    def decorate(sink: Kind) -> Kind:
        present = SINKS.get(name)
        if present is not None and present.__module__ != sink.__module__:
            raise OptionError(f"sink '{name}' is registered already, by {present.__module__}")
        SINKS[name] = sink
        sink.name = name
        return sink

    return decorate


def sink_kinds() -> dict[str, Callable[..., Sink]]:
    """All sinks by name: ours and those of installed packages.

    Example:
        >>> sorted(sink_kinds())
        ['folder', 'memory', 'shards']
    """
    discover("phosphene.store")
    return dict(SINKS)


def open_sink(
    kind: str, place: str | None, plan: Plan, *, overwrite: bool = False, resume: bool = False, **options: Any
) -> Sink:
    """A sink that rows can be written to now.

    Args:
        kind: "folder", "shards", "memory", or what another package registers.
        place: folder or URL; None for a new folder under ./phosphene-runs.
        plan: what the run is to do.
        overwrite: replace the run that is there.
        resume: go on with the run that is there; its keys are the sink's `done`.
        **options: of the kind.

    Raises:
        NotFoundError: if there is no such kind.
        OptionError: if a run is there already, or one of another plan.
        OutputError: if the place cannot be written.
    """
    kinds = sink_kinds()
    if kind not in kinds:
        raise NotFoundError(f"no sink '{kind}'{suggest(kind, kinds)} (there are: {', '.join(kinds)})")
    return kinds[kind](place, plan, overwrite=overwrite, resume=resume, **options)
