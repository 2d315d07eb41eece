"""explain: pictures x classes x methods -> maps with their overlays, a row for each picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from phosphene.classifier import ViewKind
from phosphene.errors import TYPED_WRONG, ModelError, OptionError, PhospheneError
from phosphene.images import picture_size
from phosphene.labels import Labels
from phosphene.registry import Spec, entry, format_spec, parse_spec
from phosphene.render import thumbnail
from phosphene.runtime import Prepared, forward
from phosphene.sources import Item
from phosphene.store import Asset, ExplainRow, MapRow, Row, picture_folder
from phosphene.targets import BestClasses, EachClass, Target, class_target, of_each, typed_classes
from phosphene.tasks.attributions import (
    DEFAULT_METHODS,
    Seen,
    attribute_seen,
    attribute_sides,
    in_the_place_of,
    says_nothing,
    see,
    with_classes,
)
from phosphene.tasks.map_rows import OVERLAY_SIDE, REPORT_SIDE, failed_row, map_row
from phosphene.tasks.task import Progress, Say, answered, computed, pictures_of
from phosphene.types import Attribution, Prediction, Render, Score

# One map of one picture and class, with those of both classes before it where two are told apart; or why there is none.
Outcome = tuple[Attribution, ...] | PhospheneError
# Maps of one picture that are made together: of more classes than that one hears how far it is.
_MAPS_AT_ONCE = 64
# Height and width of a picture that is not too small for anything usual.
_USUAL = (224, 224)


@dataclass(frozen=True)
class ExplainConfig:
    """Which methods explain which classes or unit of pictures, seen how, colored how.

    Args:
        methods: configured methods.
        classes: a class by index, WordNet id or name, several of them, or 'topK' for the K best of each picture.
        versus: a class to tell the others apart from.
        target: a target of another kind instead of classes, such as a Unit.
        layer: for the methods that look at a layer; None for the default.
        score: what is explained; None for each method's own.
        view: "center" as the network was trained, or "whole" for the entire frame.
        scale: "image" for a color scale for each map, "shared" for one for each method; that takes all rows of a run,
            so here each map has its own, and `recolored` changes it.
        render: "overlay" for maps laid on the pictures, "map" for the maps by themselves, "both".
        seed: of the methods that draw random numbers.
        batch_size: images that go through the network together; with K classes so many fewer pictures.
        overlay_side: long side of the overlays in pixels; 0 draws nothing, so that rows hold values alone.
        otherwise: methods that take the place of those above one after the other, where they say nothing of a picture.

    Example:
        >>> ExplainConfig.of(["saliency", "cam"], classes="top2").described()["methods"]
        ['saliency', 'cam']
    """

    methods: tuple[Spec, ...]
    classes: str | tuple[str, ...] = "top1"
    versus: str | None = None
    target: Target | None = None
    layer: str | None = None
    score: Score | None = None
    view: ViewKind = "center"
    scale: Literal["image", "shared"] = "image"
    render: Render = "overlay"
    seed: int = 0
    batch_size: int = 8
    overlay_side: int = OVERLAY_SIDE
    otherwise: tuple[Spec, ...] = ()
    rows: ClassVar[type[Row]] = ExplainRow

    @classmethod
    def of(cls, methods: Sequence[str] = (), **options: Any) -> ExplainConfig:
        """A config from method specs as they are typed; without any grad_cam, or what takes its place."""
        default, *others = (parse_spec(method) for method in DEFAULT_METHODS)
        if not methods:
            return cls((default,), **{"otherwise": () if options.get("layer") else tuple(others), **options})
        return cls(tuple({str(spec): spec for spec in map(parse_spec, methods)}.values()), **options)

    def checked(self, classifier: Prepared) -> ExplainConfig:
        """The same with layer and unit found and classes understood, before anything is computed.

        Raises:
            NotFoundError: for a class or layer that there is not.
            OptionError: for options that do not go together.
        """
        config, labels = self, classifier.labels
        if config.layer is not None:
            layer = "+".join(classifier.layer_name(name) for name in config.layer.split("+"))
            if not any("layer" in entry("attribution", spec.name).options for spec in config.methods):
                raise OptionError(f"--layer {layer}: none of the methods takes a layer; drop it, or add grad_cam, say")
            config = replace(config, layer=layer)
        if config.target is not None:
            if config.versus:
                raise OptionError(f"--{config.target.kind} has no class to be told apart from; drop --versus")
            config = replace(config, target=config.target.found_in(classifier))
        asked = typed_classes(config.classes, labels)
        if config.versus and asked == class_target(config.versus, labels):
            raise OptionError(f"--versus {config.versus}: is the class itself; name another to tell it apart from")
        return config

    def described(self) -> dict[str, Any]:
        """All options that decide what is told, but for the seed, as the manifest of a run has them."""
        options = asdict(replace(self, methods=(), otherwise=()))
        options |= {name: [format_spec(spec) for spec in getattr(self, name)] for name in ("methods", "otherwise")}
        options["unit"] = None
        if self.target is not None:
            options[self.target.kind] = options["target"]
        del options["seed"], options["target"], options["overlay_side"]
        return options

    def asked(self, labels: Labels) -> Target | BestClasses | EachClass:
        """What is explained in each picture, apart from `versus` and `score`."""
        return typed_classes(self.classes, labels) if self.target is None else self.target

    def pictures_at_once(self, classifier: Prepared) -> int:
        """How many pictures make a batch: fewer where each is explained for several classes.

        One alone where a method takes many passes: batches would not be faster, and the first answer late.
        """
        if any(entry("attribution", spec.name).accepts("progress") for spec in self.methods):
            return 1
        return max(1, self.batch_size // self.asked(classifier.labels).count)

    def run(
        self,
        classifier: Prepared,
        items: Sequence[Item],
        *,
        start: int = 0,
        progress: Progress | None = None,
        say: Say | None = None,
        first: bool = False,
    ) -> Iterator[ExplainRow]:
        """A row for each item, in order; a picture that cannot be explained is a row with its error.

        The maps of all items are made before the first row; overlays are drawn when their row is asked for.

        Raises:
            OptionError: of the `first` items, if a method's options make no sense, or the network allows none of the
                methods.
        """
        found = computed(classifier, items, lambda network, group: _explained(self, network, group, progress, say))
        if first:
            self._refuse_what_never_works(classifier, [one.maps for one in found if not isinstance(one, str)])
        for number, (item, result) in enumerate(zip(items, found, strict=True)):
            yield _row(self, classifier.labels, item, picture_folder(start + number, item.path), result)

    def _refuse_what_never_works(
        self, classifier: Prepared, pictures: Sequence[Sequence[tuple[Spec, Target, Outcome]]]
    ) -> None:
        refusal = _never_works(pictures)
        if refusal is not None and classifier.preprocess.size is None and classifier.inputs.of_item is None:
            # The first pictures may be too small for what the next ones take: a usual one is asked as well.
            usual = Item("", "", torch.full((classifier.preprocess.channels, *_USUAL), 0.5))
            (one,) = computed(classifier, [usual], lambda network, group: _explained(self, network, group, None, None))
            refusal = refusal if isinstance(one, str) else _never_works([*pictures, one.maps])
        if refusal is not None:
            raise refusal


@dataclass(frozen=True, eq=False)
class _Explained:
    """What was computed for one picture: what the network says of it, and (method, target, outcome) of each map."""

    predicted: tuple[Prediction, ...]
    seen: tuple[float, float, float, float]
    maps: tuple[tuple[Spec, Target, Outcome], ...]


def _never_works(pictures: Sequence[Sequence[tuple[Spec, Target, Outcome]]]) -> OptionError | None:
    """The refusal of options that make no sense on any of these pictures, and of methods none of which works.

    Where the network allows some, the others say in their rows why it does not.
    """
    failed: dict[str, PhospheneError] = {}
    maps = list(zip(*pictures, strict=True))  # each method and class on every picture
    for on_each in maps:
        errors = [outcome for _, _, outcome in on_each if isinstance(outcome, TYPED_WRONG)]
        if len(errors) == len(on_each):
            failed.setdefault(format_spec(on_each[0][0]), errors[0])
    named = {format_spec(on_each[0][0]) for on_each in maps}
    if len(failed) < len(named):
        failed = {method: error for method, error in failed.items() if not isinstance(error, ModelError)}
    if not failed:
        return None
    reasons = list(dict.fromkeys(map(str, failed.values())))
    if len(reasons) > 1 or len(failed) < len(named):  # say of which method each is
        reasons = [
            f"{method}: {str(why).removeprefix(parse_spec(method).name + ': ')}" for method, why in failed.items()
        ]
    return OptionError("; ".join(reasons))


def _explained(
    config: ExplainConfig, classifier: Prepared, items: Sequence[Item], progress: Progress | None, say: Say | None
) -> Sequence[_Explained | str]:
    """The maps of pictures that the network sees at one size: each method gets all pictures and classes at once."""
    seen = see(classifier, pictures_of(items), config.view)
    logits = forward(seen.classifier, seen.images)
    answers = classifier.probabilities(logits).isfinite().all(dim=1).tolist()  # (-inf rules a class out)
    if not all(answers):
        return answered(items, answers, lambda some: _explained(config, classifier, some, progress, say))
    predictions = classifier.predictions(logits)
    if say is not None:
        for item, best in zip(items, predictions, strict=True):
            say(item, str(best[0]))
    versus = class_target(config.versus, classifier.labels) if config.versus else None
    target, count = of_each(config.asked(classifier.labels), logits, versus, config.score)
    copies = seen.repeated(count)
    outcomes = []
    for spec in config.methods:
        outcomes.append(_answers(config, copies, target, spec, count, progress))
        if say is not None and len(items) == 1 and len(config.methods) > 1:
            say(items[0], _told(spec, outcomes[-1]))
    found = []
    for number, (predicted, view) in enumerate(zip(predictions, seen.views, strict=True)):
        rows = range(number * count, (number + 1) * count)
        own = logits[number : number + 1]
        maps = tuple(
            (spec, target.rows(row, row + 1), _with_classes(outcome, classifier, own))
            for results in outcomes
            for row in rows
            for spec, outcome in [results[row]]
        )
        found.append(_Explained(tuple(predicted), view.box, maps))
    return found


def _told(spec: Spec, results: Sequence[tuple[Spec, Outcome]]) -> str:
    """A method that is done, and how long that took, or why it failed."""
    for _, outcome in results:
        if isinstance(outcome, PhospheneError):
            return f"{format_spec(spec)} failed: {outcome}"
    seconds = sum(part.seconds for _, outcome in results if not isinstance(outcome, PhospheneError) for part in outcome)
    return f"{format_spec(spec)}, {seconds:.1f} s"


def _with_classes(outcome: Outcome, classifier: Prepared, logits: Tensor) -> Outcome:
    return (
        outcome
        if isinstance(outcome, PhospheneError)
        else tuple(with_classes(part, classifier, logits) for part in outcome)
    )


def _answers(
    config: ExplainConfig, seen: Seen, target: Target, spec: Spec, count: int, progress: Progress | None
) -> list[tuple[Spec, Outcome]]:
    """(method, outcome) for each picture and class: the method's, or that of another where it says nothing."""
    found = [(spec, outcome) for outcome in _outcomes(config, seen, target, spec, count, progress)]
    for other in config.otherwise:
        for row, (_, outcome) in enumerate(found):
            why = _why_nothing(outcome)
            if why is not None:
                one = seen.rows(row, row + 1)
                (again,) = _outcomes(config, one, target.rows(row, row + 1), other, 1, progress)
                if not isinstance(again, PhospheneError) and _why_nothing(again) is None:
                    note = in_the_place_of(format_spec(other), format_spec(spec), why)
                    found[row] = other, tuple(replace(part, notes=(note, *part.notes)) for part in again)
    return found


def _why_nothing(outcome: Outcome) -> str | None:
    return str(outcome) if isinstance(outcome, PhospheneError) else says_nothing(outcome[-1])


def _within(progress: Progress, first: int, count: int, total: int) -> Progress:
    """Tells of `count` maps, of which the first is one of `total`, how far all are."""

    def told(done: int, of: int, text: str) -> None:
        progress(of * first // count + done, of * total // count, text)

    return told


def _outcomes(
    config: ExplainConfig, seen: Seen, target: Target, spec: Spec, count: int, progress: Progress | None
) -> list[Outcome]:
    """One outcome for each picture and class; what fails for all is tried for each picture by itself."""
    label, total = format_spec(spec), len(seen.pictures)
    if count == total > _MAPS_AT_ONCE:  # (the classes of one picture: `--class top300`)
        found: list[Outcome] = []
        for first in range(0, total, _MAPS_AT_ONCE):
            rows = first, min(first + _MAPS_AT_ONCE, total)
            tells_itself = entry("attribution", spec.name).accepts("progress")
            inner = _within(progress, first, rows[1] - first, total) if progress is not None and tells_itself else None
            found += _outcomes(config, seen.rows(*rows), target.rows(*rows), spec, rows[1] - first, inner)
            if progress is not None and not tells_itself:
                progress(len(found), total, label)
        return found
    options: dict[str, Any] = {"seed": config.seed}
    if "layer" in entry("attribution", spec.name).options:
        options["layer"] = config.layer
    if progress is not None:
        options["progress"] = lambda done, total: progress(done, total, label)
    try:
        if target.sides:
            parts: tuple[Attribution, ...] = attribute_sides(seen, target, spec, **options)
        else:
            parts = (attribute_seen(seen, target, spec, **options),)
    except PhospheneError as error:
        if total == count:
            # (without what it was raised in, which holds tensors)
            error.__cause__ = error.__context__ = error.__traceback__ = None
            return [error] * count
        singles = [(row, row + count) for row in range(0, total, count)]
        return [
            outcome
            for first, last in singles
            for outcome in _outcomes(
                config,
                seen.rows(first, last),
                target.rows(first, last),
                spec,
                count,
                progress,
            )
        ]
    return [tuple(part[row] for part in parts) for row in range(len(seen.pictures))]


def _row(config: ExplainConfig, labels: Labels, item: Item, folder: str, result: _Explained | str) -> ExplainRow:
    row = ExplainRow(item.key, item.path, label=item.label, columns=dict(item.columns) or None)
    if isinstance(result, str) or item.picture is None:
        return replace(row, status="error", error=str(result))
    picture = item.picture
    maps: list[MapRow] = []
    for spec, target, outcome in result.maps:
        if isinstance(outcome, PhospheneError):
            maps.append(failed_row(spec, target, labels, str(outcome)))
        else:
            maps.append(map_row(folder, picture, spec, target, outcome, labels, config.render, config.overlay_side))
    shown = Asset(f"{folder}/picture.jpg", thumbnail(picture, REPORT_SIDE), {"quality": 90})
    return replace(
        row,
        predicted=result.predicted,
        maps=tuple(maps),
        size=picture_size(picture),
        seen=result.seen,
        picture=shown if config.overlay_side else None,
    )
