"""The run behind `phosphene explain`: pictures x classes x methods -> maps, overlays, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from phosphene.classifier import Labels, ViewKind
from phosphene.errors import InputError, ModelError, OptionError, PhospheneError
from phosphene.images import Picture, expand_paths, picture_size, read_image
from phosphene.pipeline import attribute, no_answer
from phosphene.pipeline.explain import needed_view
from phosphene.registry import Spec, entry, format_spec, parse_spec
from phosphene.render import (
    Scale,
    colorbar,
    contrast_labels,
    contrast_sheet,
    laid_layer,
    overlay,
    reconstruction_picture,
    scale_of,
    shared_scale,
    thumbnail,
)
from phosphene.runs.session import Common, Session, keep_inputs, run_name
from phosphene.runtime import Prepared, forward
from phosphene.store import file_stem, without_nan
from phosphene.types import Attribution, Score, Target, Unit, View

# Overlays are for looking at; larger ones only make files heavy. The raw maps are kept whole.
_OVERLAY_SIDE = 2048
_REPORT_SIDE = 640


@dataclass(frozen=True)
class Question:
    """What `explain` was asked: which methods, of which classes or unit, seen how, colored how."""

    methods: tuple[Spec, ...]
    classes: str = "top1"
    versus: str | None = None
    unit: Unit | None = None
    layer: str | None = None
    score: Score | None = None
    view: ViewKind = "center"
    scale: Literal["image", "shared"] = "image"

    @classmethod
    def of(cls, methods: Sequence[str] = (), **options: Any) -> Question:
        """A question from method specs as they are typed; without any it is grad_cam."""
        return cls(tuple(parse_spec(method) for method in methods or ("grad_cam",)), **options)


def explain_files(paths: Sequence[str], question: Question, common: Common) -> dict[str, Any]:
    """Explain pictures from files; a broken picture becomes a row with its error, the others are done.

    Returns:
        The JSON answer of the command: {"run", "report", "images": [...]}.

    Raises:
        PhospheneError: for what concerns the whole run: options, model, output folder.
    """
    classifier = common.load()
    question = checked(question, classifier)
    files = expand_paths(paths)
    if not files:
        raise InputError("no pictures were given; pass at least one")
    keep_inputs(common, files)
    options = {**asdict(replace(question, methods=())), "methods": [str(spec) for spec in question.methods]}
    session = Session.start("explain", common, classifier, **options)
    rows: list[dict[str, Any]] = []
    try:
        for index, path in enumerate(files):
            common.announce(index, len(files), path.name)
            rows.append(_explained(session, question, run_name(index, path), str(path)))
    except KeyboardInterrupt:
        session.finish(complete=False, images=rows)
        raise
    if question.scale == "shared":
        _color_alike(session, rows)
    return session.finish(images=rows)


def checked(question: Question, classifier: Prepared) -> Question:
    """The question with layer and unit found and classes understood, before anything is computed."""
    if question.layer is not None:
        layer = "+".join(classifier.layer_name(name) for name in question.layer.split("+"))
        if not any("layer" in entry("attribution", spec.name).options for spec in question.methods):
            raise OptionError(f"--layer {layer}: none of the methods looks at a layer; drop it or add a method")
        question = replace(question, layer=layer)
    if question.unit is not None:
        if question.versus:
            raise OptionError("--unit has no class to be told apart from; drop --versus")
        question = replace(question, unit=replace(question.unit, layer=classifier.layer_name(question.unit.layer)))
    if best_count(question.classes, classifier.labels) is None:
        classifier.labels.find(question.classes)
    if question.versus:
        other = classifier.labels.find(question.versus)
        if (
            best_count(question.classes, classifier.labels) is None
            and classifier.labels.find(question.classes) == other
        ):
            raise OptionError(f"--versus {question.versus}: is the class itself; name another to tell it apart from")
    return question


def best_count(classes: str, labels: Labels) -> int | None:
    """K of 'topK', or None if it is a class, by this very name too."""
    if classes in labels.names:
        return None
    tail = classes.removeprefix("top")
    if tail != classes and tail.isascii() and tail.isdigit():
        if int(tail) < 1:
            raise OptionError(f"--class {classes}: top1 is the smallest")
        return int(tail)
    return None


def _explained(session: Session, question: Question, name: str, path: str) -> dict[str, Any]:
    row: dict[str, Any] = {"path": path, "status": "ok", "error": None, "predicted": [], "maps": []}
    try:
        classifier = session.classifier
        picture = read_image(path, classifier.preprocess.channels)
        views = classifier.views([picture], question.view)
        images = classifier.preprocessed([picture], views)
        classifier = classifier.remembering(images)
        logits = forward(classifier, images)
    except PhospheneError as error:
        # A network of any size may refuse one picture and take the next.
        own = isinstance(error, ModelError) and session.classifier.preprocess.size is None
        if not (own or isinstance(error, InputError)):
            raise
        return {**row, "status": "error", "error": str(error)}
    if not bool(logits.isfinite().all()):
        return {**row, "status": "error", "error": no_answer(path).error}
    row["predicted"] = [asdict(prediction) for prediction in classifier.predictions(logits)[0]]
    row["size"] = list(picture_size(picture))
    row["seen"] = list(views[0].box)
    row["picture"] = session.folder.save_image(f"{name}/picture.jpg", thumbnail(picture, _REPORT_SIDE), quality=90)
    target = _target(question, classifier, logits)
    copies = _copies(images, target)
    classifier = classifier if copies is images else classifier.remembering(copies)
    for spec in question.methods:
        row["maps"] += _maps(session, classifier, question, name, picture, copies, spec, target)
    return row


def _copies(image: Tensor, target: Target) -> Tensor:
    """One copy of an image for each class; for one class the image itself, whose passes are known."""
    count = max(1, len(target.classes))
    return image if count == 1 else image.expand(count, -1, -1, -1)


def _target(question: Question, classifier: Prepared, logits: Tensor) -> Target:
    if question.unit is not None:
        return Target(unit=question.unit, score=question.score)
    best = best_count(question.classes, classifier.labels)
    versus = (classifier.labels.find(question.versus),) if question.versus else ()
    if best is None:
        classes = (classifier.labels.find(question.classes),)
    else:  # the best classes but the one they are told apart from
        ranked = logits[0].argsort(descending=True, stable=True).tolist()
        classes = tuple([index for index in ranked if index not in versus][:best])
    return Target(classes, versus, score=question.score)


def _maps(
    session: Session,
    classifier: Prepared,
    question: Question,
    name: str,
    picture: Picture,
    copies: Tensor,
    spec: Spec,
    target: Target,
) -> list[dict[str, Any]]:
    """One row per class: the picture is shown to the method once for each class, in one batch."""
    common = session.common
    count = max(1, len(target.classes))
    kind = needed_view(spec, question.view)
    view = classifier.views([picture], kind)[0]
    images = copies if kind == question.view else _copies(classifier.preprocessed([picture], [view]), target)
    layer = question.layer if "layer" in entry("attribution", spec.name).options else None
    label = format_spec(spec)

    def announce(done: int, total: int) -> None:
        common.announce(done, total, f"{name} {label}")

    target = target.expand(count)
    goals = (*target.sides, target) if target.versus else (target,)
    try:
        results = [
            attribute(classifier, images, goal, spec, layer=layer, seed=common.seed, progress=announce)
            for goal in goals
        ]
    except PhospheneError as error:
        failure = {"status": "error", "error": str(error)}
        return [{**_identity(spec, target, classifier, index), **failure} for index in range(count)]
    save = partial(_saved, session, name, picture, view, spec)
    return [save([result[index] for result in results]) for index in range(count)]


def _saved(
    session: Session, name: str, picture: Picture, view: View, spec: Spec, results: Sequence[Attribution]
) -> dict[str, Any]:
    """The row of one map; of a class versus another with the maps of both beside it, all three by one scale."""
    if len(results) == 1:
        scale = scale_of(results[0].heat[0], results[0].display)
        return _saved_map(session, name, picture, view, results[0], spec, scale)
    results = [replace(result, display="signed" if result.signed else "positive") for result in results]
    scale = shared_scale([scale_of(result.heat[0], result.display) for result in results], "contrast")
    *beside, row = (_saved_map(session, name, picture, view, result, spec, scale) for result in results)
    row["beside"] = beside
    return row | _contrasted(session, row)


def _contrasted(session: Session, row: dict[str, Any]) -> dict[str, Any]:
    """The picture of the three maps side by side, from their overlays."""
    overlays = [Image.open(session.folder.path / shown["overlay"]) for shown in (*row["beside"], row)]
    labels = contrast_labels(*(shown["target"]["label"] for shown in row["beside"]))
    sheet = contrast_sheet(overlays, labels, _scale(row))
    return {"contrast": session.folder.save_image(f"{PurePath(row['map']).with_suffix('')}-contrast.png", sheet)}


def _identity(spec: Spec, target: Target, classifier: Prepared, index: int) -> dict[str, Any]:
    found = entry("attribution", spec.name)
    row: dict[str, Any] = {"method": format_spec(spec), "title": found.title, "layer": None, "score": None}
    row |= {"map": None, "overlay": None, "seconds": None, "caveat": found.caveat}
    if target.unit is not None:
        return {**row, "target": {"index": None, "label": str(target.unit)}}
    chosen = target.classes[index]
    row["target"] = {"index": chosen, "label": classifier.labels[chosen]}
    if target.versus:
        other = target.expand(max(1, len(target.classes))).versus[index]
        row["target"]["versus"] = {"index": other, "label": classifier.labels[other]}
    return row


def _saved_map(
    session: Session, name: str, picture: Picture, view: View, result: Attribution, spec: Spec, scale: Scale
) -> dict[str, Any]:
    """Write one map, its heat layer and its overlay; the row that describes them."""
    row = _identity(spec, result.target, session.classifier, 0)
    problem = result.problems[0]
    stem = f"{name}/{file_stem(format_spec(spec))}-{file_stem(_target_name(row['target']), 40)}"
    row |= {
        "status": "error" if problem else "ok",
        "error": problem,
        "layer": result.layer,
        "score": without_nan(float(result.score[0])),
        "seconds": result.seconds,
        "map": session.folder.save_array(f"{stem}.npy", result.maps[0].cpu().numpy()),
        "grid": {"offset": result.offset, "stride": result.stride, "size": result.size},
        "view": {"original": view.original, "scaled": view.scaled, "crop": view.crop},
        "signed": result.signed,
        "checks": {check: without_nan(values[0]) for check, values in result.checks.items()},
        "notes": list(result.notes),
    }
    if result.evidence is not None:
        row["evidence"] = session.folder.save_array(f"{stem}-evidence.npy", result.evidence[0].cpu().numpy())
    brought_back = reconstruction_picture(result, view, _REPORT_SIDE)
    if brought_back is not None:
        row["reconstruction"] = session.folder.save_image(f"{stem}-reconstruction.png", brought_back)
    return row | _colored(session, stem, picture, view, result, scale)


def _target_name(target: dict[str, Any]) -> str:
    text = target["label"] if target["index"] is None else f"{target['index']}-{target['label']}"
    versus = target.get("versus")
    return f"{text}-versus-{versus['index']}" if versus else str(text)


def _colored(
    session: Session, stem: str, picture: Picture, view: View, result: Attribution, scale: Scale
) -> dict[str, Any]:
    layer = laid_layer(result, view, scale, _OVERLAY_SIDE)
    large = thumbnail(picture, _OVERLAY_SIDE)
    small = layer.resize(thumbnail(picture, _REPORT_SIDE).size, Image.Resampling.BILINEAR)
    return {
        "overlay": session.folder.save_image(f"{stem}.png", overlay(large, layer)),
        "heat": session.folder.save_image(f"{stem}-heat.png", small),
        "colorbar": session.folder.save_image(f"{stem}-scale.png", colorbar(scale)),
        "scale": {**asdict(scale), "text": scale.describe()},
    }


def _color_alike(session: Session, rows: list[dict[str, Any]]) -> None:
    """Color the maps of each method again, by one scale for all images."""
    saved = [(row, shown) for row in rows for shown in row["maps"] if shown.get("scale")]
    done = [(row, part) for row, shown in saved for part in (*shown.get("beside", ()), shown)]
    for method in {shown["method"] for _, shown in done}:
        of_method = [(row, shown) for row, shown in done if shown["method"] == method]
        common = shared_scale([_scale(shown) for _, shown in of_method])
        for row, shown in of_method:
            shown |= _recolored(session, row, shown, common)
    for _, shown in saved:
        if "beside" in shown:
            shown |= _contrasted(session, shown)


def _scale(shown: dict[str, Any]) -> Scale:
    return Scale(**{key: value for key, value in shown["scale"].items() if key != "text"})


def _recolored(session: Session, row: dict[str, Any], shown: dict[str, Any], scale: Scale) -> dict[str, Any]:
    values = torch.from_numpy(np.load(session.folder.path / (shown.get("evidence") or shown["map"])))[None]
    view = View(**shown["view"])
    offset, stride = (shown["grid"]["offset"], shown["grid"]["stride"])
    if "evidence" in shown:
        offset, stride = (0.5, 0.5), (1.0, 1.0)
    facts = {"spec": shown["method"], "size": shown["grid"]["size"], "display": scale.display}
    result = Attribution(values, Target.of(0), values.new_zeros(1), offset=offset, stride=stride, **facts)
    stem = str(PurePath(shown["map"]).with_suffix(""))
    return _colored(session, stem, read_image(row["path"], session.classifier.preprocess.channels), view, result, scale)
