"""What a figure is, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from phosphene.discovery import discover
from phosphene.errors import NotFoundError, OptionError, suggest

if TYPE_CHECKING:
    from phosphene.figures.material import Material

Verdict = Literal["claim reproduced", "in part", "not reproduced"]


class LeftOutError(OptionError):
    """A figure needs something that was not given; the message names the option."""


@dataclass(frozen=True)
class Drawn:
    """A figure that was made.

    Args:
        picture: what is shown.
        checks: the parts of the paper's claim, each with whether it holds in what was measured.
        facts: what was measured, ready for JSON.
        parts: further pictures worth a file of their own, by name.
    """

    picture: Image.Image
    checks: Mapping[str, bool]
    facts: Mapping[str, Any]
    parts: Mapping[str, Image.Image] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """All parts of the claim hold, some, or none.

        Example:
            >>> Drawn(Image.new("RGB", (1, 1)), {"smoother": True, "sharper": False}, {}).verdict
            'in part'
        """
        held = [bool(value) for value in self.checks.values()]
        if all(held):
            return "claim reproduced"
        return "in part" if any(held) else "not reproduced"


@dataclass(frozen=True)
class Figure:
    """One figure of a paper.

    Args:
        paper: name of the file it stands in.
        number: as the paper counts it, or what the section is called where there is no figure.
        title: what is to be seen.
        claim: what the paper says with it.
        command: how to get the same by an everyday command.
        draw: makes it.
    """

    paper: str
    number: str
    title: str
    claim: str
    command: str
    draw: Callable[[Material], Drawn]

    @property
    def name(self) -> str:
        """Of its files: "sci-1"."""
        return f"{self.paper}-{self.number}"


_FIGURES: dict[str, Figure] = {}


def figure(number: str, title: str, *, claim: str, command: str) -> Callable[[Callable[[Material], Drawn]], Any]:
    """Register a function as a figure of the paper that its file is named after.

    Args:
        number: of the figure.
        title: what is to be seen.
        claim: what the paper says with it, in a sentence.
        command: how to get the same by an everyday command.

    Example:
        >>> @figure("9", "A gray square", claim="It is gray.", command="phosphene demo")
        ... def gray(material):
        ...     return Drawn(Image.new("RGB", (1, 1), "gray"), {"gray": True}, {})
        >>> _FIGURES.pop("figure-9").title
        'A gray square'
    """

    def decorate(function: Callable[[Material], Drawn]) -> Callable[[Material], Drawn]:
        made = Figure(function.__module__.rpartition(".")[2], number, title, claim, command, function)
        _FIGURES[made.name] = made
        return function

    return decorate


def papers() -> tuple[str, ...]:
    """Names of the papers, in the order of the alphabet."""
    discover("phosphene.figures")
    return tuple(sorted({found.paper for found in _FIGURES.values()}))


def figures(paper: str = "all") -> list[Figure]:
    """The figures of a paper, or of all, in their order; by a figure's own name ("sci-3") that alone.

    Raises:
        NotFoundError: for another paper, with the nearest name.

    Example:
        >>> [found.number for found in figures("sci")], figures("sci-3")[0].number
        (['1', '2', '3', '4', '5'], '3')
    """
    known = papers()
    if paper in _FIGURES:
        return [_FIGURES[paper]]
    if paper not in (*known, "all"):
        raise NotFoundError(f"no paper '{paper}'{suggest(paper, known)} (there are: {', '.join(known)}, all)")
    return [found for name in known if paper in (name, "all") for found in _FIGURES.values() if found.paper == name]
