"""Dogs and wolves: what does a classifier look at that is 96 % right?

A linear head is fitted on two folders of pictures (dogs, wolves), as in Midha and Garg's report, and audited: does the
evidence lie on the animal? Where the animal is comes from the ImageNet head of the same network, which was not taught
with these pictures, never from the head under audit.

    python docs/examples/dogs_and_wolves.py FOLDER --out docs/images/dogs_and_wolves

FOLDER holds one folder of pictures per class, `dogs` and `wolves`. Figures go to figures.json, pictures beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from phosphene import Classifier, Target, load_classifier, locate, prepare, read_image
from phosphene.images import to_pil
from phosphene.maps import normalize
from phosphene.metrics.bootstrap import bootstrap_interval
from phosphene.metrics.evidence_share import evidence_share
from phosphene.render import heat_layer, overlay, scale_of, side_by_side
from phosphene.runtime import forward
from phosphene.tasks.attributions import attribute
from phosphene.tasks.head import fit_head

# ImageNet's dogs (151 to 268) and wolves, with coyote, dingo, dhole and wild dog (269 to 275).
ANIMALS = slice(151, 276)
# Of the range of the animal's class activation map: all above it is one mask, what `locate` cuts out the other, so
# that it shows how much hangs on the mask.
LEVEL = 0.25


def seen(classifier: Classifier, path: str) -> Tensor:
    """(1, 3, 224, 224): a picture as the network sees it."""
    picture = read_image(path)
    return classifier.preprocessed([picture], classifier.views([picture]))


def animal(imagenet: Classifier, image: Tensor) -> dict[str, Tensor]:
    """Per mask (1, H, W) boolean: where the best dog or wolf of ImageNet is."""
    best = forward(imagenet, image)[:, ANIMALS].argmax(dim=1) + ANIMALS.start
    (found,) = locate(imagenet, image[0], target=int(best))
    # On a grid twice as fine as that of the picture as it is.
    large = F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    cam = attribute(imagenet, large, Target.of(best), "cam").heat
    return {"graphcut": torch.from_numpy(found.mask)[None], "cam": on_pixels(cam, image) > LEVEL}


def on_pixels(maps: Tensor, image: Tensor) -> Tensor:
    """(1, H, W) in [0, 1]: the positive part of maps at the picture's size."""
    return normalize(F.interpolate(maps[:, None].clamp(min=0), image.shape[-2:], mode="bilinear")[:, 0])


def audit(head: Classifier, imagenet: Classifier, path: str, truth: int, blank: Tensor) -> dict[str, object]:
    """One picture's figures: the answer, where its evidence lies, the answer without animal or surroundings."""
    image = seen(head, path)
    row: dict[str, object] = {"path": path, "truth": truth, "wolf": wolf_probability(head, image)}
    row["called"] = called = int(float(row["wolf"]) > 0.5)  # type: ignore[arg-type]
    heat = {
        "cam": on_pixels(attribute(head, image, Target.of(called), "cam").heat, image),
        "saliency": attribute(head, image, Target.of(called), "saliency").heat,
    }
    for name, inside in animal(imagenet, image).items():
        row[f"{name}: area outside"] = 1 - float(inside.double().mean())
        row |= {f"{name}: {method} outside": 1 - float(evidence_share(maps, inside)) for method, maps in heat.items()}
        row[f"{name}: wolf on white"] = wolf_probability(head, torch.where(inside, image, torch.ones_like(image)))
        row[f"{name}: wolf without surroundings"] = wolf_probability(head, torch.where(inside, image, blank))
        row[f"{name}: wolf without animal"] = wolf_probability(head, torch.where(inside, blank, image))
    return row


def wolf_probability(head: Classifier, image: Tensor) -> float:
    """Of one picture (1, 3, H, W)."""
    return float(head.probabilities(forward(head, image))[0, 1])


def summary(rows: list[dict[str, object]], truth: int) -> dict[str, object]:
    """Means over the pictures of one class, with 95 % bootstrap intervals."""
    mine = [row for row in rows if row["truth"] == truth]
    found: dict[str, object] = {"pictures": len(mine), "right": sum(row["called"] == truth for row in mine)}
    for key in mine[0]:
        values = [float(row[key]) for row in mine if key not in ("path", "truth", "called")]  # type: ignore[arg-type]
        values = [value for value in values if value == value]
        if values:
            found[key] = {"mean": sum(values) / len(values), "ci": bootstrap_interval(values)}
    for key in (key for key in mine[0] if "wolf" in key):
        found[f"{key}, called"] = sum(float(row[key]) > 0.5 for row in mine)  # type: ignore[arg-type]
    return found


def on_white(imagenet: Classifier, image: Tensor) -> Tensor:
    """The animal as it was cut out, on white."""
    return torch.where(animal(imagenet, image)["graphcut"], image, torch.ones_like(image))


def strip(
    head: Classifier, imagenet: Classifier, path: str, truth: str, called: int, occluders: list[str]
) -> Image.Image:
    """A picture, the animal's mask, and saliency, CAM and occlusion for what it was called."""
    image = seen(head, path)
    probability = float(head.probabilities(forward(head, image))[0, called])
    tiles = [to_pil(image[0]), to_pil(on_white(imagenet, image)[0])]
    labels = [f"{truth}, called {head.labels[called]} {probability:.1%}", "the animal (ImageNet head)"]
    for method in ("saliency", "cam", *occluders):
        result = attribute(head, image, Target.of(called), method)
        heat = F.interpolate(result.heat[:, None], image.shape[-2:], mode="bilinear")[0, 0]
        tiles.append(overlay(to_pil(image[0]), heat_layer(heat, scale_of(heat, result.display))))
        labels.append(method.replace("occlusion:window=", "occlusion ").replace(",stride=", ", ").split(",fill")[0])
    return side_by_side(tiles, labels)


def main() -> None:
    """Fit, audit all held-out pictures, draw a few, write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", default="embedded")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    imagenet = prepare(load_classifier(arguments.model))
    fit = fit_head(imagenet, arguments.folder)
    head, blank = prepare(fit.classifier), imagenet.mean_image
    rows = [
        audit(head, imagenet, record.path, fit.labels.index(str(record.values["label"])), blank)
        for record in fit.held_out
    ]
    figures = {
        "accuracy": fit.accuracy,
        "confusion": fit.confusion.tolist(),
        **{name: summary(rows, index) for index, name in enumerate(fit.labels)},
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    def first(truth: int, called: int) -> dict[str, object] | None:
        """The most confident picture of a kind."""
        found = [row for row in rows if (row["truth"], row["called"]) == (truth, called)]
        return max(found, key=lambda row: float(row["wolf"]) * (2 * called - 1), default=None)  # type: ignore[arg-type]

    both = ["occlusion:window=10,stride=10,fill=black", "occlusion:window=10,stride=5,fill=black"]
    for name, truth, called in (("dog", 0, 0), ("wolf", 1, 1), ("dog_called_wolf", 0, 1), ("wolf_called_dog", 1, 0)):
        row = first(truth, called)
        if row is not None:
            picture = strip(head, imagenet, str(row["path"]), fit.labels[truth], called, both)
            picture.save(out / f"{name}.jpg", quality=85)
    turned = max(
        (row for row in rows if row["truth"] == 0 and row["called"] == 0),
        key=lambda row: row["graphcut: wolf on white"],
    )
    image = seen(head, str(turned["path"]))
    white = on_white(imagenet, image)
    cam = attribute(head, white, Target.of(1), "cam").heat
    heat = F.interpolate(cam[:, None], image.shape[-2:], mode="bilinear")[0, 0]
    tiles = [
        to_pil(image[0]),
        to_pil(white[0]),
        overlay(to_pil(white[0]), heat_layer(heat, scale_of(heat, "positive"))),
    ]
    labels = [f"wolf {turned['wolf']:.1%}", f"on white: wolf {turned['graphcut: wolf on white']:.1%}", "cam for wolf"]
    side_by_side(tiles, labels).save(out / "dog_on_white.jpg", quality=85)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
