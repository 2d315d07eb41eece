"""The run behind `phosphene locate`: pictures x classes -> masks, boxes, COCO JSON, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from phosphene.classifier import Classifier
from phosphene.errors import InputError, NumericalError
from phosphene.images import Picture, expand_paths, picture_size, read_image
from phosphene.localization.presets import Preset
from phosphene.localization.segment import SegmentName
from phosphene.pipeline import no_answer
from phosphene.pipeline.locate import Located, configured, cut_out, evidence, posteriors
from phosphene.registry import format_spec, parse_spec
from phosphene.render import draw_boxes, steps_picture, thumbnail
from phosphene.runs.session import Common, Session, keep_inputs
from phosphene.runtime import Prepared
from phosphene.store import file_stem, picture_folder
from phosphene.tasks import best_count
from phosphene.types import Box, Prediction

_REPORT_SIDE = 640


def locate_files(
    paths: Sequence[str],
    common: Common,
    *,
    classes: str = "top1",
    methods: Sequence[str] = (),
    segment: SegmentName | None = None,
    preset: str = "best",
) -> dict[str, Any]:
    """Locate classes in pictures from files; a broken picture becomes a row with its error, the others are done.

    Args:
        paths: pictures, or folders of them.
        common: the common options.
        classes: a class, or topK for the K best of each picture.
        methods: method specs instead of the preset's.
        segment: "graphcut" or "threshold" instead of the preset's own.
        preset: "best" or "paper".

    Returns:
        The JSON answer of the command: {"run", "report", "coco", "images": [...]}.

    Raises:
        PhospheneError: for what concerns the whole run: options, model, output folder.
    """
    way = configured(preset, [parse_spec(method) for method in methods], segment)
    classifier = common.load()
    if best_count(classes, classifier.labels) is None:
        classifier.labels.find(classes)
    files = expand_paths(paths)
    if not files:
        raise InputError("no pictures were given; pass at least one")
    keep_inputs(common, files)
    shown = {"methods": [format_spec(parse_spec(method)) for method in way.methods], "segment": way.segment}
    session = Session.start("locate", common, classifier, classes=classes, preset=way.name, **shown)
    rows: list[dict[str, Any]] = []
    complete = False
    try:
        for index, path in enumerate(files):
            common.announce(index, len(files), "locate")
            rows.append(_located(session, way, classes, picture_folder(index, path), str(path)))
        complete = True
    finally:
        coco = session.folder.save_json("coco.json", coco_json(rows, classifier))
        answer = session.finish(complete=complete, coco=coco, images=rows)
    return answer


def _located(session: Session, way: Preset, classes: str, name: str, path: str) -> dict[str, Any]:
    row: dict[str, Any] = {"path": path, "status": "ok", "error": None, "objects": []}
    classifier = session.classifier
    try:
        picture = read_image(path, classifier.preprocess.channels)
    except InputError as error:
        return {**row, "status": "error", "error": str(error)}
    row["size"] = list(picture_size(picture))
    odds = posteriors(classifier, [picture])[0]
    if not bool(odds.isfinite().all()):
        return {**row, "status": "error", "error": no_answer(path).error}
    count = best_count(classes, classifier.labels)
    chosen = [classifier.labels.find(classes)] if count is None else odds.topk(min(count, len(odds))).indices.tolist()
    maps = evidence(classifier, [picture] * len(chosen), chosen, way, seed=session.common.seed)
    found: list[Located] = []
    for index, seen in zip(chosen, maps, strict=True):
        prediction = Prediction(index, classifier.labels[index], float(odds[index]))
        try:
            found.append(cut_out(picture, seen, way, prediction))
        except NumericalError as error:
            row |= {"status": "error", "error": str(error)}
    row["objects"] = [_saved(session, name, picture, thing) for thing in found]
    row["overlay"] = session.folder.save_image(f"{name}/boxes.jpg", _overview(picture, found), quality=90)
    return row


def _saved(session: Session, name: str, picture: Picture, found: Located) -> dict[str, Any]:
    """Write one object's mask, map and steps; the row that describes them."""
    stem = f"{name}/{found.index}-{file_stem(found.label, 40)}"
    folder, samples = session.folder, found.segmentation.samples
    small, (height, width) = thumbnail(picture, _REPORT_SIDE), picture_size(picture)
    steps = steps_picture(
        small,
        found.evidence,
        None if samples is None else (samples.foreground, samples.background),
        _resized(found.mask, small.size),
        _scaled(found.box, small.width / width, small.height / height),
    )
    return {
        "index": found.index,
        "label": found.label,
        "probability": found.probability,
        "box": [found.box.x0, found.box.y0, found.box.x1, found.box.y1],
        "mask": folder.save_image(f"{stem}-mask.png", Image.fromarray(found.mask)),
        "map": folder.save_array(f"{stem}-map.npy", found.evidence),
        "steps": folder.save_image(f"{stem}-steps.jpg", steps, quality=90),
        "point": list(found.point),
        "area": int(found.mask.sum()),
    }


def _overview(picture: Picture, found: Sequence[Located]) -> Image.Image:
    small = thumbnail(picture, _REPORT_SIDE)
    height, width = picture_size(picture)
    across, down = small.width / width, small.height / height
    return draw_boxes(
        small,
        [_scaled(thing.box, across, down) for thing in found],
        [f"{thing.label} {_rounded(thing.probability)}" for thing in found],
        [_resized(thing.mask, small.size) for thing in found],
    )


def _rounded(probability: float) -> str:
    return f"{probability:.0%}" if probability >= 0.005 else "<1%"


def _resized(mask: np.ndarray[Any, np.dtype[np.bool_]], size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _scaled(box: Box, across: float, down: float) -> Box:
    return Box(box.x0 * across, box.y0 * down, box.x1 * across, box.y1 * down)


def coco_json(rows: Sequence[dict[str, Any]], classifier: Prepared | Classifier) -> dict[str, Any]:
    """The objects in COCO's form: images, annotations with [x, y, width, height], categories by class index."""
    labels = classifier.labels
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    used: set[int] = set()
    for number, row in enumerate(row for row in rows if "size" in row):
        height, width = row["size"]
        images.append({"id": number + 1, "file_name": row["path"], "height": height, "width": width})
        for thing in row["objects"]:
            x0, y0, x1, y1 = thing["box"]
            used.add(thing["index"])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": thing["index"],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": thing["area"],
                    "iscrowd": 0,
                    "score": thing["probability"],
                    "mask": thing["mask"],
                }
            )
    categories = [
        {"id": index, "name": labels[index]} | ({"wnid": labels.ids[index]} if labels.ids else {})
        for index in sorted(used)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
