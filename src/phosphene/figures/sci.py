"""Saliency-driven class impressions (addepalli2020): figures 1 to 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from phosphene.figures.figure import Drawn, figure
from phosphene.figures.material import Material
from phosphene.images import to_pil
from phosphene.maps import blur
from phosphene.render import contact_sheet
from phosphene.runtime import forward
from phosphene.tasks.read_impressions import judge_impressions, read_impressions
from phosphene.types import Impression

# The plain ascent over the whole image, with the step of total variation once in k iterations, or never.
_WHOLE = "sci:preset=paper,mask=none,weight=none,pre_steps=0,tv_every={}"


def _variation(images: Tensor) -> Tensor:
    """(N,) the total variation of equation 1 per pixel and channel."""
    down = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(1, 2, 3))
    across = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
    return down + across


def _smoothed_alike(image: Tensor, wanted: float) -> Tensor:
    """The image (C, H, W) under the Gaussian that leaves it as much total variation as is wanted."""
    low, high = 0.0, 16.0
    for _ in range(18):
        middle = (low + high) / 2
        low, high = (middle, high) if float(_variation(blur(image, middle)[None])) > wanted else (low, middle)
    return blur(image, high)


def _probability(material: Material, images: Tensor, index: int) -> list[float]:
    classifier = material.classifier
    found: list[float] = classifier.probabilities(forward(classifier, images.to(classifier.device)))[:, index].tolist()
    return found


@figure(
    "1",
    "Total variation: never, once in two iterations, in each",
    claim="Total variation in the objective smooths an impression and keeps what the class needs, such as the eye; a "
    "low-pass filter on the finished picture would lose it.",
    command="phosphene impress tench --recipe sci:mask=none,weight=none,pre_steps=0,tv_every=2 --preset paper",
)
def total_variation(material: Material) -> Drawn:
    """Class impressions of a tench without total variation, with it every second step, and in each step."""
    made = [material.impressions(["tench"], _WHOLE.format(k), 240)[0] for k in (0, 2, 1)]
    images = torch.stack([one.image for one in made])
    index = made[0].target.classes[0]
    variation = _variation(images).tolist()
    passed = _smoothed_alike(images[0], variation[2])
    shares = _probability(material, torch.cat([images, passed[None]]), index)
    labels = ["(a) without", "(b) k = 2", "(c) k = 1", "(a) under a low pass as smooth as (c)"]
    tiles = [to_pil(image) for image in (*images, passed)]
    texts = [f"{label}\nvariation {value:.3f}, p {share:.2f}" for label, value, share in zip(
        labels, [*variation, float(_variation(passed[None]))], shares, strict=True
    )]  # fmt: skip
    return Drawn(
        contact_sheet(tiles, texts, columns=4, cell=224),
        {
            "smoother the more often total variation is applied": variation[0] > variation[1] > variation[2],
            "the class is kept under it": min(shares[1:3]) > 0.5,
            "a low pass of the same smoothness loses more of the class": shares[3] < shares[2],
        },
        {"total_variation": variation, "probability": shares[:3], "probability_low_pass": shares[3]},
        {f"k{k}": to_pil(image) for k, image in zip((0, 2, 1), images, strict=True)},
    )


@figure(
    "2",
    "Objects along the iterations of a class impression",
    claim="A class impression raises its score by more instances of the class as the iterations go on: two Madagascar "
    "cats at 100, three at 200, four at 500.",
    command="phosphene impress 'Madagascar cat' --recipe class_impression:early_stop=false --preset paper "
    "--steps 500 --frames",
)
def repetition(material: Material) -> Drawn:
    """The single-object index and the object count of a class impression at 100, 200 and 500 iterations."""
    steps = 500
    (made,) = material.impressions(
        ["Madagascar cat"], "class_impression:preset=paper,early_stop=false", steps, frames=steps // 20
    )
    assert made.frames is not None
    wanted = [material.steps(count) for count in (100, 200, 500)]
    rows = [min(range(len(made.frame_steps)), key=lambda row: abs(made.frame_steps[row] - at)) for at in wanted]
    shown = [replace(made, image=made.frames[row].float() / 255) for row in rows]
    read = read_impressions(material.classifier, shown)
    at = [made.frame_steps[row] for row in rows]
    counts, indices = [one.object_count or 0 for one in read], [one.single_object_index or 0.0 for one in read]
    texts = [
        f"after {step} iterations\nobjects {count}, index {index:+.2f}"
        for step, count, index in zip(at, counts, indices, strict=True)
    ]
    return Drawn(
        contact_sheet([to_pil(one.image) for one in shown], texts, columns=3, cell=224),
        {
            "more objects in the end than at first": counts[-1] > counts[0],
            "never fewer from one picture to the next": counts == sorted(counts),
            "the single-object index is below 0 in the end": indices[-1] < 0,
        },
        {"iterations": at, "object_count": counts, "single_object_index": indices},
    )


def _readings(material: Material, made: Sequence[Impression]) -> list[dict[str, Any]]:
    """What the own network and the judge read, ready for JSON."""
    own = read_impressions(material.classifier, made)
    judged = (
        [None] * len(made) if material.judge is None else judge_impressions(material.judge, made, material.classifier)
    )
    return [
        {
            "probability": [one.probability for one in mine.classes],
            "single_object_index": mine.single_object_index,
            "object_count": mine.object_count,
            "entropy": mine.entropy,
            "judge": None
            if theirs is None
            else {"model": theirs.model, "top1": theirs.top1, "top5": theirs.top5, "probability": theirs.probability},
        }
        for mine, theirs in zip(own, judged, strict=True)
    ]


def _line(reading: dict[str, Any]) -> str:
    judge = reading["judge"]
    index = reading["single_object_index"]
    parts = [f"p {reading['probability'][0]:.2f}", f"objects {reading['object_count']}"]
    parts += [] if index is None else [f"index {index:+.2f}"]
    parts += [] if judge is None else [f"judge {judge['probability']:.2f}"]
    return ", ".join(parts)


_PAIRS = ("water tower", "red fox", "broom")
_STEPS = 200


@figure(
    "3",
    "From the pre-CI to the post-CI",
    claim="The most activated region of a rough first impression, developed again at a lower rate in a growing mask, "
    "becomes a single object whose surroundings fade out.",
    command="phosphene impress 'water tower' 'red fox' broom --recipe sci",
)
def before_and_after(material: Material) -> Drawn:
    """The rough first impressions and what becomes of them, each read by the network."""
    made = material.impressions(_PAIRS, "sci", _STEPS)
    before = [replace(one, image=one.extras["pre_ci"]) for one in made]
    first, last = _readings(material, before), _readings(material, made)
    far = [_outside(one) for one in (*before, *made)]
    tiles, texts = [], []
    for name, pre, post, one, other in zip(_PAIRS, before, made, first, last, strict=True):
        tiles += [to_pil(pre.image), to_pil(post.image)]
        texts += [f"{name}, pre-CI\n{_line(one)}", f"post-CI\n{_line(other)}"]
    names = [f"{name.replace(' ', '-')}-{when}" for name in _PAIRS for when in ("pre", "post")]
    indices = [[row["single_object_index"] or 0.0 for row in rows] for rows in (first, last)]
    return Drawn(
        contact_sheet(tiles, texts, columns=2, cell=224),
        {
            "one object in each of them in the end": all(row["object_count"] == 1 for row in last),
            "the single-object index rises in each": all(one < other for one, other in zip(*indices, strict=True)),
            "the surroundings fade out": all(
                after < earlier for earlier, after in zip(far[: len(made)], far[len(made) :], strict=True)
            ),
        },
        {"pre": first, "post": last, "contrast_outside_the_disc": {"pre": far[: len(made)], "post": far[len(made) :]}},
        dict(zip(names, tiles, strict=True)),
    )


def _outside(made: Impression) -> float:
    """The standard deviation of the picture further than 100 of 224 pixels from its middle."""
    size = made.image.shape[-1]
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    far = torch.hypot(rows - size / 2, columns - size / 2) > 100 / 224 * size
    return float(made.image[:, far].std())


@figure(
    "4",
    "Saliency-driven impressions beside the baseline's",
    claim="Single instances of much better quality, where Ask, Acquire and Attack draws several.",
    command="phosphene impress 'water tower' 'red fox' broom --recipe class_impression --preset paper; the same with "
    "--recipe sci",
)
def beside_the_baseline(material: Material) -> Drawn:
    """Water tower, red fox and broom by the published generator of class impressions and by sci."""
    theirs = material.impressions(_PAIRS, "class_impression", 1500, preset="paper")
    ours = material.impressions(_PAIRS, "sci", _STEPS)
    baseline, readings = _readings(material, theirs), _readings(material, ours)
    tiles, texts = [], []
    for name, one, other, left, right in zip(_PAIRS, theirs, ours, baseline, readings, strict=True):
        tiles += [to_pil(one.image), to_pil(other.image)]
        texts += [f"{name}, AAA ({one.steps} steps)\n{_line(left)}", f"ours\n{_line(right)}"]
    checks = {
        "one object in each of ours": all(row["object_count"] == 1 for row in readings),
        "a higher single-object index in each pair": all(
            right["single_object_index"] > left["single_object_index"]
            for left, right in zip(baseline, readings, strict=True)
        ),
        "several objects in each of the baseline's": all((row["object_count"] or 0) > 1 for row in baseline),
    }
    if material.judge is not None:
        checks["a network that took no part reads ours as more probable in each pair"] = all(
            right["judge"]["probability"] > left["judge"]["probability"]
            for left, right in zip(baseline, readings, strict=True)
        )
    return Drawn(contact_sheet(tiles, texts, columns=2, cell=224), checks, {"baseline": baseline, "ours": readings})


_GROUPS = (("tench", "hen"), ("pop bottle", "hen"))


@figure(
    "5",
    "Negative images: a fish and a hen, a bottle and a hen",
    claim="A natural fusion of two classes, which belongs to neither of them confidently.",
    command="phosphene fuse tench hen",
)
def fusions(material: Material) -> Drawn:
    """Two fused images, and the probability of each of their classes."""
    made = material.fused(_GROUPS, "fuse", 240)
    read = _readings(material, made)
    images = torch.stack([one.image for one in made]).to(material.classifier.device)
    among = [
        {best.index for best in row} for row in material.classifier.predictions(forward(material.classifier, images))
    ]
    tiles = [to_pil(one.image) for one in made]
    texts = [
        f"{' + '.join(group)}\np {' and '.join(f'{share:.2f}' for share in row['probability'])}, "
        f"entropy {row['entropy']:.2f}"
        for group, row in zip(_GROUPS, read, strict=True)
    ]
    return Drawn(
        contact_sheet(tiles, texts, columns=2, cell=224),
        {
            "no class of a fused image above .55": all(max(row["probability"]) <= 0.55 for row in read),
            "all of its classes among the five best": all(
                set(one.target.classes) <= best for one, best in zip(made, among, strict=True)
            ),
            "each of its classes above .2": all(min(row["probability"]) > 0.2 for row in read),
        },
        {"fused": [{"classes": list(group), **row} for group, row in zip(_GROUPS, read, strict=True)]},
    )
