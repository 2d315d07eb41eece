"""Options of methods and recipes: each declared once, with its help and the value that each preset gives it."""

from __future__ import annotations

import math
import types as builtin_types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from phosphene.errors import OptionError, suggest


@dataclass(frozen=True)
class Option:
    """One option: its name, type, default, the line that explains it, and its value in each preset.

    Args:
        name: as it is written in specs.
        type: annotation of its values.
        default: value where nothing else is said; of the first preset, where there are presets.
        doc: one line of help.
        presets: value by preset, where the presets differ.
    """

    name: str
    type: Any
    default: Any
    doc: str
    presets: Mapping[str, Any] = field(default_factory=dict)

    def default_of(self, preset: str | None) -> Any:
        """The value in a preset."""
        return self.presets.get(preset or "", self.default)


def option(
    doc: str,
    default: Any = MISSING,
    /,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    **presets: Any,
) -> Any:
    """A field of an Options class: its help and its value, either one for all presets or one for each.

    Args:
        doc: one line of help.
        default: value in all presets; left out where each has its own.
        at_least: smaller values are refused.
        at_most: larger values are refused.
        **presets: value by preset; the first is the default one.

    Raises:
        OptionError: for both a default and presets, or neither.

    Example:
        >>> @dataclass(frozen=True)
        ... class MyOptions(Options):
        ...     steps: int = option("number of steps", best=300, paper=400)
        ...     noise: float = option("noise of the first image", 0.1)
        >>> MyOptions().steps, MyOptions.of("paper", noise=0.2)
        (300, MyOptions(steps=400, noise=0.2))
    """
    if bool(presets) == (default is not MISSING):
        raise OptionError(f"option '{doc}': give one default, or a value for each preset")
    first = next(iter(presets.values())) if presets else default
    return field(default=first, metadata={"doc": doc, "presets": presets, "at_least": at_least, "at_most": at_most})


@dataclass(frozen=True)
class Options:
    """Base of a recipe's options, a frozen dataclass whose fields are made by `option`; values are checked."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for item in fields(self):
            value = getattr(self, item.name)
            low, high = item.metadata.get("at_least"), item.metadata.get("at_most")
            if not _fits(value, kinds[item.name]):
                raise OptionError(f"{item.name}={value!r} is not {_wanted(kinds[item.name])}")
            if low is not None and value < low:
                raise OptionError(f"{item.name}={value}; give at least {low}")
            if high is not None and value > high:
                raise OptionError(f"{item.name}={value}; give at most {high}")

    @classmethod
    def of(cls, preset: str | None = None, **given: Any) -> Self:
        """The values of a preset, the default one for None, with those given in their place.

        Raises:
            OptionError: for an unknown preset or option, or a value that does not fit.
        """
        known = cls.declared()
        presets = get_args(known["preset"].type) if "preset" in known else ()
        if preset is not None and preset not in presets:
            raise OptionError(f"preset '{preset}' is unknown; choose {' or '.join(presets) or 'none'}")
        for name in given:
            if name not in known:
                raise OptionError(f"no option '{name}'{suggest(name, known)} (there are: {', '.join(known)})")
        values = {name: item.default_of(preset) for name, item in known.items() if name != "preset"}
        return cls(**{**values, **given})

    @classmethod
    def declared(cls) -> dict[str, Option]:
        """All options by name; first `preset`, where there are presets.

        Raises:
            OptionError: if an option has no value in one of the presets.
        """
        kinds, own = get_type_hints(cls), fields(cls)
        presets = list(dict.fromkeys(name for item in own for name in item.metadata.get("presets", ())))
        found: dict[str, Option] = {}
        if presets:
            kind: Any = Literal.__getitem__(tuple(presets))
            found["preset"] = Option("preset", kind, presets[0], "the preset whose values the other options take")
        for item in own:
            values = item.metadata.get("presets", {})
            if values and set(values) != set(presets):
                raise OptionError(f"{cls.__name__}: {item.name} has values for {', '.join(values)}, not for {presets}")
            found[item.name] = Option(
                item.name, kinds[item.name], item.default, item.metadata.get("doc", ""), dict(values)
            )
        return found


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; whole numbers are numbers as well."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, builtin_types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in arguments)
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        each = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return len(each) == len(value) and all(map(_fits, value, each))
    if kind in (int, float):
        is_kind = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return is_kind and value == value and abs(value) != math.inf
    return isinstance(value, kind) if isinstance(kind, type) else True


def _wanted(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, str(kind))
