"""Measures the recipe minds_eye and makes the pictures of docs/features.md.

python docs/make_features.py FOLDER [LAYER...]

FOLDER holds one folder of pictures per class, named by a WordNet id and a name, such as n01440764_tench. Prints a line
per layer, class and arm: the cosine of each drawn image with its target, and the rank that the judge gives the class.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.images import list_images, to_pil
from phosphene.render import side_by_side
from phosphene.runtime import forward, prepare
from phosphene.tasks.facets import DrawnFacet, collect, draw_layers
from phosphene.zoo import load_classifier

LAYERS = ("blocks.8", "blocks.10", "blocks.12", "blocks.14", "blocks.15")
ARMS = ("full", "dot", "distance")
OUT = Path(__file__).parent / "gallery"


def ranks(judge: Classifier, images: Tensor, wanted: int) -> list[int]:
    """The place of a class among all classes as the judge reads images, 1 for the best."""
    pictures = [to_pil(image) for image in images]
    logits = forward(judge, judge.preprocessed(pictures, judge.views(pictures, "whole")))
    return ((logits > logits[:, wanted : wanted + 1]).sum(dim=1) + 1).tolist()


def line(layer: str, name: str, arm: str, cosines: list[float], places: list[int]) -> str:
    numbers = " ".join(f"{value:.3f}" for value in cosines)
    return f"{layer:10} {name:24} {arm:10} cosine {numbers}   judge's rank {' '.join(map(str, places))}"


def drawn(facets: tuple[DrawnFacet, ...]) -> Tensor:
    return torch.stack([facet.image for facet in facets])


def main(folder: Path, layers: tuple[str, ...]) -> None:
    """Every class, layer and arm."""
    classifier = prepare(load_classifier("embedded"))
    judge = load_classifier("embedded:lite2")
    OUT.mkdir(exist_ok=True)
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        wanted = judge.labels.find(part.name.split("_")[0])
        found = collect(classifier, list_images(part), layers)
        for arm in ARMS:
            for layer in draw_layers(classifier, found, facets=2, recipe=f"minds_eye:terms={arm}"):
                if arm == "full":
                    begin = torch.stack([facet.start for facet in layer.facets])
                    cosines = [facet.start_cosine for facet in layer.facets]
                    print(line(layer.layer, part.name, "start", cosines, ranks(judge, begin, wanted)))
                cosines = [facet.target_cosine for facet in layer.facets]
                images = drawn(layer.facets)
                print(line(layer.layer, part.name, arm, cosines, ranks(judge, images, wanted)), flush=True)
                sheet = side_by_side([to_pil(image) for image in images])
                sheet.save(OUT / f"features-{part.name}-{layer.layer}-{arm}.jpg", quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(sys.argv[2:]) or LAYERS)
