"""explain: pictures and a classifier in, attributions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier, ViewKind
from phosphene.devices import clock
from phosphene.errors import ModelError, OptionError, warn
from phosphene.graph import LayerName
from phosphene.images import Picture, as_pictures
from phosphene.registry import Entry, Spec, entry, format_spec, parse_spec
from phosphene.runtime import Prepared, forward, prepare
from phosphene.runtime.micro_batches import usual_size
from phosphene.runtime.prepare import Precision
from phosphene.targets import BestClasses, Target, TargetLike, resolve, resolve_one
from phosphene.tasks.notebook import told
from phosphene.types import Attribution, Attributions, Contrast, Prediction, View, seed_number
from phosphene.zoo import load_classifier

# What is explained by unless a method is named: the first that says something of the pictures.
DEFAULT_METHODS = ("grad_cam", "saliency", "occlusion")
# Of the largest value: two maps that differ by no more are the same.
_SAME = 1e-5

Progress = Callable[[int, int], None]


@overload
def explain(
    classifier: Classifier | nn.Module | str,
    images: Any,
    method: str | Spec | None = ...,
    *,
    target: TargetLike = ...,
    layer: LayerName | None = ...,
    view: ViewKind = ...,
    precision: Precision | None = ...,
    seed: int = ...,
    batch_size: int | None = ...,
    progress: Progress | None = ...,
) -> Attribution: ...


@overload
def explain(
    classifier: Classifier | nn.Module | str,
    images: Any,
    method: list[str | Spec] | list[str] | tuple[str | Spec, ...],
    *,
    target: TargetLike = ...,
    layer: LayerName | None = ...,
    view: ViewKind = ...,
    precision: Precision | None = ...,
    seed: int = ...,
    batch_size: int | None = ...,
    progress: Progress | None = ...,
) -> Attributions: ...


def explain(
    classifier: Classifier | nn.Module | str,
    images: Any,
    method: str | Spec | list[str | Spec] | list[str] | tuple[str | Spec, ...] | None = None,
    *,
    target: TargetLike = None,
    layer: LayerName | None = None,
    view: ViewKind = "center",
    precision: Precision | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Attribution | Attributions:
    """Why the classifier says what it says about one or many pictures.

    Args:
        classifier: a Classifier, a network, or a spec for load_classifier such as "embedded".
        images: a path, PIL image, array (H, W, C) or tensor (C, H, W) or (N, C, H, W), or a sequence of them;
            floats in [0, 1].
        method: a method spec such as "occlusion:window=20,stride=10", or several of them; None for grad_cam, or
            for saliency, or occlusion, where that does not run on the network or says nothing, with a warning.
        target: a class (index, WordNet id or name), one class per picture, or a Target; None explains each
            picture's best class.
        layer: for methods that look at a layer: its dotted name or the module itself; None for the default.
        view: "center" as the network was trained, or "whole" for the entire frame.
        precision: "exact" or "fast".
        seed: of the methods that draw random numbers.
        batch_size: images per pass; None chooses.
        progress: called with (steps done, steps in all) by methods of many passes; None shows a bar in notebooks.

    Returns:
        The Attribution of all pictures, or for several methods Attributions: one for each spec, by position or by the
        spec as it was given. Methods share what passes they can; `seconds` counts a shared pass where it ran, in the
        first method that needs it.

    Raises:
        InputError: for a picture that cannot be read.
        NotFoundError: for an unknown method, class or layer, with the nearest names.
        OptionError: for a method that does not take a layer, or targets that do not fit the pictures.

    Example:
        >>> from skimage.data import chelsea
        >>> result = explain("embedded", chelsea(), "grad_cam")
        >>> load_classifier("embedded").labels[result.target.classes[0]]
        'tiger cat'
        >>> result.maps.shape
        torch.Size([1, 7, 7])
    """
    progress = told(progress)
    if method is None and layer is None:
        seen, goal, logits = _asked(classifier, images, target, view, precision, batch_size)
        result = _by_default(seen, goal, seed=seed, batch_size=batch_size, progress=progress)
        return with_classes(result, seen.classifier, logits)
    method = DEFAULT_METHODS[0] if method is None else method
    # (Named twice in the same words it is asked for once.)
    specs = {str(spec): parse_spec(spec) for spec in (method if isinstance(method, list | tuple) else [method])}
    if not specs:
        raise OptionError("no method was given; name at least one, such as 'grad_cam'")
    seen, goal, logits = _asked(classifier, images, target, view, precision, batch_size)
    options: dict[str, Any] = {"layer": layer, "seed": seed, "batch_size": batch_size, "progress": progress}
    results = tuple(
        with_classes(attribute_seen(seen, goal, spec, **options), seen.classifier, logits) for spec in specs.values()
    )
    if not isinstance(method, list | tuple):
        return results[0]
    return Attributions(tuple(specs), results)


def _by_default(seen: Seen, target: Target, **options: Any) -> Attribution:
    """The Attribution of the first default method that says something of any of the pictures."""
    ran: list[Attribution] = []
    refusals: list[ModelError] = []
    first_why = ""
    for method in DEFAULT_METHODS:
        try:
            found = attribute_seen(seen, target, method, **options)
        except ModelError as error:
            refusals.append(error)
            first_why = first_why or str(error)
            continue
        whys = [says_nothing(found, row) for row in range(len(found))]
        if None in whys:
            if not first_why:
                return found
            note = in_the_place_of(method, DEFAULT_METHODS[0], first_why)
            warn(note)
            return replace(found, notes=(note, *found.notes))
        ran.append(found)
        first_why = first_why or str(whys[0])
    if not ran:
        raise refusals[0]
    return ran[0]


def says_nothing(result: Attribution, row: int = 0) -> str | None:
    """Why the map of one image tells no place from another; None if it does.

    Example:
        >>> one = Attribution(torch.ones(1, 2, 2), Target.of(0), torch.zeros(1), "cam", (1.0,) * 2, (2.0,) * 2, (4, 4))
        >>> says_nothing(one)
        'the map is the same everywhere'
    """
    problem = result.problems[row] if result.problems else None
    if problem is None:
        low, high = result.heat[row].aminmax()
        if float(high - low) <= 1e-6 * max(abs(float(low)), abs(float(high))):
            return "the map is the same everywhere"
    return problem


def in_the_place_of(method: str, other: str, why: str) -> str:
    """What is said where one method had to take the place of another."""
    return f"{method} in the place of {other}: {why}"


def contrast(
    classifier: Classifier | nn.Module | str,
    images: Any,
    target: TargetLike,
    versus: int | str | Sequence[int | str],
    method: str | Spec = "grad_cam",
    *,
    layer: LayerName | None = None,
    view: ViewKind = "center",
    precision: Precision | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Contrast:
    """Why the one class and not the other: the maps of both, and of the difference of their scores.

    The third is the difference of the first two for methods linear in the score (CAM, Grad-CAM, input x gradient,
    integrated gradients); for the others it is a map of its own. `draw` shows all three with one color scale, in two
    colors where the method is signed.

    Args:
        classifier: a Classifier, a network, or a spec for load_classifier such as "embedded".
        images: one or many pictures, as for explain.
        target: the class (index, WordNet id or name), or one per picture; None for each picture's best class.
        versus: the class to tell apart from, or one per picture.
        method: a method spec.
        layer: as for explain, and so are view, precision, seed, batch_size and progress.
        view: "center" or "whole".
        precision: "exact" or "fast".
        seed: of the methods that draw random numbers.
        batch_size: images per pass; None chooses.
        progress: called with (steps done, steps in all) by methods of many passes.

    Returns:
        The Contrast of all pictures; it shows itself in notebooks.

    Raises:
        InputError: for a picture that cannot be read.
        NotFoundError: for an unknown method, class or layer, with the nearest names.
        OptionError: for a unit, or targets that do not fit the pictures.

    Example:
        >>> from skimage.data import chelsea
        >>> result = contrast("embedded", chelsea(), "tabby", "Egyptian cat", "cam")
        >>> result.labels
        (('tabby', 'Egyptian cat'),)
        >>> torch.allclose(result.one.maps - result.other.maps, result.difference.maps, atol=1e-4)
        True
    """
    known, progress = load_classifier(classifier), told(progress)
    if versus is None:
        raise OptionError("contrast: versus is None; name the class to tell apart from")
    other = resolve(versus, known.labels)
    seen, one, logits = _asked(known, images, target, view, precision, batch_size)
    if not isinstance(other, Target):
        raise OptionError(f"contrast: versus is the best class of each picture ({versus}); name a class")
    both = one.against(other.expand(len(seen.pictures)))
    for mine, theirs in zip(both.classes, both.versus, strict=True):
        if mine == theirs:
            raise OptionError(f"contrast: {known.labels[mine]} is told apart from itself; name another class")
    options: dict[str, Any] = {"layer": layer, "seed": seed, "batch_size": batch_size, "progress": progress}
    sides = attribute_sides(seen, both, method, **options)
    one_map, other_map, difference = (with_classes(part, seen.classifier, logits) for part in sides)
    labels = zip(*([known.labels[index] for index in classes] for classes in (both.classes, both.versus)), strict=True)
    return Contrast(one_map, other_map, difference, tuple(labels))


def _asked(
    classifier: Classifier | nn.Module | str,
    images: Any,
    target: TargetLike,
    view: ViewKind,
    precision: Precision | None,
    batch_size: int | None,
) -> tuple[Seen, Target, Tensor | None]:
    """The pictures as the network sees them, a class for each of them or a unit, and (N, K) logits unless it is one."""
    prepared = prepare(load_classifier(classifier), precision=precision)
    pictures = as_pictures(images, **prepared.preprocess.reading)
    asked = resolve_one(target, prepared.labels)
    usual_size(batch_size, prepared.device)  # refuses a size that makes no sense
    seen = see(prepared, pictures, view)
    if isinstance(asked, Target) and not asked.classes:
        return seen, asked.found_in(prepared).expand(len(pictures)), None
    logits = forward(seen.classifier, seen.images, batch_size=batch_size)
    return seen, asked.expand(len(pictures)) if isinstance(asked, Target) else asked.one_of_each(logits), logits


def decided(
    asked: Target | BestClasses, classifier: Classifier, images: Tensor, batch_size: int | None = None
) -> Target:
    """A target for each of the images, by their logits where their best classes are meant."""
    if isinstance(asked, Target):
        return asked.expand(len(images))
    return asked.one_of_each(forward(classifier, images, batch_size=batch_size))


def with_classes(result: Attribution, classifier: Classifier, logits: Tensor | None) -> Attribution:
    """The Attribution with what the network says of the classes that it explains.

    Args:
        result: of N images.
        classifier: whose class names are taken.
        logits: (N, K) of these images; None for none, and so of a class that there is not.
    """
    classes = result.target.classes
    if logits is None or not classes or max(classes) >= logits.shape[1]:
        return result
    picked = classifier.probabilities(logits.float()).gather(1, torch.tensor(classes, device=logits.device)[:, None])
    values = picked[:, 0].tolist() if classifier.head != "score" else [float("nan")] * len(classes)
    named = [(index, classifier.labels[index], value) for index, value in zip(classes, values, strict=True)]
    return replace(result, explained=tuple(Prediction(*one) for one in named))


@dataclass(frozen=True, eq=False)
class Seen:
    """Pictures as a network sees them.

    Args:
        classifier: runs the passes that several methods need of these images once.
        pictures: as they were given.
        views: the part of each that the network sees.
        images: (N, C, H, W) in [0, 1], what it sees.
        kind: of the views.
    """

    classifier: Prepared
    pictures: tuple[Picture, ...]
    views: tuple[View, ...]
    images: Tensor
    kind: ViewKind

    def repeated(self, count: int) -> Seen:
        """Each picture `count` times in a row, for as many classes."""
        if count == 1:
            return self
        # (N, K, C, H, W) to (N * K, C, H, W); of one picture that is no copy
        images = self.images[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        return Seen(
            self.classifier.remembering(images),
            tuple(picture for picture in self.pictures for _ in range(count)),
            tuple(view for view in self.views for _ in range(count)),
            images,
            self.kind,
        )

    def rows(self, start: int, stop: int) -> Seen:
        """The pictures from `start` to `stop` by themselves."""
        images = self.images[start:stop]
        classifier = self.classifier.remembering(images)
        return Seen(classifier, self.pictures[start:stop], self.views[start:stop], images, self.kind)


def see(classifier: Prepared, pictures: Sequence[Picture], kind: ViewKind = "center") -> Seen:
    """The pictures as the network sees them.

    Raises:
        OptionError: for pictures of several sizes, where the network takes any.
    """
    views = classifier.views(pictures, kind)
    images = classifier.preprocessed(pictures, views)
    return Seen(classifier.remembering(images), tuple(pictures), views, images, kind)


def attribute_seen(seen: Seen, target: Target, method: str | Spec, **options: Any) -> Attribution:
    """The Attribution of one method with views and pictures, seen anew where the method needs a view of its own.

    Args:
        seen: the pictures.
        target: a class for each picture, or a unit.
        method: a method spec.
        **options: of `attribute`.
    """
    spec = parse_spec(method)
    kind = needed_view(spec, seen.kind)
    views = seen.views if kind == seen.kind else seen.classifier.views(seen.pictures, kind)
    images = seen.images if kind == seen.kind else seen.classifier.preprocessed(seen.pictures, views)
    return replace(attribute(seen.classifier, images, target, spec, **options), views=views, pictures=seen.pictures)


def attribute_sides(
    seen: Seen, target: Target, method: str | Spec, **options: Any
) -> tuple[Attribution, Attribution, Attribution]:
    """Of a class versus another: what speaks for the one, for the other, and for the difference of their scores.

    They are to be looked at together: where the method is signed all three are shown in two colors.

    Raises:
        OptionError: if all three are the same, as those of methods that do not look at the score.
    """
    parts = [attribute_seen(seen, goal, method, **options) for goal in (*target.sides, target)]
    if all(_same_maps(parts[0], part) for part in parts[1:]):
        raise OptionError(
            f"{parse_spec(method).name} gives the same map for both classes and for their difference: it shows what "
            "the network sees and tells no class from another; use grad_cam"
        )
    one, other, difference = (
        replace(part, display="signed" if part.signed and part.display == "positive" else part.display)
        for part in parts
    )
    return one, other, difference


def _same_maps(one: Attribution, other: Attribution) -> bool:
    """Whether two maps are the same and not zero."""
    most = one.maps.abs().amax()
    return bool(most > 0) and bool((one.maps - other.maps).abs().amax() <= _SAME * most)


def needed_view(spec: Spec, view: ViewKind) -> ViewKind:
    """The view a configured method has to see: its own if it needs a special one, else the one asked for."""
    rule = entry("attribution", spec.name).traits.get("view")
    special: ViewKind | None = rule(spec.keywords) if rule else None
    return special or view


def attribute(
    classifier: Classifier | nn.Module | str,
    images: Tensor,
    target: TargetLike = None,
    method: str | Spec = "grad_cam",
    *,
    layer: LayerName | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Attribution:
    """The Attribution of one method for a tensor of images that already are what the network sees.

    Nothing is resized, cropped or checked for its range; of `Classifier.of` it is the network's own input.

    Args:
        classifier: a Classifier, a spec for load_classifier such as "embedded", or a bare network (`Classifier.of` it).
        images: (N, C, H, W), in [0, 1] unless the classifier takes normalized input.
        target: a class (index, WordNet id or name), one per image, or a Target; None for each image's best class.
        method: a method spec.
        layer: for methods that look at a layer: its dotted name or the module itself; None for the default.
        seed: of the methods that draw random numbers.
        batch_size: images per pass; None chooses.
        progress: called with (steps done, steps in all) by methods of many passes.

    Returns:
        The Attribution; `maps` is the raw tensor on the method's own grid, `upsampled()` one value per pixel.

    Raises:
        OptionError: if a layer is given to a method that looks at none, or images of another shape.
        NotFoundError: for an unknown method, class or layer, with the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> result = attribute(Classifier.of(net), torch.randn(2, 3, 8, 8), 1, "cam")
        >>> result.maps.shape, result.upsampled().shape
        (torch.Size([2, 6, 6]), torch.Size([2, 8, 8]))
    """
    if isinstance(classifier, nn.Module):
        classifier = Classifier.of(classifier)
    classifier = classifier if isinstance(classifier, Classifier) else load_classifier(classifier)
    spec = parse_spec(method)
    classifier.check_images(images)
    _check_numbers(images)
    images = images.resolve_neg()  # (what a view of complex numbers puts off)
    goal = resolve_one(target, classifier.labels)
    if not isinstance(goal, Target):
        goal = decided(goal, classifier, images, batch_size)
    elif not goal.classes:
        goal = goal.found_in(prepare(classifier))
    found = entry("attribution", spec.name)
    keywords: dict[str, Any] = spec.keywords
    seed = seed_number(seed)
    if layer is not None and "layer" not in keywords:
        if "layer" not in found.options:
            raise OptionError(f"{spec.name} takes no layer; drop it, or choose a method that does, such as grad_cam")
        keywords["layer"] = layer
    keywords |= _call_arguments(found, seed, batch_size, progress)
    start = clock(classifier.device)
    if classifier.preprocess.size is None:
        classifier = prepare(classifier).for_images(images)
    result = found.function(classifier, images, goal, **keywords)
    if not isinstance(result, Attribution):
        raise OptionError(
            f"method '{spec.name}' returned a {type(result).__name__}; let it return "
            "phosphene.attribution.result.attribution(maps, images, target, score)"
        )
    seconds = (clock(classifier.device) - start) / len(images)
    if not found.traits.get("wraps"):  # a method that wraps another has the sign of that one
        result = replace(result, signed=found.signed, display=found.display)
    notes = (*result.notes, *prepare(classifier).notes_on(result.layer))
    return replace(result, spec=format_spec(spec), seconds=seconds, notes=notes)


def _call_arguments(found: Entry, seed: int, batch_size: int | None, progress: Progress | None) -> dict[str, Any]:
    """What a method takes of the arguments that steer a call."""
    if progress is not None and not callable(progress):
        raise OptionError(f"progress={progress!r} is called with (steps done, steps in all); give a function, or None")
    arguments: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    if found.accepts("generator"):
        arguments["generator"] = torch.Generator().manual_seed(seed)
    return {name: value for name, value in arguments.items() if value is not None and found.accepts(name)}


def _check_numbers(images: Tensor) -> None:
    """Refuse images that hold what is no number; once, as whoever asks waits for the device.

    Some fast ways to run a network take it for zero, as a maximum with 0 may.
    """
    values = images if images.element_size() > 1 else images.float()  # (of eight bits nothing can be asked)
    if values.is_floating_point() and not bool(values.isfinite().all()):
        count = int((~values.isfinite()).sum())
        raise OptionError(f"images with {count} values that are NaN or infinite; replace them first")
