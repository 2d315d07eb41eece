"""The Mind's Eye (stergiou2021): figures 1 to 4."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from PIL import Image

from phosphene.figures.figure import Drawn, figure
from phosphene.figures.material import Material
from phosphene.images import read_image, to_pil
from phosphene.render import contact_sheet, facet_spokes, group_color, side_by_side, stacked, thumbnail, thumbnail_map
from phosphene.runtime import activations, forward
from phosphene.tasks.facets import DrawnFacet, LayerFeatures, features

_FACETS, _EXEMPLARS, _STEPS = 3, 10, 160
_SIDE = 144


def _drawn(material: Material, layers: list[str], top_k: int, *, pin: str | None = None) -> list[LayerFeatures]:
    """Facets of layers, drawn; made once for the figures that show them."""
    key = ("features", tuple(layers), top_k, pin)
    if key not in material.made:
        material.made[key] = features(
            material.classifier,
            material.kinds(),
            layers,
            facets=_FACETS,
            exemplars=min(_EXEMPLARS, len(material.kinds()) // _FACETS),
            recipe=f"minds_eye:steps={material.steps(_STEPS)},top_k={top_k}",
            pin=pin,
            seed=material.seed,
            progress=material.announce,
        )
    found: list[LayerFeatures] = material.made[key]
    return found


def _picture(path: str) -> Image.Image:
    return thumbnail(read_image(path), _SIDE)


def _facts(facet: DrawnFacet) -> dict[str, Any]:
    return {
        "target_cosine": facet.target_cosine,
        "start_cosine": facet.start_cosine,
        "exemplar_cosine_mean": sum(facet.exemplar_cosines) / len(facet.exemplar_cosines),
        "reads": [{"label": one.label, "probability": one.probability} for one in facet.predicted[:3]],
        "weights": facet.facet.weights.tolist(),
        "distances": facet.facet.distances.tolist(),
    }


@figure(
    "1",
    "Top 50 features for three kinds of targets",
    claim="The 50 strongest channels of a late layer, drawn for three targets that show the same kind of thing, show "
    "it with variation but recognizably.",
    command="phosphene features FOLDER --layer NAME --facets 3 --top-k 50",
)
def top_features(material: Material) -> Drawn:
    """For three facets the nearest exemplar and the image drawn for the facet."""
    layer = material.layers()[-1]
    (found,) = _drawn(material, [layer], 50)
    tiles, texts = [], []
    for facet in found.facets:
        tiles += [_picture(facet.exemplars[0]), to_pil(facet.image)]
        best = facet.predicted[0]
        texts += [
            f"nearest of {len(facet.facet.members)}\nweight {float(facet.facet.weights[0]):.2f}",
            f"cosine {facet.target_cosine:.3f}\n{best.label} {best.probability:.2f}",
        ]
    same = [_reads_its_kind(material, facet) for facet in found.facets]
    return Drawn(
        contact_sheet(tiles, texts, columns=2, cell=224),
        {
            "the layer answers as to the target (cosine above .9)": all(
                facet.target_cosine > 0.9 for facet in found.facets
            ),
            "it comes closer than a single exemplar does on average": all(
                facet.target_cosine > sum(facet.exemplar_cosines) / len(facet.exemplar_cosines)
                for facet in found.facets
            ),
            "the network reads each image as what its exemplars show": all(same),
        },
        {"layer": layer, "facets": [_facts(facet) for facet in found.facets], "read_as_their_kind": same},
    )


def _odds_of(material: Material, facet: DrawnFacet) -> torch.Tensor:
    """(K,) the probabilities of the exemplars' pictures, in the mean."""
    classifier = material.classifier
    pictures = [read_image(path, **classifier.preprocess.reading) for path in facet.exemplars]
    logits = forward(classifier, classifier.preprocessed(pictures, classifier.views(pictures)))
    return classifier.probabilities(logits).mean(dim=0)


def _reads_its_kind(material: Material, facet: DrawnFacet) -> bool:
    """Whether the best class of the drawn image is among the five best of the exemplars."""
    return facet.predicted[0].index in _odds_of(material, facet).topk(5).indices.tolist()


@figure(
    "2",
    "The map of embeddings, and the weight that a distance gives",
    claim="The nearer an embedding lies to its cluster's center, the more its activation counts for the target.",
    command="phosphene features FOLDER --layer NAME --facets 3 (map.jpg and facet-0-center.jpg of the run)",
)
def embeddings(material: Material) -> Drawn:
    """All pictures on the map with the centers, and the exemplars of each facet about its center."""
    layer = material.layers()[-1]
    (found,) = _drawn(material, [layer], 50)
    points, centers = found.map.points.numpy(), found.map.centers.numpy()
    front = {row for facet in found.facets for row in facet.facet.exemplars}
    shown = [_picture(path) for path in found.paths]
    sheet = thumbnail_map(
        points, shown, found.map.labels.tolist(), centers=centers, front=front, side=900, thumbnail=44
    )
    spokes = [
        facet_spokes(
            points[list(facet.facet.exemplars)] - centers[number],
            [shown[row] for row in facet.facet.exemplars],
            facet.facet.distances.tolist(),
            facet.facet.weights.tolist(),
            color=group_color(number),
        )
        for number, facet in enumerate(found.facets)
    ]
    falls = all(
        later <= earlier + 1e-7 for facet in found.facets for earlier, later in pairwise(facet.facet.weights.tolist())
    )
    sums = [float(facet.facet.weights.sum()) for facet in found.facets]
    largest = [float(facet.facet.weights.max()) for facet in found.facets]
    labels = ["all pictures; a cross is a center", *(f"facet {number}" for number in range(len(spokes)))]
    return Drawn(
        side_by_side([sheet, *spokes], labels, height=560),
        {
            "the weight falls with the distance": falls,
            "the weights of a facet add up to 1": all(abs(total - 1) < 1e-4 for total in sums),
            "no single exemplar makes the target by itself (weights below .9)": max(largest) < 0.9,
        },
        {"layer": layer, "facets": [_facts(facet) for facet in found.facets]},
        {"map": sheet, **{f"facet-{number}": picture for number, picture in enumerate(spokes)}},
    )


@figure(
    "3",
    "The image along the iterations",
    claim="Over the iterations the regions that carry features grow into the object; 30 channels suffice to describe "
    "the overall appearance of a simple one.",
    command="phosphene features FOLDER --layer NAME --facets 3 --top-k 30 (facet-0-way.jpg of the run)",
)
def iterations(material: Material) -> Drawn:
    """The target's nearest picture, the start and the image at points on the way, for the largest facet."""
    layer = material.layers()[-1]
    (found,) = _drawn(material, [layer], 30)
    rows, facts, risen, near = [], [], [], []
    for facet in found.facets:
        cosines = _cosines_on_the_way(material, facet, layer)
        steps = [round(number * found.steps / (len(facet.frames) - 1)) or 1 for number in range(len(facet.frames))]
        tiles = [_picture(facet.exemplars[0]), to_pil(facet.start), *(to_pil(frame) for frame in facet.frames)]
        labels = ["nearest exemplar", "weighted sum"]
        labels += [f"step {step}: {cosine:.3f}" for step, cosine in zip(steps, cosines, strict=True)]
        rows.append(side_by_side(tiles, labels, height=150))
        facts.append({**_facts(facet), "steps": steps, "cosines": cosines})
        risen.append(cosines[-1] > cosines[0])
        near.append(cosines[-1] > 0.9)
    return Drawn(
        stacked(rows),
        {
            "the layer's answer comes closer to the target from the first step to the last": all(risen),
            "with 30 channels in the dot product it comes within a cosine of .9": all(near),
        },
        {"layer": layer, "facets": facts},
    )


def _cosines_on_the_way(material: Material, facet: DrawnFacet, layer: str) -> list[float]:
    """The cosine of each frame's top channels with what the exemplars make of them."""
    classifier = material.classifier
    _, seen = activations(classifier, torch.stack(facet.frames).to(classifier.device), [layer])
    pooled = seen[layer].float().flatten(2).mean(dim=2)[:, list(facet.channels)].cpu()
    wanted = torch.tensor(facet.wanted)
    found: list[float] = torch.cosine_similarity(pooled, wanted[None], dim=1).tolist()
    return found


@figure(
    "4",
    "The same targets across layers, top 100 features",
    claim="For the same targets later layers draw the object's details, earlier ones only its general appearance.",
    command="phosphene features FOLDER --layer EARLY --layer MIDDLE --layer LATE --top-k 100 --pin LATE",
)
def across_layers(material: Material) -> Drawn:
    """A row for each facet: its nearest exemplar, then the image that each layer draws for the same exemplars."""
    layers = material.layers()
    found = _drawn(material, layers, 100, pin=layers[-1])
    tiles, texts = [], []
    shares: list[list[float]] = []
    for number in range(len(found[0].facets)):
        nearest = found[0].facets[number].exemplars[0]
        kind = int(_odds_of(material, found[0].facets[number]).argmax())
        tiles.append(_picture(nearest))
        texts.append(f"target {number}\n{material.classifier.labels[kind]}")
        shares.append([])
        for layer in found:
            facet = layer.facets[number]
            share = _share(material, facet.image, kind)
            shares[-1].append(share)
            tiles.append(to_pil(facet.image))
            texts.append(f"{layer.layer}\ncosine {facet.target_cosine:.2f}, p {share:.2f}")
    pinned = all(
        layer.facets[number].exemplars == found[0].facets[number].exemplars
        for layer in found
        for number in range(len(found[0].facets))
    )
    return Drawn(
        contact_sheet(tiles, texts, columns=1 + len(layers), cell=224),
        {
            "every layer has the same targets": pinned,
            "the last layer's images show their kind to the network more than the first layer's": all(
                row[-1] > row[0] for row in shares
            ),
            "the probability of the kind grows from layer to layer": all(row == sorted(row) for row in shares),
        },
        {
            "layers": layers,
            "probability_of_the_kind": shares,
            "facets": [[_facts(facet) for facet in layer.facets] for layer in found],
        },
    )


def _share(material: Material, image: torch.Tensor, index: int) -> float:
    classifier = material.classifier
    logits = forward(classifier, image[None].to(classifier.device))
    return float(classifier.probabilities(logits)[0, index])
