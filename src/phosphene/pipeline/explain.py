"""explain: pictures and a classifier in, attributions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from torch import Tensor

import phosphene.attribution  # noqa: F401  (registers the methods)
from phosphene.classifier import Classifier, ViewKind
from phosphene.devices import clock
from phosphene.errors import OptionError
from phosphene.graph import LayerName
from phosphene.images import as_pictures
from phosphene.registry import Entry, Spec, entry, format_spec, parse_spec
from phosphene.runtime import forward, prepare
from phosphene.runtime.micro_batches import usual_size
from phosphene.runtime.prepare import Precision
from phosphene.types import Attribution, Contrast, Target, Unit, class_list, seed_number
from phosphene.zoo import load_classifier

Progress = Callable[[int, int], None]
TargetLike = Target | Unit | int | str | Sequence[int | str] | None


@overload
def explain(
    classifier: Classifier | str,
    images: Any,
    method: str | Spec = ...,
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
    classifier: Classifier | str,
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
) -> dict[str, Attribution]: ...


def explain(
    classifier: Classifier | str,
    images: Any,
    method: str | Spec | list[str | Spec] | list[str] | tuple[str | Spec, ...] = "grad_cam",
    *,
    target: TargetLike = None,
    layer: LayerName | None = None,
    view: ViewKind = "center",
    precision: Precision | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Attribution | dict[str, Attribution]:
    """Why the classifier says what it says about one or many pictures.

    Args:
        classifier: a Classifier, or a spec for load_classifier such as "embedded".
        images: a path, PIL image, array (H, W, C) or tensor (C, H, W) or (N, C, H, W), or a sequence of them;
            floats in [0, 1].
        method: a method spec such as "occlusion:window=20,stride=10", or several of them.
        target: a class (index, WordNet id or name), one class per picture, or a Target; None explains each
            picture's best class.
        layer: for methods that look at a layer: its dotted name or the module itself; None for the default.
        view: "center" as the network was trained, or "whole" for the entire frame.
        precision: "exact" or "fast".
        seed: of the methods that draw random numbers.
        batch_size: images per pass; None chooses.
        progress: called with (steps done, steps in all) by methods of many passes.

    Returns:
        The Attribution of all pictures, or for several methods one per spec. Methods share what passes they can;
        `seconds` counts a shared pass where it ran, in the first method that needs it.

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
    prepared = prepare(load_classifier(classifier), precision=precision)
    pictures = as_pictures(images, prepared.preprocess.channels)
    goal = resolve_target(prepared, target)
    usual_size(batch_size, prepared.device)  # refuses a size that makes no sense
    specs = [parse_spec(spec) for spec in (method if isinstance(method, list | tuple) else [method])]
    if not specs:
        raise OptionError("no method was given; name at least one, such as 'grad_cam'")
    views = prepared.views(pictures, view)
    images = prepared.look(pictures, views)
    results: dict[str, Attribution] = {}
    prepared = prepared.remembering(images)
    if goal is None:
        goal = Target.of(forward(prepared, images, batch_size=batch_size).argmax(dim=1))
    goal = goal.expand(len(pictures))
    for spec in specs:
        kind = needed_view(spec, view)
        own_views = views if kind == view else prepared.views(pictures, kind)
        own_images = images if kind == view else prepared.look(pictures, own_views)
        result = attribute(
            prepared, own_images, goal, spec, layer=layer, seed=seed, batch_size=batch_size, progress=progress
        )
        results[format_spec(spec)] = replace(result, views=own_views, pictures=tuple(pictures))
    return next(iter(results.values())) if isinstance(method, str | Spec) else results


def contrast(
    classifier: Classifier | str,
    images: Any,
    target: TargetLike,
    versus: int | str | Sequence[int | str],
    method: str | Spec = "grad_cam",
    **options: Any,
) -> Contrast:
    """Why the one class and not the other: the maps of both, and of the difference of their scores.

    The third is the difference of the first two for methods linear in the score (CAM, Grad-CAM, input x gradient,
    integrated gradients); for the others it is a map of its own. `draw` shows all three with one color scale, in two
    colors where the method is signed.

    Args:
        classifier: a Classifier, or a spec for load_classifier such as "embedded".
        images: one or many pictures, as for explain.
        target: the class (index, WordNet id or name), or one per picture; None for each picture's best class.
        versus: the class to tell apart from, or one per picture.
        method: a method spec.
        **options: layer, view, precision, seed, batch_size and progress of explain.

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
    known = load_classifier(classifier)
    pictures = as_pictures(images, known.preprocess.channels)
    other = resolve_target(known, versus)
    if other is None:
        raise OptionError("contrast: versus is None; name the class to tell apart from")
    one = explain(known, pictures, method, target=target, **options)
    both = Target(one.target.classes, other.expand(len(pictures)).classes, one.target.unit, one.target.score)
    for mine, theirs in zip(both.classes, both.versus, strict=True):
        if mine == theirs:
            raise OptionError(f"contrast: {known.labels[mine]} is told apart from itself; name another class")
    parts = (one, *(explain(known, pictures, method, target=goal, **options) for goal in (both.sides[1], both)))
    one, rest, difference = (replace(part, display="signed" if part.signed else "positive") for part in parts)
    labels = zip(*([known.labels[index] for index in classes] for classes in (both.classes, both.versus)), strict=True)
    return Contrast(one, rest, difference, tuple(labels))


def resolve_target(classifier: Classifier, target: TargetLike) -> Target | None:
    """A Target from an index, a class name, several of them, or None for the best class of each picture."""
    if target is None or isinstance(target, Target):
        return target
    if isinstance(target, Unit):
        return Target(unit=target)
    return Target.of([classifier.labels.find(item) for item in class_list(target)])


def needed_view(spec: Spec, view: ViewKind) -> ViewKind:
    """The view a configured method has to see: its own if it needs a special one, else the one asked for."""
    rule = entry("attribution", spec.name).traits.get("view")
    special: ViewKind | None = rule(spec.keywords) if rule else None
    return special or view


def attribute(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    method: str | Spec,
    *,
    layer: LayerName | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Attribution:
    """The Attribution of one method for images (N, C, H, W) that already are what the network sees.

    Raises:
        OptionError: if a layer is given to a method that looks at none.
    """
    spec = parse_spec(method)
    found = entry("attribution", spec.name)
    keywords: dict[str, Any] = spec.keywords
    seed = seed_number(seed)
    if layer is not None and "layer" not in keywords:
        if "layer" not in found.options:
            raise OptionError(f"{spec.name} looks at no layer; drop the layer, or choose a method such as grad_cam")
        keywords["layer"] = layer
    keywords |= _call_arguments(found, seed, batch_size, progress)
    start = clock(classifier.device)
    result: Attribution = found.function(classifier, images, target, **keywords)
    seconds = (clock(classifier.device) - start) / len(images)
    if not found.traits.get("wraps"):  # a method that wraps another has the sign of that one
        result = replace(result, signed=found.signed, display=found.display)
    notes = (*result.notes, *prepare(classifier).notes)
    return replace(result, spec=format_spec(spec), seconds=seconds, notes=notes)


def _call_arguments(found: Entry, seed: int, batch_size: int | None, progress: Progress | None) -> dict[str, Any]:
    """What a method takes of the arguments that steer a call."""
    arguments: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    if found.accepts("generator"):
        arguments["generator"] = torch.Generator().manual_seed(seed)
    return {name: value for name, value in arguments.items() if value is not None and found.accepts(name)}
