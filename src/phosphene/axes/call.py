"""One call of an operation of PyTorch, on values of which some have known axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from phosphene.axes.names import Axes


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that sees PyTorch's operations, none of which is being compiled."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # To keep it from compiling this code PyTorch would load its compiler first, for two seconds, and each operation
        # would go through two more functions.
        return False


class Call:
    """One call of an operation.

    Args:
        name: of the operation, without underscores around it.
        args: its arguments.
        keywords: those given by name.
        given: the axes of its tensors, as far as known.
    """

    def __init__(self, name: str, args: Any, keywords: Mapping[str, Any], given: Mapping[Tensor, Axes]) -> None:
        self.name, self.args, self.keywords, self.given = name, args, keywords, given

    def argument(self, place: int, name: str = "", default: Any = None) -> Any:
        """An argument by place or name."""
        return self.args[place] if place < len(self.args) else self.keywords.get(name, default)

    def of(self, place: int) -> Axes | None:
        """The axes of the argument at a place."""
        value = self.argument(place)
        return self.given.get(value) if isinstance(value, Tensor) else None

    @property
    def first(self) -> Axes:
        """The axes of the first argument; a LookupError where they are not known."""
        return self.given[self.args[0]]


def tensors_in(values: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among the arguments or results of an operation, those in lists too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
