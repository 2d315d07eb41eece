"""What is explained or drawn, as data: a class, one class against another, a unit inside the network.

A method never asks what kind of target it was given: it passes the target on to what makes its passes, which hands the
network's outputs to `Target.scores`. A new kind is one class here (or in another package, see `kinds`): the commands
take it as an option, and answers and reports show its label.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from phosphene.discovery import load_plugins
from phosphene.errors import NotFoundError, OptionError
from phosphene.labels import Labels, class_index, class_list
from phosphene.types import Layer, Layout, Score

if TYPE_CHECKING:  # (the command builds its options from the kinds, and answers without PyTorch)
    from torch import Tensor


class Reader(Protocol):
    """What knows how a network's outputs are read: a Classifier."""

    name: str
    labels: Labels

    @property
    def head(self) -> str:
        """How scores are read: "softmax", "sigmoid", "probabilities" or "score"."""

    def read(self, output: Any, count: int | None = None) -> Tensor:
        """(N, K) scores out of whatever the network returned."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, K) in [0, 1]."""

    def found(self, output: Any) -> Tensor:
        """The scores in whatever the network returned, in the shape that they have there."""


class Named(Protocol):
    """What knows a network's layers and classes by name: a prepared Classifier."""

    @property
    def labels(self) -> Labels:
        """Of the classes."""

    @property
    def layers(self) -> Sequence[Layer]:
        """That run, each with the shape of its output for one image."""

    def layer_name(self, layer: str) -> str:
        """The dotted name of a layer."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a network gave for a batch of images, with the graph to differentiate: all that a target may look at.

    Args:
        reader: knows how they are read.
        raw: whatever the network returned; None where only `given` is known.
        count: rows of scores that are expected in it.
        images: (N, C, H, W) that the network saw.
        activations: output of each layer that the target names, whole.
        layouts: which axis of each is which, as far as known.
        given: (N, K) scores that were read already.
    """

    reader: Reader
    raw: Any = None
    count: int | None = None
    images: Tensor | None = None
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    layouts: Mapping[str, Layout | None] = field(default_factory=dict)
    given: Tensor | None = None

    @cached_property
    def logits(self) -> Tensor:
        """(N, K) scores before softmax or sigmoid, read when they are first asked for.

        Raises:
            ModelError: if what the network returned holds none.
        """
        return self.reader.read(self.raw, self.count).float() if self.given is None else self.given

    def spatial(self, layer: str) -> Tensor:
        """(N, k, h, w), or (N, k) where it has no places: a layer's output.

        Raises:
            ModelError: if it cannot be told which axes are places.
        """
        from phosphene.graph import spatial_map

        output = self.activations[layer]
        if output.ndim == 2:
            return output
        assert self.images is not None
        return spatial_map(output, f"the output of layer {layer}", self.images, self.layouts.get(layer))


@dataclass(frozen=True)
class CommandOption:
    """How a kind of target is asked for in a command: --KIND METAVAR."""

    metavar: str
    help: str


class _MadeOfParts(type):
    """`Target(...)` itself makes whichever kind its arguments mean."""

    def __call__(cls, *parts: Any, **named: Any) -> Any:
        return super().__call__(*parts, **named) if cls is not Target else _of_parts(*parts, **named)


class Target(metaclass=_MadeOfParts):
    """What is explained: a class, a class against another, or a unit of a layer. Data, never a callable.

    `Target(...)`, `Target.of(...)` and `Unit(...)` make one. A kind derives from it as a frozen dataclass, gives
    `scores`, and overrides of the rest what is not as it stands here: one target for all images, without classes.

    Args:
        classes: one class index for all images, or one for each image; empty for a unit.
        versus: the classes to tell apart from, as many as `classes`; empty for none.
        unit: a unit inside the network, instead of classes.
        score: what is differentiated or watched: the class's "logit", its "probability", or the
            "margin" to the best other class. None leaves the choice to the method.

    Example:
        >>> Target.of(281)
        ClassTarget(classes=(281,), score=None)
        >>> Target.of([281, 504]).expand(2).classes
        (281, 504)
        >>> Target(unit=Unit("features.3", 12))
        Unit(layer='features.3', channel=12, place=None)
    """

    kind: ClassVar[str]
    """What it is called in messages, and its option in commands."""
    option: ClassVar[CommandOption | None] = None
    """How commands ask for it beside --class and --versus; None for a kind that they do not."""

    classes: tuple[int, ...] = ()
    versus: tuple[int, ...] = ()
    score: Score | None = None

    def __init__(
        self,
        classes: int | Iterable[int] = (),
        versus: int | Iterable[int] = (),
        unit: Unit | None = None,
        score: Score | None = None,
    ) -> None:
        raise NotImplementedError  # (never run: see _MadeOfParts; it is how a target is written)

    def __init_subclass__(cls, *, kind: str, option: CommandOption | None = None) -> None:
        super().__init_subclass__()
        present = _KINDS.get(kind)
        if present is not None and (present.__module__, present.__qualname__) != (cls.__module__, cls.__qualname__):
            raise OptionError(f"the kind of target '{kind}' is there already, from {present.__module__}")
        cls.kind, cls.option = kind, option
        _KINDS[kind] = cls

    @staticmethod
    def of(
        classes: int | Iterable[int], *, versus: int | Iterable[int] | None = None, score: Score | None = None
    ) -> Target:
        """The target for one class index, or for one index per image."""
        return _of_parts(_indices(classes), () if versus is None else _indices(versus), None, score)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The target that a command's option means.

        Raises:
            OptionError: for what is none.
        """
        raise OptionError(f"'{text}': no {cls.kind} is written in commands")

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        """(N,) the number of each image that is explained or raised, differentiable.

        Args:
            outputs: of the network.
            default: what the method takes of a class where `score` leaves it open.
        """
        raise NotImplementedError(type(self).__name__)

    def label(self, labels: Labels) -> str:
        """What people read; of several classes the first."""
        return str(self)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose outputs it looks at."""
        return ()

    @property
    def unit(self) -> Unit | None:
        """The target itself where it is a unit."""
        return None

    @property
    def sides(self) -> tuple[Target, ...]:
        """Of a class versus another: the target of the one alone, and of the other alone; else none.

        Example:
            >>> Target.of([1, 2], versus=3).sides[1].classes
            (3,)
        """
        return ()

    @property
    def count(self) -> int:
        """How many maps of each picture it asks for."""
        return 1

    def expand(self, count: int) -> Target:
        """The same target with one class for each of `count` images.

        Raises:
            OptionError: if there are several classes, but not `count` of them; never zipped short.
        """
        return self

    def of_rows(self, rows: slice) -> Target:
        """The part of an expanded target that belongs to a slice of the images."""
        return self

    def rows(self, start: int, stop: int) -> Target:
        """The part of an expanded target that belongs to images `start` to `stop`."""
        return self.of_rows(slice(start, stop))

    def singles(self) -> list[Target]:
        """One target for each image that may be drawn: of each of several classes."""
        return [self]

    def alike(self) -> object:
        """Targets that are alike in this can be drawn side by side."""
        return self

    def joined(self, others: Sequence[Target]) -> Target:
        """One expanded target of several that are alike, itself among them."""
        return self

    def against(self, versus: Target) -> Target:
        """The same told apart from other classes.

        Raises:
            OptionError: for what is no class.
        """
        raise OptionError(f"a {self.kind} has no class to be told apart from; drop the {self.kind} or 'versus'")

    def found_in(self, network: Named) -> Target:
        """The same, its names looked up in a network before anything is computed.

        Raises:
            NotFoundError: for a layer or class that there is not.
        """
        return self

    def placed_in(self, network: Named) -> bool:
        """Whether it looks at places of a picture, which are others where the picture is moved or smaller."""
        return False


# Where the kinds are that are not below.
_MODULES = ("output_targets", "inner_targets")
_KINDS: dict[str, type[Target]] = {}


def kinds() -> Mapping[str, type[Target]]:
    """Every kind of target by name: those here, and those of other packages' entry points (`phosphene.targets`).

    Example:
        >>> sorted(name for name, kind in kinds().items() if kind.option)
        ['direction', 'object', 'region', 'similar', 'token', 'unit']
    """
    for module in _MODULES:
        import_module(f"phosphene.{module}")
    load_plugins("phosphene.targets")
    return _KINDS


@dataclass(frozen=True)
class ClassTarget(Target, kind="class"):
    """The score of a class.

    Args:
        classes: one index for all images, or one for each.
        score: "logit", "probability", "margin" to the best other class; None leaves the choice to the method.
    """

    classes: tuple[int, ...] = field()
    score: Score | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", _indices(self.classes))
        if not self.classes:
            raise _not_one_thing()
        _check_score(self.score)

    def __str__(self) -> str:
        return "+".join(map(str, self.classes))

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        """The score of each image's class: S_c, p_c, or S_c - max of the others."""
        check_classes(self.classes, outputs)
        kind = _kind_of_score(self.score, default, outputs.reader)
        classes = self.expand(len(outputs.logits)).classes
        found = _pick(_values(outputs, kind), classes)
        return found - _best_other(outputs.logits, classes) if kind == "margin" else found

    def label(self, labels: Labels) -> str:
        return labels[self.classes[0]]

    def expand(self, count: int) -> ClassTarget:
        return replace(self, classes=_broadcast(self.classes, count, "target classes"))

    def of_rows(self, rows: slice) -> ClassTarget:
        return replace(self, classes=self.classes[rows])

    def singles(self) -> list[Target]:
        return [self.rows(index, index + 1) for index in range(len(self.classes))]

    def alike(self) -> object:
        return self.kind, len(self.classes), self.score

    def joined(self, others: Sequence[Target]) -> Target:
        return replace(self, classes=tuple(index for one in others for index in one.classes))

    def against(self, versus: Target) -> Target:
        if not isinstance(versus, ClassTarget):
            raise OptionError(f"a class is told apart from a class, not from the {versus.kind} {versus}")
        return VersusTarget(self.classes, versus.expand(len(self.classes)).classes, self.score)

    def chosen(self, scores: Tensor, without: Sequence[int] = ()) -> list[tuple[int, ...]]:
        """Its classes for each of the images with these scores (N, K)."""
        return [(index,) for index in self.expand(len(scores)).classes]


@dataclass(frozen=True)
class VersusTarget(Target, kind="versus"):
    """The difference of the scores of two classes.

    Args:
        classes: one index for all images, or one for each.
        versus: the classes to tell apart from: one, or one for each of `classes`.
        score: "logit" or "probability"; None leaves the choice to the method.
    """

    classes: tuple[int, ...] = field()
    versus: tuple[int, ...] = field()
    score: Score | None = None

    def __post_init__(self) -> None:
        for name in ("classes", "versus"):
            object.__setattr__(self, name, _indices(getattr(self, name)))
        if not self.classes:
            raise _not_one_thing()
        if len(self.versus) not in (1, len(self.classes)):
            raise OptionError(
                f"{len(self.versus)} versus-classes for {len(self.classes)} classes; give one, or one for each"
            )
        _check_score(self.score)

    def __str__(self) -> str:
        return "-".join("+".join(map(str, classes)) for classes in (self.classes, self.versus))

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        """The difference of both classes' scores (of margins it is that of the logits)."""
        check_classes((*self.classes, *self.versus), outputs)
        values = _values(outputs, _kind_of_score(self.score, default, outputs.reader))
        each = self.expand(len(values))
        return _pick(values, each.classes) - _pick(values, each.versus)

    def label(self, labels: Labels) -> str:
        return labels[self.classes[0]]

    @property
    def sides(self) -> tuple[Target, ...]:
        return ClassTarget(self.classes, self.score), ClassTarget(self.versus, self.score)

    def expand(self, count: int) -> VersusTarget:
        return replace(
            self,
            classes=_broadcast(self.classes, count, "target classes"),
            versus=_broadcast(self.versus, count, "versus classes"),
        )

    def of_rows(self, rows: slice) -> VersusTarget:
        return replace(self, classes=self.classes[rows], versus=self.versus[rows])

    def singles(self) -> list[Target]:
        whole = self.expand(len(self.classes))
        return [whole.rows(index, index + 1) for index in range(len(whole.classes))]

    def alike(self) -> object:
        return self.kind, len(self.classes), len(self.versus), self.score

    def joined(self, others: Sequence[Target]) -> Target:
        classes, versus = (
            tuple(index for one in others for index in getattr(one, name)) for name in ("classes", "versus")
        )
        return replace(self, classes=classes, versus=versus)

    def against(self, versus: Target) -> Target:
        return self.sides[0].against(versus)


@dataclass(frozen=True)
class Unit(
    Target,
    kind="unit",
    option=CommandOption("LAYER=CHANNEL", "A unit instead of a class, or LAYER=CHANNEL@ROW,COLUMN."),
):
    """A place inside a network: a layer, one of its channels, one position of that channel.

    As a target its score is the activation there: of a channel without a place the mean over places; of a whole layer
    half its sum of squares, whose gradient is the layer's own activation.

    Args:
        layer: dotted name of the module.
        channel: index of the channel; None for the whole layer.
        place: (row, column) in the layer's own grid; None for the mean over all places.
    """

    layer: str
    channel: int | None = None
    place: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str):
            raise OptionError(f"layer {self.layer!r} of a unit is no text; give its dotted name")
        try:
            channel = None if self.channel is None else class_index(self.channel)
            place = None if self.place is None else tuple(map(class_index, self.place))
        except (OptionError, TypeError):
            channel, place = None, ()
        if place is not None and len(place) != 2:
            raise OptionError(
                f"unit of layer {self.layer}: channel={self.channel!r} is a whole number, place={self.place!r} is "
                "(row, column); give None for what is left open"
            )
        object.__setattr__(self, "channel", channel)
        object.__setattr__(self, "place", place)

    def __str__(self) -> str:
        text = self.layer if self.channel is None else f"{self.layer}={self.channel}"
        return text if self.place is None else f"{text}@{self.place[0]},{self.place[1]}"

    @classmethod
    def parse(cls, text: str) -> Unit:
        """A unit from LAYER=CHANNEL or LAYER=CHANNEL@ROW,COLUMN; LAYER=all is the whole layer.

        Raises:
            OptionError: for anything else; of LAYER alone it asks for the channel.

        Example:
            >>> Unit.parse("features.3=12@4,5")
            Unit(layer='features.3', channel=12, place=(4, 5))
        """
        layer, given, rest = text.partition("=")
        channel, _, place = rest.partition("@")
        if layer and not given:
            raise OptionError(
                f"{layer}: which channel of it? give {layer}=CHANNEL, or {layer}=all for the whole layer; "
                f"phosphene activations IMAGE --layer {layer} shows what its channels answer"
            )
        channel = "" if rest == "all" else channel
        try:
            rows = tuple(int(part) for part in place.split(",")) if place else ()
            if len(rows) not in (0, 2) or not (layer and rest):
                raise ValueError(text)
            return cls(layer, int(channel) if channel else None, (rows[0], rows[1]) if rows else None)
        except ValueError:
            raise OptionError(f"{text}: is not LAYER=CHANNEL, LAYER=CHANNEL@ROW,COLUMN or LAYER=all") from None

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        """The activation of the unit."""
        output = outputs.activations[self.layer]
        if self.channel is None:
            return 0.5 * output.float().square().flatten(1).sum(dim=1)
        values = outputs.spatial(self.layer)
        if not 0 <= self.channel < values.shape[1]:
            raise self._not_there(output)
        values = values[:, self.channel].float()
        if self.place is None:
            return values.reshape(len(values), -1).mean(dim=1)
        row, column = self.place
        if values.ndim != 3 or not (0 <= row < values.shape[1] and 0 <= column < values.shape[2]):
            raise self._not_there(output)
        return values[:, row, column]

    def _not_there(self, output: Tensor) -> NotFoundError:
        return NotFoundError(f"no unit {self}: the output of {self.layer} for one image is {tuple(output.shape[1:])}")

    @property
    def layers(self) -> tuple[str, ...]:
        return (self.layer,)

    @property
    def unit(self) -> Unit:
        return self

    def found_in(self, network: Named) -> Unit:
        return replace(self, layer=network.layer_name(self.layer))

    def placed_in(self, network: Named) -> bool:
        return self.place is not None


@dataclass(frozen=True)
class BestClasses:
    """The K best classes of each picture, "topK" in commands: a target once the picture's scores are known.

    Args:
        count: K.
    """

    count: int = 1

    def chosen(self, scores: Tensor, without: Sequence[int] = ()) -> list[tuple[int, ...]]:
        """The best classes of each row of scores (N, K), of equal ones the first; as many for each row.

        Args:
            scores: that say which classes are best.
            without: classes that are not to be among them.

        Example:
            >>> BestClasses(2).chosen(torch.tensor([[0.1, 0.7, 0.2]]), without=(1,))
            [(2, 0)]
        """
        ranked = scores.argsort(dim=1, descending=True, stable=True).tolist()
        return [tuple([index for index in row if index not in without][: self.count]) for row in ranked]

    def one_of_each(self, logits: Tensor) -> ClassTarget:
        """The best class alone of each image, by its logits (N, K)."""
        return ClassTarget(tuple(logits.argmax(dim=1).tolist()))


@dataclass(frozen=True)
class EachClass:
    """Several classes in every picture, as --class A --class B asks for.

    Args:
        classes: their indices.
    """

    classes: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many maps of each picture it asks for."""
        return len(self.classes)

    def chosen(self, scores: Tensor, without: Sequence[int] = ()) -> list[tuple[int, ...]]:
        """The classes for each row of scores, without some of them."""
        return [tuple(index for index in self.classes if index not in without)] * len(scores)


TargetLike = Target | BestClasses | int | str | Sequence[int | str] | None


def resolve(target: TargetLike, labels: Labels) -> Target | BestClasses:
    """The one place where it is understood what is meant by a target, in Python and in commands.

    Args:
        target: a Target or BestClasses; a class by index, WordNet id, name or part of one; several, one for each image,
            in a list, array or tensor; "topK" for the K best of each picture, unless a class has this name; None for
            the best.
        labels: of the classifier.

    Raises:
        NotFoundError: for a class that there is not, or that is not the only one of this name.
        OptionError: for what is no target: one-hot rows, callables, numbers that are not whole.

    Example:
        >>> labels = Labels(("tabby", "lynx"))
        >>> resolve("lynx", labels), resolve(None, labels), resolve("top2", labels)
        (ClassTarget(classes=(1,), score=None), BestClasses(count=1), BestClasses(count=2))
    """
    return target if isinstance(target, Target | BestClasses) else resolve_classes(target, labels)


def resolve_one(target: TargetLike, labels: Labels) -> Target | BestClasses:
    """The same where each picture has one map.

    Raises:
        OptionError: for several classes of each picture, too.
    """
    found = resolve(target, labels)
    if found.count > 1:
        raise OptionError(f"'top{found.count}' is several classes of each picture; name one for each, or take 'top1'")
    return found


def resolve_classes(classes: Any, labels: Labels) -> ClassTarget | BestClasses:
    """The same where it is classes that are meant."""
    if classes is None:
        return BestClasses()
    if isinstance(classes, str) and classes not in labels.names:
        tail = classes.removeprefix("top")
        if tail != classes and tail.isascii() and tail.isdigit():
            if int(tail) < 1:
                raise OptionError(f"class '{classes}': top1 is the smallest")
            return BestClasses(int(tail))
    return class_target(classes, labels)


def typed_classes(classes: str | Sequence[str] | EachClass, labels: Labels) -> ClassTarget | BestClasses | EachClass:
    """What is meant by classes as they are typed: one, "topK", or several to be looked at in every picture.

    Args:
        classes: as typed once or several times; each is a class, or several with commas between. What is understood
            already is returned.
        labels: of the classifier; a name that holds a comma is that name.

    Raises:
        NotFoundError: for a class that there is not.
        OptionError: for "topK" among others.

    Example:
        >>> labels = Labels(("tabby", "lynx", "maillot, tank suit"))
        >>> typed_classes("tabby,lynx", labels), typed_classes(["maillot, tank suit"], labels)
        (EachClass(classes=(0, 1)), ClassTarget(classes=(2,), score=None))
    """
    if isinstance(classes, EachClass):
        return classes
    given = [classes] if isinstance(classes, str) else list(classes)
    names = typed_names(given, labels)
    if len(names) == 1:
        return resolve_classes(names[0], labels)
    found = [resolve_classes(name, labels) for name in names]
    for name, one in zip(names, found, strict=True):
        if not isinstance(one, ClassTarget):
            raise OptionError(f"--class {name} is the best classes of each picture; give it alone, or classes by name")
    return EachClass(tuple(dict.fromkeys(index for one in found for index in one.classes)))  # type: ignore[union-attr]


def typed_names(given: Sequence[str], labels: Labels) -> list[str]:
    """The names of classes in what was typed: several stand with commas between; a name that holds one is that name.

    Example:
        >>> typed_names(["tabby,lynx", "maillot, tank suit"], Labels(("tabby", "lynx", "maillot, tank suit")))
        ['tabby', 'lynx', 'maillot, tank suit']
    """
    return [name.strip() for text in given for name in ([text] if text in labels.names else text.split(","))]


def class_target(classes: Any, labels: Labels) -> ClassTarget:
    """The classes that are named, where no picture says which are best.

    Raises:
        NotFoundError: for a class that there is not.
        OptionError: for what is no class.

    Example:
        >>> class_target(["tabby", 1], Labels(("tabby", "lynx"))).classes
        (0, 1)
    """
    found = class_list(classes)
    if not found:
        raise OptionError("a target of no classes; name one for all images or one for each, or None for the best")
    return ClassTarget(tuple(labels.find(item) for item in found))


def of_each(
    target: Target | BestClasses | EachClass,
    logits: Tensor,
    versus: Target | None = None,
    score: Score | None = None,
) -> tuple[Target, int]:
    """(the expanded target of N * K maps, K): what is explained in each of N pictures, one picture after the other.

    Args:
        target: what was asked for.
        logits: (N, classes) of the pictures.
        versus: a class to tell the others apart from.
        score: of classes.
    """
    if isinstance(target, Target) and not isinstance(target, ClassTarget):
        return target.expand(len(logits)), 1
    chosen = target.chosen(logits, () if versus is None else versus.classes)
    found: Target = ClassTarget(tuple(index for row in chosen for index in row), score)
    return (found if versus is None else found.against(versus)).expand(len(found.classes)), len(chosen[0])


def _of_parts(classes: Any = (), versus: Any = (), unit: Any = None, score: Any = None) -> Target:
    """The kind of target that the arguments of `Target` mean."""
    classes, versus = _indices(classes), _indices(versus)
    if unit is not None and not isinstance(unit, Unit):
        raise OptionError(f"unit {unit!r} is no Unit; give Unit(layer, channel)")
    if bool(classes) == (unit is not None):
        raise _not_one_thing()
    _check_score(score)
    if unit is None:
        return VersusTarget(classes, versus, score) if versus else ClassTarget(classes, score)
    if versus:
        raise OptionError("a unit has no class to be told apart from; drop the unit or 'versus'")
    return unit


def _not_one_thing() -> OptionError:
    return OptionError("a target is either one or more classes or one unit of a layer; give exactly one of them")


def _check_score(score: Any) -> None:
    if score not in (None, "logit", "probability", "margin"):
        raise OptionError(f"score {score!r} is unknown; choose logit, probability or margin")


def _indices(value: Any) -> tuple[int, ...]:
    if isinstance(value, tuple) and all(type(item) is int for item in value):
        return value
    return tuple(class_index(item) for item in class_list(value))


def _broadcast(values: tuple[int, ...], count: int, what: str) -> tuple[int, ...]:
    if len(values) == count:
        return values
    if len(values) == 1:
        return values * count
    one_hot = sorted(values)[-2:] == [0, 1] and sum(values) == 1
    hint = "; of a one-hot row that is its argmax()" if one_hot else ""
    raise OptionError(f"{len(values)} {what} for {count} images; give one for all, or one for each{hint}")


def _kind_of_score(score: Score | None, default: Score, reader: Reader) -> Score:
    """What is taken of a class; a head of plain scores has no probability, so where it is the default the score."""
    kind = score or default
    if kind == "probability" and reader.head == "score":
        if score is not None:
            raise OptionError(f"{reader.name} has a head of plain scores: no probability; use score 'logit'")
        return "logit"
    return kind


def _values(outputs: Outputs, kind: Score) -> Tensor:
    """(N, K) what a score of this kind is taken from."""
    return outputs.reader.probabilities(outputs.logits) if kind == "probability" else outputs.logits


def _pick(values: Tensor, classes: tuple[int, ...]) -> Tensor:
    """(N,) the value of one class for each image."""
    import torch

    index = torch.tensor(classes, device=values.device)
    return values.gather(1, index[:, None])[:, 0]


def check_classes(classes: Sequence[int], outputs: Outputs) -> None:
    """Refuse class indices that the network does not have.

    Raises:
        NotFoundError: naming the first.
    """
    count = outputs.logits.shape[1]
    for index in classes:
        if not 0 <= index < count:
            raise NotFoundError(f"no class {index}; {outputs.reader.name} has {count} classes, 0 to {count - 1}")


def _best_other(logits: Tensor, classes: tuple[int, ...]) -> Tensor:
    import torch

    if logits.shape[1] < 2:
        raise OptionError("a margin needs at least two classes; use score 'logit'")
    index = torch.tensor(classes, device=logits.device)[:, None]
    return logits.scatter(1, index, float("-inf")).amax(dim=1)
