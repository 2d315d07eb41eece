"""A check of a model before it is used: fails if the evidence outside of the object has risen.

    python docs/examples/check_evidence.py --model net.py:make --images val --boxes boxes.csv --agreed evidence.json

Boxes of a few pictures (a CSV file, ILSVRC's XML or COCO's JSON) say where the object is. The first run with --keep
writes what share of each picture's evidence lies outside of it into the file that is agreed upon; every later run
measures anew, and ends with 1 where the mean has risen by more than --tolerance, naming the pictures that rose most.
2: nothing could be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from phosphene import Classifier, explain, load_classifier, read_image
from phosphene.evaluation.ground_truth import Truth, read_truth
from phosphene.images import list_images
from phosphene.metrics.evidence_share import evidence_share


def outside(classifier: Classifier, truth: Truth, method: str) -> tuple[float, float]:
    """The share of the evidence for the true class outside of its boxes, and that of a map that knows nothing."""
    picture = read_image(truth.path)
    result = explain(classifier, picture, method, target=truth.index, view="whole")
    heat = result.upsampled()
    height, width = result.views[0].original
    rows, columns = heat.shape[1:]
    y = (torch.arange(rows) + 0.5)[:, None] * height / rows
    x = (torch.arange(columns) + 0.5)[None] * width / columns
    inside = torch.zeros(1, rows, columns, dtype=torch.bool)
    for box in truth.boxes:
        inside |= (y >= box.y0) & (y < box.y1) & (x >= box.x0) & (x < box.x1)
    return 1 - float(evidence_share(heat, inside)), 1 - float(inside.double().mean())


def measured(classifier: Classifier, images: str, boxes: str, method: str) -> dict[str, float]:
    """Per picture and class the share of the evidence outside; pictures whose map says nothing are left out."""
    found = {}
    for truth in read_truth(boxes, list_images(images), classifier.labels, images):
        share, by_chance = outside(classifier, truth, method)
        name = f"{truth.path.relative_to(images).as_posix()}: {classifier.labels[truth.index]}"
        print(f"{share:.3f} outside, {by_chance:.3f} by chance: {name}")
        if share == share:
            found[name] = share
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, and keep or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--images", required=True)
    parser.add_argument("--boxes", required=True)
    parser.add_argument("--agreed", type=Path, required=True)
    parser.add_argument("--method", default="grad_cam")
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--keep", action="store_true", help="agree upon what is measured now")
    asked = parser.parse_args(arguments)
    now = measured(load_classifier(asked.model), asked.images, asked.boxes, asked.method)
    if asked.keep:
        asked.agreed.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return 0
    before = json.loads(asked.agreed.read_text(encoding="utf-8"))
    rises = {name: now[name] - before[name] for name in now if name in before}
    if not rises:
        print(f"{asked.agreed} and {asked.boxes} have no picture in common; --keep writes it anew", file=sys.stderr)
        return 2
    mean = sum(rises.values()) / len(rises)
    print(f"evidence outside of the object: {mean:+.3f} on {len(rises)} pictures, {asked.tolerance:.3f} allowed")
    if mean <= asked.tolerance:
        return 0
    for name in sorted(rises, key=lambda name: -rises[name])[:5]:
        print(f"risen by {rises[name]:.3f}: {name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
