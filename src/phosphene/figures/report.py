"""Visual Explanations for Deep Neural Nets (midha): figures 1 to 8, and its closing guess about pooling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from phosphene.figures.figure import Drawn, LeftOutError, figure
from phosphene.figures.material import Material
from phosphene.images import list_images, read_image, to_pil
from phosphene.metrics.evidence_share import evidence_share
from phosphene.metrics.instances import instance_peaks, instances_found
from phosphene.render import draw_boxes, heat_layer, overlay, position_map, scale_of, side_by_side, stacked
from phosphene.runtime import Prepared, forward, head_features, prepare
from phosphene.targets import Target
from phosphene.tasks.attributions import attribute
from phosphene.tasks.objects import locate
from phosphene.types import Box, Record

_SIDE = 224


@dataclass(frozen=True)
class _Subject:
    """A picture as a network sees it, and the class that is explained in it."""

    classifier: Prepared
    image: Tensor  # (1, 3, H, W)
    index: int
    text: str

    def probability(self, images: Tensor | None = None) -> float:
        seen = self.image if images is None else images
        return float(self.classifier.probabilities(forward(self.classifier, seen))[0, self.index])

    def picture(self) -> Image.Image:
        return to_pil(self.image[0].cpu())


def _seen(classifier: Prepared, picture: Image.Image | str) -> Tensor:
    read = read_image(picture, **classifier.preprocess.reading) if isinstance(picture, str) else picture
    return classifier.preprocessed([read], classifier.views([read], "whole"))


def _photograph(material: Material, name: str) -> _Subject:
    """A packaged photograph and the network's best class for it."""
    image = _seen(material.classifier, material.photograph(name))
    best = material.classifier.predictions(forward(material.classifier, image))[0][0]
    return _Subject(material.classifier, image, best.index, f"{best.label} {best.probability:.1%}")


def _held_out(material: Material, truth: int, called: int) -> _Subject:
    """The held-out picture of one class that the fitted head calls the other, or itself, most confidently.

    Raises:
        LeftOutError: if there is none.
    """
    fitted = material.need_head()
    wanted = (fitted.labels[truth], fitted.labels[called])

    def fits(record: Record) -> bool:
        return (record.values["label"], record.values["predicted"]) == wanted

    found = [record for record in fitted.held_out if fits(record)]
    if not found:
        raise LeftOutError(f"none of the held-out pictures of {wanted[0]} is called {wanted[1]}")
    record = max(found, key=lambda record: float(str(record.values["probability"])))
    head = prepare(fitted.classifier)
    text = f"{wanted[0]} called {wanted[1]} {float(str(record.values['probability'])):.1%}"
    return _Subject(head, _seen(head, record.path), called, text)


def _object_in(material: Material, image: Tensor, index: int | None = None) -> Tensor:
    """(1, H, W) boolean: where the network's own best class, or one, is."""
    (found,) = locate(material.classifier, image[0].cpu(), target=index, preset="best", seed=material.seed)
    return torch.from_numpy(found.mask)[None]


def _saliency_row(subject: _Subject) -> tuple[Image.Image, Tensor]:
    result = attribute(subject.classifier, subject.image, Target.of(subject.index), "saliency")
    heat = result.heat[0].cpu()
    alone = heat_layer(heat, scale_of(heat, "positive")).convert("RGB")
    laid = overlay(subject.picture(), heat_layer(heat, scale_of(heat, "positive")))
    return side_by_side([subject.picture(), alone, laid], [subject.text, "saliency", "laid on it"]), heat


@figure(
    "1",
    "An image and its saliency map",
    claim="The map shows which places the class score is sensitive to; in the dog it raises the suspicion that the "
    "background matters.",
    command="phosphene explain PICTURE --method saliency",
)
def image_and_saliency(material: Material) -> Drawn:
    """A dog of the class folders, or the packaged cat, with its saliency and how much of it lies on the animal."""
    subject = _photograph(material, "cat") if material.class_folders is None else _held_out(material, 0, 0)
    picture, heat = _saliency_row(subject)
    inside = _object_in(material, subject.image)
    share, area = float(evidence_share(heat[None], inside)), float(inside.float().mean())
    return Drawn(
        picture,
        {
            "the object is more sensitive than its surroundings": share / area > (1 - share) / (1 - area),
            "the surroundings count too (more than a quarter of the saliency)": share < 0.75,
        },
        {"subject": subject.text, "share_on_the_object": share, "area_of_the_object": area},
    )


@figure(
    "2",
    "A wolf and its saliency map",
    claim="A picture classified as a wolf: what the head looks at becomes visible.",
    command="phosphene head FOLDER; phosphene explain WOLF --model HEAD --method saliency",
)
def wolf_and_saliency(material: Material) -> Drawn:
    """The most confident wolf of the held-out pictures."""
    subject = _held_out(material, 1, 1)
    picture, heat = _saliency_row(subject)
    inside = _object_in(material, subject.image)
    share, area = float(evidence_share(heat[None], inside)), float(inside.float().mean())
    return Drawn(
        picture,
        {"the animal is more sensitive than its surroundings": share / area > (1 - share) / (1 - area)},
        {"subject": subject.text, "share_on_the_object": share, "area_of_the_object": area},
    )


@figure(
    "3",
    "A dog on white that is called a wolf",
    claim="A dog on a white background is called a wolf: the head has learned the snow.",
    command="python docs/examples/dogs_and_wolves.py FOLDER --out DIR",
)
def dog_on_white(material: Material) -> Drawn:
    """The held-out dog that a white background moves most, and how many of all dogs it moves to wolf."""
    fitted = material.need_head()
    head = prepare(fitted.classifier)
    dogs = [record for record in fitted.held_out if record.values["label"] == fitted.labels[0]]
    dogs = dogs[:: max(1, len(dogs) // (4 if material.quick else 25))]
    rows = []
    for number, record in enumerate(dogs):
        material.announce(number, len(dogs), "dogs on white")
        image = _seen(head, record.path)
        white = torch.where(_object_in(material, image).to(image.device), image, torch.ones_like(image))
        shares = head.probabilities(forward(head, torch.cat([image, white])))[:, 1].tolist()
        rows.append((shares[1] - shares[0], shares, image, white))
    moved, shares, image, white = max(rows, key=lambda row: row[0])
    subject = _Subject(head, white, 1, f"on white: {fitted.labels[1]} {shares[1]:.1%}")
    picture, _ = _saliency_row(subject)
    before = side_by_side([to_pil(image[0].cpu())], [f"{fitted.labels[1]} {shares[0]:.1%}"])
    turned = sum(row[1][0] <= 0.5 < row[1][1] for row in rows) / len(rows)
    return Drawn(
        side_by_side([before, picture], height=picture.height),
        {
            "there is a dog that white surroundings turn into a wolf": shares[0] <= 0.5 < shares[1],
            "white surroundings turn dogs into wolves as a rule (more than half of them)": turned > 0.5,
        },
        {
            "dogs": len(rows),
            "turned_into_wolves": turned,
            "largest_move": moved,
            "before": shares[0],
            "after": shares[1],
        },
    )


def _occlusion(subject: _Subject, stride: int) -> tuple[Tensor, list[Image.Image]]:
    """(rows, columns) the probability by position of a black occluder of 10 pixels, and its two pictures."""
    result = attribute(
        subject.classifier, subject.image, Target.of(subject.index), f"occlusion:window=10,stride={stride},fill=black"
    )
    maps = result.maps[0].cpu()
    high = float(result.score[0])
    low = float(maps.min())
    laid = overlay(subject.picture(), heat_layer(result.heat[0].cpu(), scale_of(result.heat[0].cpu(), "signed")))
    return maps, [position_map(maps.numpy(), side=_SIDE, low=low, high=max(high, float(maps.max()))), laid]


def _occluded(subject: _Subject) -> tuple[Image.Image, dict[int, Tensor]]:
    found = {stride: _occlusion(subject, stride) for stride in (10, 5)}
    tiles, labels = [subject.picture()], [subject.text]
    for stride, (_, pictures) in found.items():
        tiles += pictures
        labels += [f"probability by position (10, {stride})", "its drop, laid on"]
    return side_by_side(tiles, labels), {stride: maps for stride, (maps, _) in found.items()}


@figure(
    "4",
    "Occlusion (10, 10) and (10, 5): the probability at each place of the occluder",
    claim="Where the occluder hides a main feature the probability of the class drops sharply.",
    command="phosphene explain PICTURE --method occlusion:window=10,stride=5,fill=black",
)
def occlusion_of_one(material: Material) -> Drawn:
    """The wolf of figure 2, or the packaged cat, occluded at both strides."""
    subject = _photograph(material, "cat") if material.class_folders is None else _held_out(material, 1, 1)
    picture, maps = _occluded(subject)
    clean = subject.probability()
    inside = _object_in(material, subject.image)[0]
    fine = maps[5]
    cells = F.interpolate(inside[None, None].float(), fine.shape, mode="area")[0, 0] > 0.5
    drops = clean - fine
    return Drawn(
        picture,
        {
            "somewhere the probability drops by a tenth of itself or more": float(drops.max()) > 0.1 * clean,
            "the largest drop lies on the object": bool(cells.flatten()[int(drops.argmax())]),
            "both strides agree about the largest drop within a tenth": abs(float(maps[10].min() - fine.min())) < 0.1,
        },
        {
            "subject": subject.text,
            "probability": clean,
            "lowest": {str(stride): float(values.min()) for stride, values in maps.items()},
            "positions": {str(stride): list(values.shape) for stride, values in maps.items()},
        },
    )


@figure(
    "5",
    "Occlusion of a picture with something besides the object",
    claim="The network does not seem to look at the dog beside a man, and its probability is low accordingly (68 %).",
    command="phosphene explain PICTURE --class CLASS --method occlusion:window=10,stride=5,fill=black",
)
def occlusion_of_two(material: Material) -> Drawn:
    """A dog that the head calls a wolf, or the packaged cat with an espresso set into it, occluded at both strides."""
    if material.class_folders is None:
        picture, inset = _with_inset(material)
        image = _seen(material.classifier, picture)
        index = material.classifier.labels.find("Egyptian cat")
        subject = _Subject(material.classifier, image, index, "Egyptian cat")
        subject = _Subject(material.classifier, image, index, f"Egyptian cat {subject.probability():.1%}")
        inside = ~_in_pixels(inset, image, (_SIDE, _SIDE))
    else:
        subject = _held_out(material, 0, 1)
        inside = _object_in(material, subject.image)[0]
    picture, maps = _occluded(subject)
    drops = (subject.probability() - maps[5]).clamp(min=0)
    rises = (maps[5] - subject.probability()).clamp(min=0)
    cells = F.interpolate(inside[None, None].float(), maps[5].shape, mode="area")[0, 0]
    share = float((drops * cells).sum() / drops.sum().clamp(min=1e-12))
    return Drawn(
        picture,
        {
            "less than half of the drop lies on the object": share < 0.5,
            "covering something else raises the probability": float(rises.max()) > 0.02,
            "the network is unsure (below 70 %)": subject.probability() < 0.7,
        },
        {
            "subject": subject.text,
            "share_of_the_drop_on_the_object": share,
            "area_of_the_object": float(inside.float().mean()),
            "largest_rise": float(rises.max()),
        },
    )


def _cam(classifier: Prepared, image: Tensor, index: int) -> Tensor:
    """(H, W) the class activation map on the image's pixels."""
    result = attribute(classifier, image, Target.of(index), "cam")
    return result.upsampled()[0].cpu()


def _laid(picture: Image.Image, heat: Tensor) -> Image.Image:
    return overlay(picture, heat_layer(heat, scale_of(heat, "positive")))


@figure(
    "6",
    "Class activation maps of single objects",
    claim="The map shows the discriminative region of the class; the places add up to the class score.",
    command="phosphene explain PICTURE --method cam",
)
def cam_examples(material: Material) -> Drawn:
    """Four photographs with the map of their best class."""
    tiles: list[Image.Image] = []
    labels: list[str] = []
    facts: list[dict[str, Any]] = []
    for name in ("cat", "espresso", "rocket", "flower"):
        subject = _photograph(material, name)
        result = attribute(subject.classifier, subject.image, Target.of(subject.index), "cam")
        heat = result.upsampled()[0].cpu()
        inside = _object_in(material, subject.image, subject.index)
        share, area = float(evidence_share(heat[None], inside)), float(inside.float().mean())
        tiles.append(_laid(subject.picture(), heat))
        labels.append(subject.text)
        facts.append(
            {
                "picture": name,
                "class": subject.text,
                "share_on_the_object": share,
                "area_of_the_object": area,
                "error_of_the_sum": result.checks["logit_error"][0],
            }
        )
    return Drawn(
        side_by_side(tiles, labels),
        {
            "the mean of the map and the bias are the score": all(fact["error_of_the_sum"] < 1e-3 for fact in facts),
            "denser on the object than elsewhere in each picture": all(
                fact["share_on_the_object"] > fact["area_of_the_object"] for fact in facts
            ),
        },
        {"pictures": facts},
    )


# In pixels of the packaged motorcycle of 741 x 500, drawn by hand.
_MOTORCYCLE = Box(95, 90, 685, 465)
_BRAKE = Box(515, 280, 685, 455)


def _in_pixels(box: Box, image: Tensor, size: tuple[int, int] = (500, 741)) -> Tensor:
    """(H, W) boolean: a box of the original picture of a size, in pixels of the squashed image."""
    height, width = image.shape[-2:]
    mask = torch.zeros(height, width, dtype=torch.bool)
    rows = slice(round(box.y0 * height / size[0]), round(box.y1 * height / size[0]))
    columns = slice(round(box.x0 * width / size[1]), round(box.x1 * width / size[1]))
    mask[rows, columns] = True
    return mask


@figure(
    "7",
    "Two objects in one picture, with skewed scores",
    claim="CAM is class discriminative even when the softmax scores of competing classes are really skewed.",
    command="phosphene explain PICTURE --class moped --class 'disk brake' --method cam --view whole",
)
def competing_classes(material: Material) -> Drawn:
    """A motorcycle and the brake of its wheel; and a cat with an espresso set into its corner, put together."""
    classifier = material.classifier
    rows: list[Image.Image] = []
    facts: list[dict[str, Any]] = []
    real = _seen(classifier, material.photograph("motorcycle"))
    pair, inset = _with_inset(material)
    both = _seen(classifier, pair)
    brake, small = _in_pixels(_BRAKE, real), _in_pixels(inset, both, (_SIDE, _SIDE))
    for image, names, places in (
        (real, ("moped", "disk brake"), (_in_pixels(_MOTORCYCLE, real) & ~brake, brake)),
        (both, ("Egyptian cat", "espresso"), (~small, small)),
    ):
        shares = classifier.probabilities(forward(classifier, image))[0]
        tiles, labels, on = [to_pil(image[0].cpu())], ["picture"], []
        maps = []
        for name in names:
            index = classifier.labels.find(name)
            heat = _cam(classifier, image, index)
            maps.append(heat)
            tiles.append(_laid(tiles[0], heat))
            labels.append(f"{name} {float(shares[index]):.2%}")
            on.append([float(evidence_share(heat[None], place[None])) for place in places])
        rows.append(side_by_side(tiles, labels))
        odds = [float(shares[classifier.labels.find(name)]) for name in names]
        facts.append(
            {
                "classes": list(names),
                "probabilities": odds,
                "skew": max(odds) / max(min(odds), 1e-12),
                "evidence_of_each_on_each": on,
            }
        )
    return Drawn(
        stacked(rows),
        {
            "the scores are skewed (more than 5 to 1 in a picture)": max(fact["skew"] for fact in facts) > 5,
            "each class has a larger share of its evidence on its own object than the other class has": all(
                fact["evidence_of_each_on_each"][0][0] > fact["evidence_of_each_on_each"][1][0]
                and fact["evidence_of_each_on_each"][1][1] > fact["evidence_of_each_on_each"][0][1]
                for fact in facts
            ),
        },
        {"pictures": facts},
    )


_INSET = 88


def _with_inset(material: Material) -> tuple[Image.Image, Box]:
    """The cat with a small espresso set into its corner, and where that is."""
    sheet = _square(material.photograph("cat"))
    small = _square(material.photograph("espresso")).resize((_INSET, _INSET), Image.Resampling.LANCZOS)
    box = Box(_SIDE - _INSET, _SIDE - _INSET, _SIDE, _SIDE)
    sheet.paste(small, (int(box.x0), int(box.y0)))
    return sheet, box


def _square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)


def _beside(one: Image.Image, other: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (one.width + other.width, one.height))
    sheet.paste(one, (0, 0))
    sheet.paste(other, (one.width, 0))
    return sheet


_CELL = 120
# Where copies of an object are put on a canvas of 2 x 2 cells.
_PLACES = ((0, 0), (1, 1), (1, 0), (0, 1))


def _copies(picture: Image.Image, count: int, fill: tuple[int, int, int]) -> tuple[Image.Image, list[Box]]:
    """A canvas with so many copies of an object, and their boxes."""
    tile = picture.resize((_CELL, _CELL), Image.Resampling.LANCZOS)
    sheet = Image.new("RGB", (2 * _CELL, 2 * _CELL), fill)
    boxes = []
    for number in range(count):
        column, row = _PLACES[number]
        shown = tile if number % 2 == 0 else tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        sheet.paste(shown, (column * _CELL, row * _CELL))
        boxes.append(Box(column * _CELL, row * _CELL, (column + 1) * _CELL, (row + 1) * _CELL))
    return sheet, boxes


def _peaks(classifier: Prepared, picture: Image.Image, boxes: Sequence[Box], index: int) -> tuple[Tensor, list[float]]:
    """The class activation map on the picture's own pixels, and its peak in each box."""
    image = _seen(classifier, picture)
    heat = F.interpolate(_cam(classifier, image, index)[None, None], (picture.height, picture.width), mode="bilinear")[
        0, 0
    ]
    return heat, instance_peaks(heat, boxes)


@figure(
    "8",
    "Several instances of the object",
    claim="With several instances the performance suffers: the map does not localize each of them well.",
    command="phosphene explain PICTURE --class CLASS --method cam --view whole",
)
def several_instances(material: Material) -> Drawn:
    """One to four copies of a cat and of an espresso, and real pictures with several boxes where they are given."""
    classifier = material.classifier
    mean = [round(255 * float(value)) for value in classifier.mean_image.flatten()]
    fill = (mean[0], mean[len(mean) // 2], mean[-1])
    rows: list[Image.Image] = []
    found: dict[int, list[float]] = {}
    lowest: dict[int, list[float]] = {}
    for name in ("cat", "espresso"):
        subject = _photograph(material, name)
        part = _square(material.photograph(name))
        tiles, labels = [], []
        for count in (1, 2, 3, 4):
            sheet, boxes = _copies(part, count, fill)
            heat, peaks = _peaks(classifier, sheet, boxes, subject.index)
            tiles.append(_laid(sheet, heat))
            labels.append("peaks " + " ".join(f"{peak:.2f}" for peak in peaks))
            found.setdefault(count, []).append(instances_found(heat, boxes))
            lowest.setdefault(count, []).append(min(peaks))
        rows.append(side_by_side(tiles, labels, height=200))
    share = {count: float(np.mean(values)) for count, values in found.items()}
    weakest = {count: float(np.mean(values)) for count, values in lowest.items()}
    checks = {
        "the weakest instance gets cooler with more of them": weakest[4] < weakest[2] < weakest[1],
        "of four copies not all are found": share[4] < 1,
    }
    facts: dict[str, Any] = {
        "instances_found": {str(count): value for count, value in share.items()},
        "weakest_peak": {str(count): value for count, value in weakest.items()},
    }
    if material.truths:
        real, picture = _real_instances(material)
        facts["real"] = real
        rows += [picture] if picture is not None else []
        counts = sorted(real, key=int)
        checks["in real pictures fewer of several instances are found than of one"] = len(counts) > 1 and (
            min(real[count]["found"] for count in counts[1:]) < real[counts[0]]["found"]
        )
    return Drawn(stacked(rows), checks, facts)


def _real_instances(material: Material) -> tuple[dict[str, dict[str, float]], Image.Image | None]:
    """By number of instances (4 for more) how many are found, and four pictures with several."""
    groups: dict[int, list[float]] = {}
    weakest: dict[int, list[float]] = {}
    tiles: list[Image.Image] = []
    labels: list[str] = []
    for number, truth in enumerate(material.truths):
        material.announce(number, len(material.truths), "instances")
        picture = to_pil(read_image(truth.path, **material.classifier.preprocess.reading))
        heat, peaks = _peaks(material.classifier, picture, truth.boxes, truth.index)
        count = min(4, len(truth.boxes))
        groups.setdefault(count, []).append(instances_found(heat, truth.boxes))
        weakest.setdefault(count, []).append(min(peaks))
        if count > 1 and len(tiles) < 4:
            none = [np.zeros((picture.height, picture.width), bool)] * len(truth.boxes)
            shown = draw_boxes(_laid(picture, heat), truth.boxes, [f"{peak:.2f}" for peak in peaks], none)
            tiles.append(shown)
            labels.append(material.classifier.labels[truth.index])
    facts = {
        str(count): {
            "pictures": len(groups[count]),
            "found": float(np.mean(groups[count])),
            "weakest_peak": float(np.mean(weakest[count])),
        }
        for count in sorted(groups)
    }
    return facts, side_by_side(tiles, labels, height=200) if tiles else None


@figure(
    "pooling",
    "The closing guess: another pooling than the average",
    claim="CAM likely suffers from global average pooling, by which the weights are found; a conventional pooling "
    "layer might improve it.",
    command="phosphene figures report --class-folders FOLDER --out DIR",
)
def other_poolings(material: Material) -> Drawn:
    """Heads fitted on features pooled in three ways, and how evenly their maps find two instances side by side."""
    features, truth, paths, labels = _features_of_folders(material)
    pooled = {name: pool(features) for name, pool in _POOLINGS.items()}
    random = np.random.default_rng(material.seed)
    order = random.permutation(len(truth))
    fitted, kept = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    heads = {name: _logistic(values[fitted], truth[fitted], material.seed) for name, values in pooled.items()}
    accuracy = {
        name: float((heads[name].predict(values[kept]) == truth[kept]).mean()) for name, values in pooled.items()
    }
    pairs = _pairs(kept, truth, 6 if material.quick else 40, random)
    tiles: list[Image.Image] = []
    texts: list[str] = []
    peaks: dict[str, list[float]] = {name: [] for name in heads}
    found: dict[str, list[float]] = {name: [] for name in heads}
    for number, (one, other) in enumerate(pairs):
        material.announce(number, len(pairs), "poolings")
        picture = _beside(*(_square(to_pil(read_image(paths[row], 3))) for row in (one, other)))
        boxes = [Box(0, 0, _SIDE, _SIDE), Box(_SIDE, 0, 2 * _SIDE, _SIDE)]
        _, maps, _ = head_features(material.classifier, _seen(material.classifier, picture))
        if number < 3:
            tiles.append(picture)
            texts.append(labels[truth[one]])
        for name, head in heads.items():
            weights = _class_weights(head, truth[one])
            heat = _pooled_map(maps[0].cpu(), weights, name)
            heat = F.interpolate(heat[None, None], (picture.height, picture.width), mode="bilinear")[0, 0]
            peaks[name].append(min(instance_peaks(heat, boxes)))
            found[name].append(instances_found(heat, boxes))
            if number < 3:
                tiles.append(_laid(picture, heat))
                texts.append(f"{name}: weaker peak {peaks[name][-1]:.2f}")
    mean = {name: float(np.mean(values)) for name, values in peaks.items()}
    share = {name: float(np.mean(values)) for name, values in found.items()}
    others = [name for name in heads if name != "average"]
    starts = range(0, len(tiles), len(heads) + 1)
    ends = [start + len(heads) + 1 for start in starts]
    rows = [side_by_side(tiles[one:end], texts[one:end], height=110) for one, end in zip(starts, ends, strict=True)]
    return Drawn(
        stacked(rows),
        {
            "another pooling makes the weaker of two instances hotter than the average does (by .02)": max(
                mean[name] for name in others
            )
            > mean["average"] + 0.02,
            "and finds more of the instances": max(share[name] for name in others) > share["average"],
            "at no cost in accuracy (.01)": max(accuracy[name] for name in others) >= accuracy["average"] - 0.01,
        },
        {"pairs": len(pairs), "weaker_peak": mean, "instances_found": share, "accuracy": accuracy},
    )


def _features_of_folders(material: Material) -> tuple[Tensor, np.ndarray, list[str], list[str]]:
    """((N, k, h, w) last features, classes, paths, labels) of up to 100 pictures of each folder."""
    if material.class_folders is None:
        raise LeftOutError("needs pictures of two classes or more, a folder for each: --class-folders FOLDER")
    groups = sorted(folder for folder in material.class_folders.iterdir() if folder.is_dir())
    parts, truth, paths = [], [], []
    limit = 10 if material.quick else 100
    for number, group in enumerate(groups):
        files = [str(path) for path in list_images(group)[:limit]]
        for start in range(0, len(files), 8):
            material.announce(start, len(files), f"features of {group.name}")
            images = torch.cat([_seen(material.classifier, path) for path in files[start : start + 8]])
            parts.append(head_features(material.classifier, images)[1].cpu())
        truth += [number] * len(files)
        paths += files
    return torch.cat(parts), np.array(truth), paths, [group.name for group in groups]


def _quarters(features: Tensor) -> Tensor:
    """A conventional pooling layer: the mean in each quarter, kept apart."""
    return F.adaptive_avg_pool2d(features, 2).flatten(1)


_POOLINGS: dict[str, Callable[[Tensor], Any]] = {
    "average": lambda features: features.mean(dim=(2, 3)).numpy(),
    "maximum": lambda features: features.amax(dim=(2, 3)).numpy(),
    "quarters": lambda features: _quarters(features).numpy(),
}


def _logistic(values: np.ndarray, truth: np.ndarray, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=500, random_state=seed))
    return fitted.fit(values, truth)


def _class_weights(head: Any, index: int) -> Tensor:
    """The class's weights on the pooled features themselves, the standardization folded in."""
    scaler, logistic = head[0], head[1]
    rows = logistic.coef_ / scaler.scale_
    row = rows[index] if len(rows) > 1 else rows[0] * (1 if index == 1 else -1)
    return torch.from_numpy(row).float()


def _pooled_map(features: Tensor, weights: Tensor, pooling: str) -> Tensor:
    """(h, w): what each place would add to the score: features (k, h, w) by the weights of its quarter or of all."""
    if pooling != "quarters":
        return torch.einsum("k,khw->hw", weights, features)
    places = weights.reshape(len(features), 2, 2)
    spread = F.interpolate(places[None], features.shape[-2:], mode="nearest")[0]
    return (spread * features).sum(dim=0)


def _pairs(kept: np.ndarray, truth: np.ndarray, count: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """Pairs of held-out pictures of one class."""
    found: list[tuple[int, int]] = []
    for label in np.unique(truth[kept]):
        own = random.permutation(kept[truth[kept] == label])
        found += [(int(one), int(other)) for one, other in pairwise(own)][::2]
    return [found[place] for place in random.permutation(len(found))[:count]]
