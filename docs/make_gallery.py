"""Makes the pictures of docs/gallery: one contact sheet per recipe and preset, and the fused images.

python docs/make_gallery.py [SHEET...]    all sheets, or those named; an hour on two cores for all
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from phosphene.evaluation.impressions import ImpressionScores, measure_impressions
from phosphene.images import to_pil
from phosphene.pipeline.impress import Job
from phosphene.render import contact_sheet
from phosphene.runs.impressions import captions, per_image
from phosphene.runtime import prepare
from phosphene.targets import Target
from phosphene.tasks.impress import random_pairs
from phosphene.zoo import load_classifier

CLASSES = [
    "dumbbell",
    "cup",
    "dalmatian",
    "bell pepper",
    "lemon",
    "Siberian husky",
    "washer",
    "computer keyboard",
    "kit fox",
    "goose",
    "ostrich",
    "limousine",
    "tench",
    "hen",
    "Madagascar cat",
    "broom",
    "water tower",
    "wine bottle",
    "banana",
    "padlock",
    "screw",
    "ladybug",
    "goldfinch",
    "zebra",
]
SHEETS = {
    "sci-best": "sci",
    "sci-paper": "sci:preset=paper,steps=200",
    "class-impression-best": "class_impression:steps=120",
    "class-impression-paper": "class_impression:preset=paper",
    "class-model-best": "class_model:steps=120",
    "class-model-paper": "class_model:preset=paper,steps=120",
    "class-model-posterior": "class_model:score=probability,steps=120",
    "fuse-best": "fuse",
    "fuse-paper": "fuse:preset=paper",
}
SEEDS = {"sci-best": 3}
FOLDER = Path(__file__).parent / "gallery"


def measured(name: str) -> ImpressionScores:
    """The images of a sheet and their readings; three seeds of the preset that users get, one of the others."""
    classifier = prepare(load_classifier("embedded"))
    judge = load_classifier("embedded:lite2")
    if name.startswith("fuse"):
        jobs = [Job(Target.of(pair)) for pair in random_pairs(1000, len(CLASSES), 0)]
    else:
        targets = [Target.of(classifier.labels.find(text)) for text in CLASSES]
        jobs = [Job(target, seed) for seed in range(SEEDS.get(name, 1)) for target in targets]
    return measure_impressions(classifier, jobs, SHEETS[name], judge)


def draw(name: str, found: ImpressionScores) -> dict[str, Any]:
    """The contact sheet of seed 0, and the row of the table with each image's reading."""
    shown = [index for index, job in enumerate(found.jobs) if job.seed == 0]
    lines = captions(found)
    sheet = contact_sheet(
        [to_pil(found.images[index]) for index in shown], [lines[index] for index in shown], columns=6, cell=168
    )
    FOLDER.mkdir(exist_ok=True)
    sheet.save(FOLDER / f"{name}.jpg", quality=72, optimize=True)
    row = {**found.row(), "impressions": per_image(found)}
    (FOLDER / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return row


if __name__ == "__main__":
    for sheet_name in sys.argv[1:] or SHEETS:
        summary = {key: value for key, value in draw(sheet_name, measured(sheet_name)).items() if key != "impressions"}
        print(sheet_name, json.dumps(summary))
