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

from phosphene import Classifier, Target, load_classifier, prepare, read_image
from phosphene.images import to_pil
from phosphene.maps import normalize
from phosphene.metrics.bootstrap import bootstrap_interval
from phosphene.metrics.evidence_share import evidence_share
from phosphene.pipeline import attribute, fit_head
from phosphene.render import heat_layer, overlay, scale_of, side_by_side
from phosphene.runtime import forward

# ImageNet's dogs (151 to 268) and wolves, with coyote, dingo, dhole and wild dog (269 to 275).
ANIMALS = slice(151, 276)
# Of the range of the animal's map; a second, stricter cut says how much hangs on the first.
CUTS = (0.25, 0.5)


def seen(classifier: Classifier, path: str) -> Tensor:
    """(1, 3, 224, 224): a picture as the network sees it."""
    picture = read_image(path)
    return classifier.look([picture], classifier.views([picture]))


def animal_map(imagenet: Classifier, image: Tensor) -> Tensor:
    """(1, H, W) in [0, 1]: the class activation map of the best dog or wolf of ImageNet, on a grid twice as fine."""
    large = F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    best = forward(imagenet, image)[:, ANIMALS].argmax(dim=1) + ANIMALS.start
    return on_pixels(attribute(imagenet, large, Target.of(best), "cam").heat, image)


def on_pixels(maps: Tensor, image: Tensor) -> Tensor:
    """(1, H, W) in [0, 1]: the positive part of maps at the picture's size."""
    return normalize(F.interpolate(maps[:, None].clamp(min=0), image.shape[-2:], mode="bilinear")[:, 0])


def audit(head: Classifier, imagenet: Classifier, path: str, truth: int, blank: Tensor) -> dict[str, object]:
    """One picture's figures: the answer, where its evidence lies, the answer without animal or surroundings."""
    image = seen(head, path)
    animal = animal_map(imagenet, image)
    mask = (animal > CUTS[0]).float()[:, None]
    surroundings_white = image * mask + (1 - mask)
    surroundings_gone = image * mask + blank * (1 - mask)
    animal_gone = image * (1 - mask) + blank * mask
    wolf = head.probabilities(forward(head, torch.cat([image, surroundings_white, surroundings_gone, animal_gone])))[
        :, 1
    ]
    called = int(wolf[0] > 0.5)
    cam = attribute(head, image, Target.of(called), "cam").heat
    saliency = attribute(head, image, Target.of(called), "saliency").heat
    shares = {}
    for cut in CUTS:
        inside = animal > cut
        for name, maps in (("cam", on_pixels(cam, image)), ("saliency", saliency)):
            shares[f"{name}_outside_{cut}"] = 1 - float(evidence_share(maps, inside))
        shares[f"area_outside_{cut}"] = 1 - float(inside.double().mean())
    names = ("wolf", "wolf_on_white", "wolf_without_surroundings", "wolf_without_animal")
    return {"path": path, "truth": truth, "called": called, **dict(zip(names, wolf.tolist(), strict=True)), **shares}


def summary(rows: list[dict[str, object]], truth: int) -> dict[str, object]:
    """Means over the pictures of one class, with 95 % bootstrap intervals."""
    mine = [row for row in rows if row["truth"] == truth]
    found: dict[str, object] = {"pictures": len(mine), "right": sum(row["called"] == truth for row in mine)}
    for key in mine[0]:
        values = [float(row[key]) for row in mine if key not in ("path", "truth", "called")]  # type: ignore[arg-type]
        values = [value for value in values if value == value]
        if values:
            found[key] = {"mean": sum(values) / len(values), "ci": bootstrap_interval(values)}
    for key in ("wolf", "wolf_on_white", "wolf_without_surroundings", "wolf_without_animal"):
        found[f"called_{key}"] = sum(float(row[key]) > 0.5 for row in mine)  # type: ignore[arg-type]
    return found


def strip(
    head: Classifier, imagenet: Classifier, path: str, truth: str, called: int, occluders: list[str]
) -> Image.Image:
    """A picture, the animal's mask, and saliency, CAM and occlusion for what it was called."""
    image = seen(head, path)
    probability = float(head.probabilities(forward(head, image))[0, called])
    mask = (animal_map(imagenet, image) > CUTS[0]).float()[:, None]
    tiles = [to_pil(image[0]), to_pil((image * mask + (1 - mask))[0])]
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
            picture = strip(head, imagenet, str(row["path"]), fit.labels[truth], called, both if called else both[:1])
            picture.save(out / f"{name}.jpg", quality=85)
    turned = max(
        (row for row in rows if row["truth"] == 0 and row["called"] == 0), key=lambda row: row["wolf_on_white"]
    )
    image = seen(head, str(turned["path"]))
    mask = (animal_map(imagenet, image) > CUTS[0]).float()[:, None]
    white = image * mask + (1 - mask)
    cam = attribute(head, white, Target.of(1), "cam").heat
    heat = F.interpolate(cam[:, None], image.shape[-2:], mode="bilinear")[0, 0]
    tiles = [
        to_pil(image[0]),
        to_pil(white[0]),
        overlay(to_pil(white[0]), heat_layer(heat, scale_of(heat, "positive"))),
    ]
    labels = [f"wolf {turned['wolf']:.1%}", f"on white: wolf {turned['wolf_on_white']:.1%}", "cam for wolf"]
    side_by_side(tiles, labels).save(out / "dog_on_white.jpg", quality=85)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
