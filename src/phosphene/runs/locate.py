"""The run behind `phosphene locate`: pictures x classes -> masks, boxes, COCO JSON, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from phosphene.classifier import Classifier
from phosphene.runs.common_options import CommonOptions
from phosphene.runs.pictures import run_over_pictures
from phosphene.runtime import Prepared
from phosphene.sources import Source
from phosphene.store import FolderSink, Run
from phosphene.tasks import LocateConfig


def locate_pictures(
    specs: Sequence[str], config: LocateConfig, common: CommonOptions, *, resume: bool = False
) -> dict[str, Any]:
    """Locate classes in pictures; a broken picture becomes a row with its error, the others are done.

    Args:
        specs: files, folders, patterns, tables, lists, tar archives and URLs of pictures.
        config: what is looked for and how; its seed is that of the common options.
        common: the common options.
        resume: go on with the run in --out.

    Returns:
        The JSON answer of the command: {"run", "report", "coco", "images": [...]}.

    Raises:
        PhospheneError: for what concerns the whole run: options, model, output folder.
        CancelledError: if it was stopped; what was done is kept.
    """
    classifier = common.load()

    def save_coco(run: Run, sink: FolderSink, _source: Source) -> dict[str, Any]:
        coco = coco_json(run.answer()["images"], classifier)
        return {"coco": sink.folder.save_json("coco.json", coco)}

    config = replace(config, seed=common.seed).checked(classifier)
    return run_over_pictures("locate", specs, config, common, classifier, resume=resume, finish=save_coco)


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
