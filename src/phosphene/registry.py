"""Which methods, recipes and metrics exist, what options they take, and how a configured one is spelled.

A method is one function with a decorator; its keyword-only arguments are its options. A recipe takes all of its
options as one `Options`. The spelling is the same everywhere: ``occlusion:window=10x20,stride=5``, nested
``smoothgrad(saliency:crops=10):samples=8``.
"""

from __future__ import annotations

import inspect
import types as builtin_types
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from phosphene.discovery import discover
from phosphene.errors import NotFoundError, OptionError, suggest
from phosphene.options import Option, Options
from phosphene.types import Display

Kind = Literal["attribution", "recipe", "metric"]

# Arguments that steer a call but are not part of a method's configuration.
CALL_ARGUMENTS = frozenset({"generator", "batch_size", "progress"})


@dataclass(frozen=True)
class Entry:
    """A registered method, recipe or metric with all that commands, reports and docs say about it."""

    kind: Kind
    name: str
    function: Callable[..., Any]
    title: str
    family: str
    paper: str
    signed: bool = True
    display: Display = "signed"
    caveat: str = ""
    traits: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The name, which is the spelling of it with nothing set."""
        return self.name

    @cached_property
    def options(self) -> dict[str, Option]:
        """The options by name: those of the Options that the function takes, else its keyword-only arguments."""
        hints = get_type_hints(self.function)
        if self.options_type is not None:
            return self.options_type.declared()
        docs = _argument_docs(self.function)
        return {
            name: Option(name, hints.get(name, _kind_of(parameter.default)), parameter.default, docs.get(name, ""))
            for name, parameter in inspect.signature(self.function).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in CALL_ARGUMENTS
        }

    @cached_property
    def options_type(self) -> type[Options] | None:
        """The class of a recipe's `options`; None for methods, whose options are keyword-only arguments."""
        found = get_type_hints(self.function).get("options")
        return found if isinstance(found, type) and issubclass(found, Options) else None

    @property
    def presets(self) -> tuple[str, ...]:
        """Names of the presets, the default one first."""
        return get_args(self.options["preset"].type) if "preset" in self.options else ()

    def configured(self, spec: Spec) -> Options:
        """The options of a recipe as a spec sets them.

        Raises:
            OptionError: for values that do not fit, or a recipe that takes no Options.
        """
        if self.options_type is None:
            raise OptionError(f"recipe '{self.name}' takes no options; give it a parameter `options: SomeOptions`")
        return self.options_type.of(**spec.keywords)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    def accepts(self, name: str) -> bool:
        """Whether the function takes an argument of this name."""
        return name in inspect.signature(self.function).parameters


@dataclass(frozen=True)
class Spec:
    """A configured method: its name and the options that were set, in the order of its signature."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return format_spec(self)

    @property
    def keywords(self) -> dict[str, Any]:
        """The options as keyword arguments."""
        return dict(self.options)


_ENTRIES: dict[tuple[Kind, str], Entry] = {}

# Where each kind is looked for when one is first asked for; other packages add theirs by entry points of these groups.
_PACKAGES: dict[Kind, str] = {
    "attribution": "phosphene.attribution",
    "recipe": "phosphene.synthesis.recipes",
    "metric": "phosphene.metrics",
}


def _register(kind: Kind, **about: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        entry = Entry(kind=kind, name=about.pop("name", function.__name__), function=function, **about)
        if entry.display not in get_args(Display):
            raise OptionError(
                f"{kind} '{entry.name}': display='{entry.display}' is none of {', '.join(get_args(Display))}"
            )
        if entry.name == "<lambda>":
            raise OptionError(f"{kind} without a name: give name=, or register a function that has one")
        present = _ENTRIES.get((kind, entry.name))
        if present is not None and present.function.__module__ != function.__module__:
            raise OptionError(f"{kind} '{entry.name}' is registered already, by {present.function.__module__}")
        _ENTRIES[kind, entry.name] = entry
        return function

    return decorate


def register_attribution(
    *,
    title: str,
    family: str,
    paper: str,
    signed: bool = True,
    display: Display = "signed",
    caveat: str = "",
    name: str | None = None,
    **traits: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register an attribution method: a function of (classifier, images, target, *, options) -> Attribution.

    Args:
        title: what a person reads above the map.
        family: "gradient", "perturbation", "cam" or "feature".
        paper: key into docs/references.bib.
        signed: whether negative values mean evidence against.
        display: "signed" for a diverging color scale, "positive" to color the positive part alone, "range" to color
            from the lowest to the highest value, for a method whose zero is no baseline, "percentile" for a diverging
            scale of the strongest places alone, for maps of single pixels of both signs.
        caveat: one sentence that keeps a reader from reading too much into the map.
        name: what it is called in specs; None for the function's own name. Adapters of other libraries put
            theirs before it, as in captum:deep_lift.
        traits: more facts; `view` may be a function of the options naming the View the method needs.

    Example:
        >>> @register_attribution(title="Mine", family="gradient", paper="me2026")
        ... def my_method(classifier, images, target, *, samples: int = 4): ...
        >>> entry("attribution", "my_method").options["samples"].default
        4
        >>> unregister("attribution", "my_method")
    """
    return _register(
        "attribution",
        title=title,
        family=family,
        paper=paper,
        signed=signed,
        display=display,
        caveat=caveat,
        traits=traits,
        **({} if name is None else {"name": name}),
    )


def register_recipe(
    *, title: str, paper: str, family: str = "synthesis", **traits: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a recipe: a function of (classifier, target, streams, options: SomeOptions) that yields its Steps.

    Args:
        title: what a person reads.
        paper: key into docs/references.bib.
        family: "synthesis" for images of classes and units, "features" for those of a layer.
        traits: more facts; `groups` for a recipe that takes groups of classes in place of a target.

    Example:
        >>> from phosphene.options import option
        >>> @dataclass(frozen=True)
        ... class MyOptions(Options):
        ...     steps: int = option("number of steps", best=300, paper=400)
        >>> @register_recipe(title="Mine", paper="me2026")
        ... def my_recipe(classifier, target, streams, options: MyOptions): ...
        >>> entry("recipe", "my_recipe").options["steps"].presets
        {'best': 300, 'paper': 400}
        >>> str(make_spec("my_recipe", "recipe", preset="paper", steps=300))
        'my_recipe:preset=paper,steps=300'
        >>> unregister("recipe", "my_recipe")
    """
    return _register("recipe", title=title, family=family, paper=paper, traits=traits)


def register_metric(
    *, title: str, paper: str, family: str = "metric", **traits: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a metric: a plain function on maps, masks, boxes or images.

    Args:
        title: what a person reads.
        paper: key into docs/references.bib.
        family: of what it is a measure.
        traits: more facts.

    Example:
        >>> @register_metric(title="Share of positive values", paper="me2026")
        ... def positive_share(values): ...
        >>> entry("metric", "positive_share").title
        'Share of positive values'
        >>> unregister("metric", "positive_share")
    """
    return _register("metric", title=title, family=family, paper=paper, traits=traits)


def _kind_of(default: Any) -> Any:
    """The type of an option that is not annotated: its default's; text where that says nothing."""
    kinds = {type(value) for value in default} if isinstance(default, tuple) else {type(default)}
    kind = float if kinds == {int, float} else next(iter(kinds)) if len(kinds) == 1 else str
    if kind not in (bool, int, float, str):
        return str
    return tuple.__class_getitem__((kind, ...)) if isinstance(default, tuple) else kind


def unregister(kind: Kind, name: str) -> None:
    """Forget one entry: for tests and interactive work."""
    _ENTRIES.pop((kind, name), None)


def entries(kind: Kind) -> dict[str, Entry]:
    """All entries of a kind by name, sorted.

    The first call imports what registers them: the modules of phosphene, and what other packages name in the entry
    point groups ``phosphene.attribution``, ``phosphene.synthesis.recipes`` and ``phosphene.metrics``.
    """
    discover(_PACKAGES[kind])
    return {name: _ENTRIES[found, name] for found, name in sorted(_ENTRIES) if found == kind}


def methods(kind: Kind = "attribution") -> dict[str, Entry]:
    """What there is to choose from, by name: attribution methods, recipes or metrics with their options.

    Args:
        kind: "attribution", "recipe" or "metric".

    Raises:
        OptionError: for another kind.

    Example:
        >>> methods()["rise"].options["masks"].default, methods("recipe")["sci"].options["steps"].presets
        (1000, {'best': 200, 'paper': 400})
    """
    if kind not in _PACKAGES:
        raise OptionError(f"kind {kind!r} is unknown; choose {', '.join(_PACKAGES)}")
    return _Known(kind, entries(kind))


class _Known(dict[str, Entry]):
    """Entries by name; a name that there is not is answered with the nearest."""

    def __init__(self, kind: Kind, known: Mapping[str, Entry]) -> None:
        super().__init__(known)
        self.kind = kind

    def __missing__(self, name: str) -> Entry:
        return entry(self.kind, name)


_EACH_BY_ITSELF = "name each by itself: --method A --method B, in Python a list"


def entry(kind: Kind, name: str) -> Entry:
    """One entry.

    Raises:
        NotFoundError: with the nearest names, or all where none is near, if there is none.
    """
    if (kind, name) not in _ENTRIES:
        known = entries(kind)
        if name not in known:
            near = suggest(name, known) or f" (there are: {', '.join(known)})"
            if set(name.split(",")) <= set(known):
                near = f"; {_EACH_BY_ITSELF}"
            if kind == "attribution":
                raise NotFoundError(f"no attribution method '{name}'{near}")
            raise NotFoundError(f"no {kind} '{name}'{near}")
    return _ENTRIES[kind, name]


def parse_spec(text: str | Spec | Entry, kind: Kind = "attribution") -> Spec:
    """Read the spelling of a configured method; options are checked against its signature.

    Raises:
        OptionError: naming the option, what was got and what is possible.
    """
    if isinstance(text, Spec):
        return text
    if isinstance(text, Entry):  # as methods() lists them
        return parse_spec(text.name, kind)
    if not isinstance(text, str):
        raise OptionError(f"method {text!r} is no text; give its name, such as 'grad_cam' or 'occlusion:window=20'")
    name, inner, settings = _split(text.strip(), entries(kind))
    found = entry(kind, name)
    values: dict[str, Any] = {}
    if inner is not None:
        if "inner" not in found.options:
            raise OptionError(f"'{text}': {name} wraps no other method; write {name}:option=value")
        values["inner"] = format_spec(parse_spec(inner, kind))
    for setting in filter(None, _split_outside_parentheses(settings, ",")):
        key, separator, raw = setting.partition("=")
        key = key.strip()
        if not separator and key not in found.options and key in entries(kind):
            raise OptionError(f"'{text}' holds another method, {key}; {_EACH_BY_ITSELF}")
        if key in found.options and not separator:
            raise OptionError(f"{name}: option '{key}' has no value; write {key}=VALUE")
        if key not in found.options:
            known = ", ".join(found.options) or "none"
            raise OptionError(f"{name} has no option '{key}'{suggest(key, found.options)} (its options: {known})")
        if key in values:
            raise OptionError(f"'{text}': option '{key}' is given twice")
        values[key] = _read(raw.strip(), found.options[key].type, f"{name}:{key}")
    return make_spec(name, kind, **values)


def make_spec(name: str, kind: Kind = "attribution", /, **options: Any) -> Spec:
    """A spec from keyword arguments; options that equal the default, or what the preset says, are left out."""
    known = entry(kind, name).options
    for key in options:
        if key not in known:
            listing = ", ".join(known) or "none"
            raise OptionError(f"{name} has no option '{key}'{suggest(key, known)} (its options: {listing})")
    preset = options.get("preset")
    ordered = ((key, options[key]) for key in known if key in options)
    return Spec(name, tuple((key, value) for key, value in ordered if value != known[key].default_of(preset)))


def format_spec(spec: Spec) -> str:
    """The spelling of a configured method; parse_spec(format_spec(s)) == s."""
    options = spec.keywords
    inner = options.pop("inner", None)
    head = spec.name if inner is None else f"{spec.name}({inner})"
    settings = ",".join(f"{key}={_write(value)}" for key, value in options.items())
    return f"{head}:{settings}" if settings else head


def _split(text: str, known: Container[str]) -> tuple[str, str | None, str]:
    """'name(inner):settings' taken apart; a ':' may belong to the name (captum:NAME)."""
    if text.count("(") != text.count(")"):
        raise OptionError(f"'{text}': brackets do not match; nested methods are written outer(inner):option=value")
    head, *rest = _split_outside_parentheses(text, ":")
    while rest and "=" not in rest[0] and head.partition("(")[0].strip() not in known:
        head += ":" + rest.pop(0)
    name, bracket, tail = head.partition("(")
    return name.strip(), tail.rstrip().removesuffix(")") if bracket else None, ":".join(rest)


def _split_outside_parentheses(text: str, separator: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _write(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ("+" if value and isinstance(value[0], str) else "x").join(_write(item) for item in value)
    return str(value)


def _read(raw: str, kind: Any, where: str) -> Any:
    """A value of the annotated type from its spelling."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, builtin_types.UnionType):
        return _read_union(raw, arguments, where)
    if origin is Literal:
        return _read_choice(raw, arguments, where)
    if origin is tuple:
        return _read_tuple(raw, arguments, where)
    if kind is bool:
        return _read_choice(raw.lower(), ("true", "false"), where) == "true"
    try:
        value = kind(raw)
        if value != value:
            raise ValueError("NaN is no setting")
        return value
    except (TypeError, ValueError):
        wanted = {int: "a whole number", float: "a number"}.get(kind, getattr(kind, "__name__", str(kind)))
        raise OptionError(f"{where}: '{raw}' is not {wanted}") from None


def _read_union(raw: str, arguments: tuple[Any, ...], where: str) -> Any:
    named = any(get_origin(option) is Literal and "none" in get_args(option) for option in arguments)
    if builtin_types.NoneType in arguments and raw.lower() == "none" and not named:
        return None
    errors: list[OptionError] = []
    # str takes anything, so it is tried last.
    for option in sorted(arguments, key=lambda item: item is str):
        if option is builtin_types.NoneType or (get_args(option)[:1] == (str,) and "+" not in raw):
            continue
        try:
            return _read(raw, option, where)
        except OptionError as error:
            errors.append(error)
    raise errors[0]


def _read_choice(raw: str, choices: tuple[Any, ...], where: str) -> Any:
    for choice in choices:
        if str(choice) == raw:
            return choice
    listing = ", ".join(str(choice) for choice in choices)
    raise OptionError(f"{where}: '{raw}' is not one of {listing}")


def _read_tuple(raw: str, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    items = raw.split("+" if arguments[0] is str else "x")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_read(item, arguments[0], where) for item in items)
    if len(items) == 1:
        items *= len(arguments)
    if len(items) != len(arguments):
        raise OptionError(f"{where}: '{raw}' has {len(items)} values, not {len(arguments)}; write 10 or 10x20")
    return tuple(_read(item, kind, where) for item, kind in zip(items, arguments, strict=True))


def _argument_docs(function: Callable[..., Any]) -> dict[str, str]:
    """The lines of the docstring's Args section, by argument."""
    docs: dict[str, str] = {}
    current, inside = "", False
    for line in (inspect.getdoc(function) or "").splitlines():
        if line.strip() in ("Args:",):
            inside = True
        elif inside and line and not line.startswith(" "):
            break
        elif inside and line.startswith("    ") and not line.startswith("     "):
            current, _, text = line.strip().partition(":")
            docs[current] = text.strip()
        elif inside and line.strip() and current:
            docs[current] += " " + line.strip()
    return docs
