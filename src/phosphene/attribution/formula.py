"""Methods that differ by one formula: the mechanism is written once, and each method is its formula and its text."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, get_type_hints

from phosphene.types import Attribution

Method = Callable[..., Attribution]


def by_formula(mechanism: Method) -> Callable[[Callable[..., Any]], Method]:
    """Make an attribution method of a formula, by a mechanism that takes a formula as its first argument.

    The method has the arguments of the mechanism, with the keyword-only arguments of the formula as further options,
    and a docstring to match: what the formula says of itself, with the mechanism's Args, Returns and Raises.

    Args:
        mechanism: a function of (formula, classifier, images, target, *, options) -> Attribution.

    Returns:
        A decorator for formulas.

    Example:
        >>> def mechanism(formula, classifier, images, target, *, relu: bool = False): return formula(images)
        >>> @by_formula(mechanism)
        ... def scaled(values, *, factor: float = 2.0):
        ...     '''The values, scaled.'''
        ...     return factor * values
        >>> scaled(None, 3.0, None), scaled(None, 3.0, None, factor=1.0, relu=True)
        (6.0, 3.0)
        >>> list(inspect.signature(scaled).parameters)
        ['classifier', 'images', 'target', 'relu', 'factor']
    """

    def decorate(formula: Callable[..., Any]) -> Method:
        shared = list(inspect.signature(mechanism).parameters.values())[1:]
        own = [one for one in inspect.signature(formula).parameters.values() if one.kind is one.KEYWORD_ONLY]
        names = [one.name for one in own]

        def method(*given: Any, **options: Any) -> Attribution:
            mine = {name: options.pop(name) for name in names if name in options}
            return mechanism(partial(formula, **mine), *given, **options)

        last = next((place for place, one in enumerate(shared) if one.name == "batch_size"), len(shared))
        parameters = [*shared[:last], *own, *shared[last:]]
        method.__name__, method.__qualname__, method.__module__ = (
            formula.__name__,
            formula.__qualname__,
            formula.__module__,
        )
        method.__signature__ = inspect.Signature(parameters, return_annotation="Attribution")  # type: ignore[attr-defined]
        hints = get_type_hints(mechanism) | get_type_hints(formula)
        method.__annotations__ = {one.name: hints[one.name] for one in parameters if one.name in hints}
        method.__doc__ = _docstring(mechanism, formula, [one.name for one in parameters])
        return method

    return decorate


def _docstring(mechanism: Method, formula: Callable[..., Any], names: list[str]) -> str:
    """The formula's text, the Args of both in the order of the names, and what the mechanism returns and raises."""
    about, own = _sections(mechanism), _sections(formula)
    arguments = {line.split(":")[0].strip(): line for line in _entries(about.get("Args", []) + own.get("Args", []))}
    lines = [*own[""], "Args:", *(arguments[name] for name in names if name in arguments), ""]
    for title in ("Returns", "Raises", "Example", "References"):
        text = about.get(title) if title in ("Returns", "Raises") else own.get(title)
        lines += [f"{title}:", *text] if text else []
    return "\n".join(lines).rstrip() + "\n"


def _sections(function: Callable[..., Any]) -> dict[str, list[str]]:
    """The lines of a docstring by the title of their section; what stands before the first under ''."""
    found: dict[str, list[str]] = {"": []}
    title = ""
    for line in (inspect.getdoc(function) or "").splitlines():
        if line in ("Args:", "Returns:", "Raises:", "Example:", "References:"):
            title = line[:-1]
        found.setdefault(title, [])
        if line != f"{title}:":
            found[title].append(line)
    return {name: [*lines, *([""] if lines and lines[-1] else [])] for name, lines in found.items()}


def _entries(lines: list[str]) -> list[str]:
    """The entries of an Args section, each with the lines that go on with it."""
    entries: list[str] = []
    for line in filter(None, lines):
        if line.startswith("     "):
            entries[-1] += "\n" + line
        else:
            entries.append(line)
    return entries
