"""Locate: mask and box of classes in a picture, to be taken away as COCO."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath

from phosphene.errors import InputError
from phosphene.runs.locate import coco_json
from phosphene.store import Asset, row_to_json
from phosphene.tasks import LocateConfig
from phosphene.web.asks import LocateAsk
from phosphene.web.desk import Desk
from phosphene.web.pictures import Chosen
from phosphene.web.views.frame import how_to, render
from phosphene.web.worker import Job


def locate(desk: Desk, ask: LocateAsk, chosen: Chosen, job: Job) -> Iterator[str]:
    """The objects that were found.

    Raises:
        PhospheneError: for what cannot be asked, or a picture in which nothing can be located.
    """
    classifier = desk.classifier(ask.model)
    item = chosen.item(**classifier.preprocess.reading)
    job.progress(0, 0, "Looking at the whole frame")
    config = LocateConfig.of(ask.methods, segment=ask.segment or None, preset=ask.preset, classes=ask.classes)  # type: ignore[arg-type]
    (row,) = config.checked(classifier).run(classifier, [item], progress=job.progress)
    if row.status == "error" and not row.objects:
        raise InputError(row.error or "nothing was found")
    coco = coco_json([json.loads(json.dumps(row_to_json(row)))], classifier)
    assets = [row.overlay, *(file for thing in row.objects for file in (thing.mask, thing.map, thing.steps))]
    files = {PurePath(file.name).name: file for file in assets if isinstance(file, Asset)}
    for annotation in coco["annotations"]:
        annotation["mask"] = PurePath(annotation["mask"]).name
    files["coco.json"] = Asset("coco.json", json.dumps(coco, indent=1))
    urls = desk.shelf.put(files)

    def url(file: object) -> str | None:
        return urls[PurePath(file.name).name] if isinstance(file, Asset) else None

    things = [
        {"row": thing, "mask": url(thing.mask), "map": url(thing.map), "steps": url(thing.steps)}
        for thing in row.objects
    ]
    calls = how_to(replace(ask, picture=chosen.name), desk.first, [thing.index for thing in row.objects])
    yield render(
        "locate",
        row=row,
        name=chosen.name,
        overlay=url(row.overlay),
        things=things,
        coco=urls["coco.json"],
        calls=calls,
    )
