"""Measures the recipe minds_eye and makes the pictures of docs/features.md.

python docs/make_features.py FOLDER [LAYER...]
python docs/make_features.py FOLDER --sheets CLASS

FOLDER holds one folder of pictures per class, named by a WordNet id and a name, such as n01440764_tench. Prints a line
per layer, class and arm: the cosine of each drawn image with its target, and the rank that the judge gives the class.
With --sheets the two sheets of the page instead: every class at the last block, and CLASS at several depths.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from phosphene.classifier import Classifier
from phosphene.images import list_images, to_pil
from phosphene.render import contact_sheet, side_by_side
from phosphene.runtime import forward, prepare
from phosphene.tasks.facets import DrawnFacet, collect, draw_layers
from phosphene.zoo import load_classifier

LAYERS = ("blocks.8", "blocks.10", "blocks.12", "blocks.14", "blocks.15")
ARMS = ("full", "dot", "distance")
DEPTHS = ("blocks.8", "blocks.10", "blocks.14", "blocks.15")
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
            for layer in draw_layers(classifier, found, layers, facets=2, recipe=f"minds_eye:terms={arm}"):
                if arm == "full":
                    begin = torch.stack([facet.start for facet in layer.facets])
                    cosines = [facet.start_cosine for facet in layer.facets]
                    print(line(layer.layer, part.name, "start", cosines, ranks(judge, begin, wanted)))
                cosines = [facet.target_cosine for facet in layer.facets]
                images = drawn(layer.facets)
                print(line(layer.layer, part.name, arm, cosines, ranks(judge, images, wanted)), flush=True)
                sheet = side_by_side([to_pil(image) for image in images])
                sheet.save(OUT / f"features-{part.name}-{layer.layer}-{arm}.jpg", quality=85)


def sheets(folder: Path, deep: str) -> None:
    """Two facets of every class at the last of DEPTHS in a row, and two of one class at all of them, a row for each."""
    classifier = prepare(load_classifier("embedded"))
    last: dict[str, tuple[Image.Image, ...]] = {}
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        name = part.name.split("_", 1)[1].replace("_", " ")
        layers = DEPTHS if name == deep else DEPTHS[-1:]
        found = collect(classifier, list_images(part), layers)
        facets = {layer.layer: layer.facets for layer in draw_layers(classifier, found, layers, facets=2)}
        for layer in layers:
            print(layer, name, *(f"{facet.target_cosine:.3f}" for facet in facets[layer]), flush=True)
        last[name] = tuple(to_pil(facet.image) for facet in facets[DEPTHS[-1]])
        if name == deep:
            rows = [to_pil(facets[layer][row].image) for row in range(2) for layer in DEPTHS]
            sheet = contact_sheet(rows, DEPTHS * 2, columns=len(DEPTHS), cell=180)
            sheet.save(OUT / "features-layers.jpg", quality=85)
    names = [name for name, pictures in last.items() for _ in pictures]
    row = side_by_side([picture for pictures in last.values() for picture in pictures], names, height=180)
    row.save(OUT / "features-last-block.jpg", quality=85)


if __name__ == "__main__":
    if "--sheets" in sys.argv:
        sheets(Path(sys.argv[1]), sys.argv[3])
    else:
        main(Path(sys.argv[1]), tuple(sys.argv[2:]) or LAYERS)
