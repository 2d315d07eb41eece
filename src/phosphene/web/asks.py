"""What the views of the page are asked: each question has an address, a line for the shell and lines of Python."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_type_hints
from urllib.parse import parse_qs, urlencode

from phosphene.errors import OptionError
from phosphene.registry import Spec, entry, make_spec, parse_spec

TABS = ("explain", "locate", "remember", "layer", "compare", "audit")


@dataclass(frozen=True)
class Ask:
    """A question of one view. Fields that are as usual are left out of the address.

    Args:
        picture: name of a packaged picture, which an address can hold; "" for an upload; in calls the file's name.
        model: spec of the classifier; "" for the first one that the page has.
    """

    picture: str = ""
    model: str = ""

    tab: ClassVar[str] = ""

    def address(self) -> str:
        """The part of the URL that opens this again, from the question mark on.

        Example:
            >>> ExplainAsk("chelsea.png", methods=("cam", "rise:masks=400"), at=(0.5, 0.25)).address()
            '?tab=explain&picture=chelsea.png&methods=cam&methods=rise%3Amasks%3D400&at=0.5x0.25'
        """
        pairs: list[tuple[str, str]] = [("tab", self.tab)]
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value == item.default:
                continue
            if item.name == "at":
                pairs.append(("at", "x".join(f"{share:.4g}" for share in value)))
            elif isinstance(value, tuple):
                pairs += [(item.name, str(part)) for part in value]
            else:
                pairs.append((item.name, "1" if value is True else str(value)))
        return "?" + urlencode(pairs)

    @classmethod
    def read(cls, params: Mapping[str, Sequence[str]]) -> Self:
        """The question of an address; what the address does not say is as usual, what it says besides is left alone.

        Raises:
            OptionError: for a value that cannot be read.

        Example:
            >>> LocateAsk.read(parse("?tab=locate&picture=coffee.png&classes=cup&strength=0.3"))
            LocateAsk(picture='coffee.png', model='', classes='cup', methods=(), segment='', preset='best')
        """
        hints = get_type_hints(cls)
        named = [item.name for item in dataclasses.fields(cls) if item.name in params]
        return cls(**{name: _value(name, hints[name], params[name]) for name in named})

    @classmethod
    def sent(cls, values: Mapping[str, Any]) -> Self:
        """The question that a program sent; what is of no use for a field leaves it as usual.

        Example:
            >>> LocateAsk.sent({"picture": "coffee.png", "classes": None, "methods": ["cam", 3], "more": 1}).methods
            ('cam',)
        """
        hints = get_type_hints(cls)
        usual = {item.name: item.default for item in dataclasses.fields(cls)}
        return cls(**{name: _sent(name, hints[name], values.get(name), usual[name]) for name in usual})

    def command(self) -> str:
        """The lines for a shell in the folder of the picture."""
        raise NotImplementedError

    def python(self, model: str, targets: Sequence[int] = (), versus: int | None = None) -> str:
        """The lines of Python, to be run in the folder of the picture.

        Args:
            model: spec of the classifier.
            targets: the classes that were answered for.
            versus: the class that they were told apart from.
        """
        raise NotImplementedError


def parse(search: str) -> dict[str, list[str]]:
    """The values of an address by name.

    Example:
        >>> parse("?tab=explain&methods=cam&methods=saliency")
        {'tab': ['explain'], 'methods': ['cam', 'saliency']}
    """
    return parse_qs(search.removeprefix("?"), max_num_fields=60, keep_blank_values=True)


def read(search: str) -> Ask:
    """The question of an address; one without a tab is explain's.

    Raises:
        OptionError: for a tab that there is not, or a value that cannot be read.
    """
    try:
        params = parse(search)
    except ValueError:
        raise OptionError("the address has too many fields") from None
    tab = params.get("tab", ["explain"])[-1]
    if tab not in ASKS:
        raise OptionError(f"no view '{tab}'; there are {', '.join(ASKS)}")
    return ASKS[tab].read(params)


@dataclass(frozen=True)
class ExplainAsk(Ask):
    """Why this class, and where; `at` is a place as shares of width and height."""

    methods: tuple[str, ...] = ("grad_cam", "saliency")
    classes: str = "top1"
    versus: str = ""
    layer: str = ""
    view: str = "center"
    at: tuple[float, float] | None = None

    tab = "explain"

    @property
    def specs(self) -> tuple[Spec, ...]:
        """The methods; those that look at a layer, at the layer of this question.

        Raises:
            OptionError: for no method, or one that cannot be read.
        """
        if not self.methods:
            raise OptionError("choose a method")
        return tuple(at_layer(method, self.layer) for method in self.methods)

    def command(self) -> str:
        words = ["phosphene", "explain", file_word(self.picture), *_given("--model", self.model)]
        words += _given("--class", self.classes, "top1") + _given("--versus", self.versus)
        words += [word for spec in self.specs for word in ("--method", str(spec))]
        return shlex.join([*words, *_given("--view", self.view, "center")])

    def python(self, model: str, targets: Sequence[int] = (), versus: int | None = None) -> str:
        specs, more = [str(spec) for spec in self.specs], {"view": "whole"} if self.view == "whole" else {}
        picture: Any = self.picture if len(targets) <= 1 else Code(f"[{self.picture!r}] * {len(targets)}")
        target = list(targets) if len(targets) > 1 else targets[0] if targets else None
        if versus is None:
            call = _call("explain", model, picture, specs, target=target, **more)
            return _lines(f"maps = {call}", f"maps[{specs[0]!r}].maps  # raw and signed", _SAVE)
        calls = [_call("contrast", model, picture, target, versus, spec, **more) for spec in specs]
        blocks = [(f"maps = {call}", "maps.difference.maps  # raw and signed") for call in calls]
        return _lines(*(line for block in blocks for line in block), _SAVE)


@dataclass(frozen=True)
class LocateAsk(Ask):
    """Where it is: mask and box."""

    classes: str = "top1"
    methods: tuple[str, ...] = ()
    segment: str = ""
    preset: str = "best"

    tab = "locate"

    def command(self) -> str:
        words = ["phosphene", "locate", file_word(self.picture), *_given("--model", self.model)]
        words += _given("--class", self.classes, "top1")
        words += [word for method in self.methods for word in ("--method", method)]
        return shlex.join([*words, *_given("--segment", self.segment), *_given("--preset", self.preset, "best")])

    def python(self, model: str, targets: Sequence[int] = (), versus: int | None = None) -> str:
        more: dict[str, Any] = {"target": list(targets) or None, "method": list(self.methods) or None}
        more |= {"segment": self.segment or None, "preset": self.preset}
        return _lines(
            f"found = {_call('locate', model, self.picture, **more)}",
            "found[0].box, found[0].mask  # in pixels of the picture; (height, width), True where it is",
        )


@dataclass(frozen=True)
class RememberAsk(Ask):
    """What the network remembers of classes: one image of each, or all in one. 0 steps are those of the preset."""

    classes: tuple[str, ...] = ()
    fuse: bool = False
    recipe: str = ""
    preset: str = ""
    steps: int = 64
    seed: int = 0

    tab = "remember"

    @property
    def spec(self) -> str:
        """The recipe."""
        return self.recipe or ("fuse" if self.fuse else "sci")

    def command(self) -> str:
        words = ["phosphene", "fuse" if self.fuse else "impress", *self.classes, *_given("--model", self.model)]
        words += _given("--recipe", self.recipe) + _given("--preset", self.preset)
        steps, seed = str(self.steps), str(self.seed)
        return shlex.join([*words, *_given("--steps", steps, "0"), *_given("--seed", seed, "0"), "--judge", "none"])

    def python(self, model: str, targets: Sequence[int] = (), versus: int | None = None) -> str:
        more = {"preset": self.preset or None, "steps": self.steps or None, "seed": self.seed}
        call = _call("fuse" if self.fuse else "impress", model, list(targets), self.spec, **more)
        return _lines(f"made = {call}", "made[0].image  # (channels, height, width), 0 to 1")


@dataclass(frozen=True)
class LayerAsk(Ask):
    """What a layer shows for one picture ("activations"), or responds to in a few uploaded ones ("features")."""

    layer: str = ""
    show: str = "activations"
    count: int = 24
    facets: int = 2
    exemplars: int = 4
    steps: int = 48

    tab = "layer"

    def command(self) -> str:
        if self.show == "features":
            words = [
                "phosphene",
                "features",
                "pictures",
                *_given("--model", self.model),
                *_given("--layer", self.layer),
            ]
            words += ["--facets", str(self.facets), "--exemplars", str(self.exemplars), "--steps", str(self.steps)]
            return shlex.join(words)
        words = ["phosphene", "activations", file_word(self.picture), *_given("--model", self.model)]
        return shlex.join([*words, *_given("--layer", self.layer), *_given("--count", str(self.count), "24")])

    def python(self, model: str, targets: Sequence[int] = (), versus: int | None = None) -> str:
        if self.show == "features":
            more = {"facets": self.facets, "exemplars": self.exemplars, "recipe": f"minds_eye:steps={self.steps}"}
            call = _call("features", model, "pictures", self.layer or None, **more)
            return _lines(f"found = {call}", "found[0].facets[0].image  # (channels, height, width), 0 to 1")
        return _lines(*_captured(model, self.picture, self.layer), "found[layer][0]  # (channels, height, width)")


@dataclass(frozen=True)
class CompareAsk(Ask):
    """Two networks or two methods on one picture; no other model is the same one."""

    method: str = "grad_cam"
    other_model: str = ""
    other_method: str = "saliency"
    classes: str = "top1"

    tab = "compare"

    @property
    def sides(self) -> tuple[ExplainAsk, ExplainAsk]:
        """The question of each side."""
        one = ExplainAsk(self.picture, self.model, (self.method,), self.classes)
        return one, ExplainAsk(self.picture, self.other_model or self.model, (self.other_method,), self.classes)

    def command(self) -> str:
        return "\n".join(side.command() for side in self.sides)

    def python(self, model: str, targets: Sequence[int] = (), versus: int | None = None) -> str:
        target = targets[0] if targets else None
        calls = [
            _call("explain", side.model or model, self.picture, str(side.specs[0]), target=target)
            for side in self.sides
        ]
        return _lines(f"one = {calls[0]}", f"other = {calls[1]}", "one.maps, other.maps  # raw and signed")


@dataclass(frozen=True)
class AuditAsk(Ask):
    """The pictures of a run: those that fit, in an order, a page of them."""

    run: str = ""
    find: str = ""
    show: str = "all"
    sort: str = "order"
    page: int = 1

    tab = "audit"

    def command(self) -> str:
        return shlex.join(["phosphene", "report", self.run])

    def python(self, model: str = "", targets: Sequence[int] = (), versus: int | None = None) -> str:
        return _lines(
            f"run = phosphene.open_run({self.run!r})",
            "for row in run:",
            "    print(row.path, row.status, row.error or [best.label for best in row.predicted or ()])",
        )


ASKS: Mapping[str, type[Ask]] = {
    kind.tab: kind for kind in (ExplainAsk, LocateAsk, RememberAsk, LayerAsk, CompareAsk, AuditAsk)
}

_SAVE = "phosphene.draw(maps).save('maps.png')"


class Code(str):
    """Text that is Python already."""

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class PlaceCalls:
    """The calls that give what is shown of a place: the layer's values, and an image for each of its channels there.

    Args:
        ask: the question, with the picture's name.
        layer: that was looked at.
        cell: (row, column) of the place in it.
        units: (layer, channel) that each image is drawn for.
        recipe: of the images.
    """

    ask: ExplainAsk
    layer: str
    cell: tuple[int, int]
    units: tuple[tuple[str, int], ...]
    recipe: str

    def command(self) -> str:
        """The lines for a shell in the folder of the picture; of the values only where the view is the command's."""
        model = _given("--model", self.ask.model)
        lines = []
        if self.ask.view == "center":
            words = ["phosphene", "activations", file_word(self.ask.picture), *model, "--layer", self.layer]
            lines = [[*words, *(word for _, channel in self.units for word in ("--channel", str(channel)))]]
        for layer, channel in self.units:
            unit = ["--unit", f"{layer}={channel}", "--recipe", self.recipe, "--judge", "none"]
            lines.append(["phosphene", "impress", *model, *unit])
        return "\n".join(map(shlex.join, lines))

    def python(self, model: str) -> str:
        """The lines of Python, to be run in the folder of the picture."""
        row, column = self.cell
        units = ", ".join(f"({layer!r}, {channel})" for layer, channel in self.units)
        draw = _call("impress", model, Code("phosphene.Unit(layer, channel)"), self.recipe)
        return _lines(
            *_captured(model, self.ask.picture, self.layer, self.ask.view),
            f"found[layer][0][:, {row}, {column}]  # (channels,), at the place",
            f"drawn = [{draw}[0].image for layer, channel in [{units}]]",
        )


def at_layer(method: str, layer: str) -> Spec:
    """The method, looking at a layer if it looks at one and does not say which.

    Example:
        >>> str(at_layer("grad_cam", "blocks.5")), str(at_layer("saliency", "blocks.5"))
        ('grad_cam:layer=blocks.5', 'saliency')
    """
    spec = parse_spec(method)
    if not layer or "layer" in spec.keywords or "layer" not in entry("attribution", spec.name).options:
        return spec
    return make_spec(spec.name, "attribution", **spec.keywords, layer=layer)


def file_word(name: str) -> str:
    """A file's name as a word that no command takes for an option.

    Example:
        >>> file_word("--out.png"), file_word("a.png")
        ('./--out.png', 'a.png')
    """
    return f"./{name}" if name.startswith("-") else name


def _given(option: str, value: str, usual: str = "") -> list[str]:
    return [] if value in ("", usual) else [option, value]


def _call(function: str, *arguments: Any, **options: Any) -> str:
    given = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    return f"phosphene.{function}({', '.join([*map(repr, arguments), *given])})"


def _captured(model: str, picture: str, layer: str, view: str = "center") -> tuple[str, ...]:
    """What leaves a layer's output for a picture in found[layer][0]; no layer is the default one."""
    views = "classifier.views([picture])" if view == "center" else f"classifier.views([picture], {view!r})"
    return (
        f"classifier = phosphene.prepare(phosphene.load_classifier({model!r}))",
        f"picture = phosphene.read_image({picture!r}, **classifier.preprocess.reading)",
        f"layer = {layer!r}" if layer else "layer = classifier.default_layer",
        "with phosphene.capture(classifier.module, [layer]) as found:",
        f"    classifier.logits(classifier.preprocessed([picture], {views}))",
    )


def _lines(*lines: str) -> str:
    return "\n".join(["import phosphene", "", *lines])


def _sent(name: str, kind: Any, value: Any, usual: Any) -> Any:
    if name == "at":
        try:
            return _value(name, kind, [str(value)])
        except OptionError:
            return usual
    if kind is str:
        return value if isinstance(value, str) and value else usual
    if kind is bool:
        return value is True
    if kind is int:
        return int(value) if isinstance(value, int | float) and math.isfinite(value) else usual
    return tuple(part for part in value if isinstance(part, str) and part) if isinstance(value, list) else ()


def _value(name: str, kind: Any, given: Sequence[str]) -> Any:
    """What the address says of a field, in the field's type."""
    text = given[-1]
    try:
        if kind is str:
            return text
        if kind is bool:
            return text == "1"
        if kind is int:
            return int(text)
        if name == "at":
            x, y = (float(part) for part in text.split("x"))
            if not (0 <= x <= 1 and 0 <= y <= 1):
                raise ValueError(text)
            return x, y
    except ValueError:
        raise OptionError(f"the address says {name}={text[:40]!r}, which cannot be read") from None
    return tuple(part for part in given if part)
