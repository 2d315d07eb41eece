"""Makes the pictures of docs/gallery: a contact sheet for each recipe and preset, with what judges read in them.

python docs/make_gallery.py [SHEET...] [--source SPEC --name NAME] [--judge SPEC]... [--classes FILE] [--out FOLDER]

All sheets, or those named; of the embedded network, or of any other, whose sheets then begin with its name. Each judge
is a network that took no part. About four minutes a sheet of 24 pictures on two cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from phosphene.classifier import Classifier
from phosphene.images import to_pil
from phosphene.render import contact_sheet
from phosphene.runtime import Prepared, prepare
from phosphene.targets import Target
from phosphene.tasks.impress import random_pairs
from phosphene.tasks.impressions import Job, synthesize
from phosphene.tasks.read_impressions import Judgement, judge_impressions
from phosphene.types import Impression
from phosphene.zoo import load_classifier

SHEETS = {
    "class-impression-best": "class_impression",
    "sci-best": "sci",
    "class-model-best": "class_model",
    "fuse-best": "fuse",
    "sci-paper": "sci:preset=paper,steps=200",
    "class-impression-paper": "class_impression:preset=paper",
    "class-model-paper": "class_model:preset=paper,steps=120",
    "class-model-posterior": "class_model:score=probability,steps=120",
    "fuse-paper": "fuse:preset=paper",
}
FOLDER = Path(__file__).parent / "gallery"
CLASSES = FOLDER / "classes.txt"


def draw(classifier: Prepared, name: str, classes: list[str], seed: int) -> list[Impression]:
    """The pictures of a sheet."""
    if name.startswith("fuse"):
        jobs = [Job(Target.of(pair), seed) for pair in random_pairs(1000, len(classes), 0)]
    else:
        jobs = [Job(Target.of(classifier.labels.find(text)), seed) for text in classes]
    return list(synthesize(classifier, jobs, SHEETS[name]))


def caption(classifier: Classifier, made: Impression, read: list[Judgement]) -> str:
    """The classes, and what each judge gives them; a star where its best class is one of them."""
    names = " + ".join(classifier.labels[index] for index in made.target.classes)
    shares = [
        "+".join(f"{share.probability:.2f}" for share in one.classes).replace("0.", ".") + ("*" if one.top1 else "")
        for one in read
    ]
    return f"{names[:34]}\n{'  '.join(shares)}"


def row(made: list[Impression], read: list[list[Judgement]]) -> dict[str, Any]:
    """Means over the pictures, by judge."""
    found: dict[str, Any] = {"recipe": made[0].spec, "images": len(made), "seconds": fmean(one.seconds for one in made)}
    for judged in zip(*read, strict=True):
        found[judged[0].model] = {
            "probability": fmean(one.probability for one in judged),
            "top1": fmean(one.top1 for one in judged),
            "top5": fmean(one.top5 for one in judged),
            "none_above_.6": fmean(one.probability <= 0.6 for one in judged),
        }
    return found


def main() -> None:
    """Draw, read, write each sheet, its figures and its pictures."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("sheets", nargs="*")
    command.add_argument("--source", default="embedded")
    command.add_argument("--name", default="")
    command.add_argument("--judge", action="append", default=[])
    command.add_argument("--classes", type=Path, default=CLASSES, help="a file with a class a line")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, default=FOLDER)
    command.add_argument("--pictures", type=Path, help="a folder for the single pictures")
    given = command.parse_args()
    classifier = prepare(load_classifier(given.source), precision="fast")
    judges = [load_classifier(spec) for spec in given.judge or ["embedded:lite2"]]
    classes = given.classes.read_text(encoding="utf-8").splitlines()
    given.out.mkdir(parents=True, exist_ok=True)
    for sheet in given.sheets or SHEETS:
        name = f"{given.name}-{sheet}" if given.name else sheet
        made = draw(classifier, sheet, classes, given.seed)
        by_judge = [judge_impressions(judge, made, classifier) for judge in judges]
        read = [[one for one in judged if one is not None] for judged in zip(*by_judge, strict=True)]
        lines = [caption(classifier, one, judged) for one, judged in zip(made, read, strict=True)]
        pictures = [to_pil(one.image) for one in made]
        contact_sheet(pictures, lines, columns=6, cell=168).save(given.out / f"{name}.jpg", quality=80, optimize=True)
        if given.pictures:
            given.pictures.mkdir(parents=True, exist_ok=True)
            for number, picture in enumerate(pictures):
                picture.save(given.pictures / f"{name}-{number:02d}.png")
        print(name, json.dumps(row(made, read)), flush=True)


if __name__ == "__main__":
    main()
