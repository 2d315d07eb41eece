"""Deep Inside Convolutional Networks (simonyan2014): figures 1 to 3, and section 4 shown on a real network."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from phosphene.evaluation.localization import localization
from phosphene.figures.figure import Drawn, figure
from phosphene.figures.material import Material
from phosphene.geometry import lay_on_original, whole_view
from phosphene.images import to_pil
from phosphene.localization.presets import preset
from phosphene.metrics.evidence_share import evidence_share
from phosphene.metrics.iou import best_iou
from phosphene.render import (
    contact_sheet,
    draw,
    reconstruction_picture,
    side_by_side,
    stacked,
    steps_picture,
)
from phosphene.runtime import Prepared, activations, forward, input_gradient
from phosphene.targets import Target, Unit
from phosphene.tasks.attributions import attribute, explain
from phosphene.tasks.objects import Located, locate
from phosphene.types import Attribution

_CLASSES = ("dumbbell", "cup", "dalmatian", "bell pepper", "lemon", "husky")
_PENALTIES = (0.0, 1e-3, 1e-2, 1e-1)
_SWEEP_STEPS = 100
_PHOTOGRAPHS = ("cat", "espresso", "rocket", "flower")


@figure(
    "1",
    "Class models, and a sweep of the penalty",
    claim="Images that maximize a class score, kept small by their norm, illustrate the class; different aspects of "
    "its appearance are captured in one image.",
    command="phosphene impress dumbbell cup dalmatian 'bell pepper' lemon 'Siberian husky' --recipe class_model",
)
def class_models(material: Material) -> Drawn:
    """Six class models, and one class at four penalties as the paper has it: no augmentation, plain gradients."""
    made = material.impressions(_names(material), "class_model", 200)
    plain = [
        material.impressions(["dalmatian"], f"class_model:penalty={penalty:g}", _SWEEP_STEPS, preset="paper")[0]
        for penalty in _PENALTIES
    ]
    classifier = material.classifier
    images = torch.stack([one.image for one in (*made, *plain)]).to(classifier.device)
    logits = forward(classifier, images)
    first = [best[0].index for best in classifier.predictions(logits)]
    wanted = [one.target.classes[0] for one in (*made, *plain)]
    size = (int(images.shape[-2]), int(images.shape[-1]))
    norms = (images - classifier.mean_picture(size)).square().flatten(1).sum(dim=1).tolist()
    scores = [float(row[index]) for row, index in zip(logits, wanted, strict=True)]
    shares = [float(row[index]) for row, index in zip(classifier.probabilities(logits), wanted, strict=True)]
    tiles = [to_pil(image) for image in images.cpu()]
    texts = [
        f"{classifier.labels[index]}\nscore {score:.1f}, p {share:.2f}"
        for index, score, share in list(zip(wanted, scores, shares, strict=True))[: len(made)]
    ]
    texts += [
        f"dalmatian, penalty {penalty:g}\nscore {score:.1f}, norm {norm:.0f}"
        for penalty, score, norm in zip(_PENALTIES, scores[len(made) :], norms[len(made) :], strict=True)
    ]
    swept = norms[len(made) :]
    return Drawn(
        contact_sheet(tiles, texts, columns=5, cell=224),
        {
            "the network's first answer to each class model is its class": first[: len(made)] == wanted[: len(made)],
            "the larger the penalty the smaller the image": all(later < earlier for earlier, later in pairwise(swept)),
            "a penalty costs score": scores[-1] < scores[len(made)],
        },
        {
            "classes": [classifier.labels[index] for index in wanted[: len(made)]],
            "scores": scores[: len(made)],
            "probabilities": shares[: len(made)],
            "penalties": list(_PENALTIES),
            "norms_of_the_sweep": swept,
            "scores_of_the_sweep": scores[len(made) :],
        },
        {f"penalty-{penalty:g}": tile for penalty, tile in zip(_PENALTIES, tiles[len(made) :], strict=True)},
    )


def _names(material: Material) -> list[str]:
    """The classes by the names that the network has for them."""
    labels = material.classifier.labels
    return [labels[labels.search(name)[0]] if labels.search(name) else name for name in _CLASSES]


@figure(
    "2",
    "Image-specific class saliency, opaque and laid on the picture",
    claim="One back-propagation gives a map that highlights the object of the top class, without any annotation; ten "
    "crops are averaged.",
    command="phosphene explain PICTURE --method saliency:crops=10 --render both",
)
def saliency_maps(material: Material) -> Drawn:
    """Four photographs, their ten-crop saliency by itself and laid on them."""
    rows: list[Image.Image] = []
    facts: list[dict[str, Any]] = []
    for name in _PHOTOGRAPHS:
        picture = material.photograph(name)
        result = explain(material.classifier, picture, "saliency:crops=10", seed=material.seed)
        label = material.classifier.labels[result.target.classes[0]]
        inside = _object_of(material, picture, result.target.classes[0])
        share, area = _share_inside(result, inside)
        labels = [label, "saliency of ten crops", f"{share:.0%} of it on the object's {area:.0%}"]
        rows.append(
            side_by_side([picture, draw(result, side=480, render="map"), draw(result, side=480)], labels, height=180)
        )
        facts.append({"picture": name, "class": label, "share_on_the_object": share, "area_of_the_object": area})
    density = [fact["share_on_the_object"] / fact["area_of_the_object"] for fact in facts]
    return Drawn(
        stacked(rows),
        {
            "denser on the object than elsewhere in most pictures": sum(value > 1 for value in density)
            > len(density) / 2,
            "in each picture": min(density) > 1,
            "at least one and a half times as dense on average": float(np.mean(density)) > 1.5,
        },
        {"pictures": facts},
    )


def _object_of(material: Material, picture: Image.Image, index: int) -> Tensor:
    """(H, W) boolean: where the class's object is by the preset `best`, which sees other maps."""
    (found,) = locate(material.classifier, picture, target=index, preset="best", seed=material.seed)
    return torch.from_numpy(found.mask)


def _share_inside(result: Attribution, inside: Tensor) -> tuple[float, float]:
    """(share of the map's values on the object, share of the seen area that it covers)."""
    view = result.views[0]
    laid = lay_on_original(result.heat[0], *result.heat_grid, view).cpu()
    seen = lay_on_original(torch.ones_like(result.heat[0]), *result.heat_grid, view).cpu() > 0
    masks = (inside & seen)[None]
    return float(evidence_share(laid[None], masks)), float(masks.sum() / seen.sum())


@figure(
    "3",
    "Weakly supervised segmentation: picture, saliency, samples, object",
    claim="GraphCut from samples of the most and the least salient pixels propagates the map to the whole object; "
    "46.4 % top-5 localization error on ILSVRC-2013.",
    command="phosphene locate PICTURE --preset paper; phosphene evaluate localization --images DIR --boxes FILE "
    "--preset paper",
)
def segmentation(material: Material) -> Drawn:
    """The steps from map to box for four photographs; with true boxes the localization error of up to 100 pictures."""
    rows: list[Image.Image] = []
    facts: list[dict[str, Any]] = []
    for name in _PHOTOGRAPHS:
        picture = material.photograph(name)
        (found,) = locate(material.classifier, picture, preset="paper", seed=material.seed)
        (best,) = locate(material.classifier, picture, target=found.index, preset="best", seed=material.seed)
        rows.append(_steps(picture, found))
        assert found.segmentation.samples is not None
        facts.append(
            {
                "picture": name,
                "class": found.label,
                "box": list(found.box),
                "overlap_with_best": best_iou(found.box, [best.box]),
                "foreground_share": float(found.segmentation.samples.foreground.mean()),
                "background_share": float(found.segmentation.samples.background.mean()),
                "mask_share": float(found.mask.mean()),
            }
        )
    checks = {
        "5 % of the pixels teach the object's colors": all(abs(f["foreground_share"] - 0.05) < 0.01 for f in facts),
        "the mask is larger than the samples: the cut propagates": all(
            fact["mask_share"] > fact["foreground_share"] for fact in facts
        ),
        "at least half of the boxes overlap those of the preset best by half": float(
            np.mean([fact["overlap_with_best"] >= 0.5 for fact in facts])
        )
        >= 0.5,
    }
    measured: dict[str, Any] = {"pictures": facts}
    if material.truths:
        some = material.truths[:: max(1, len(material.truths) // 100)]
        result = localization(
            material.classifier, some, [preset("paper")], seed=material.seed, progress=material.announce
        )
        measured["localization"] = {"images": result.images, **result.rows[0].row()}
        checks["top-5 localization error at most the paper's 46.4 %"] = measured["localization"]["top5_error"] <= 0.464
    return Drawn(stacked(rows), checks, measured)


def _steps(picture: Image.Image, found: Located) -> Image.Image:
    samples = found.segmentation.samples
    assert samples is not None
    pair = (samples.foreground, samples.background)
    return steps_picture(picture, found.evidence, pair, found.mask, found.box, height=180)


@figure(
    "section-4",
    "DeconvNet, gradient and guided back-propagation on a network with max-pooling",
    claim="Apart from the ReLU a DeconvNet's reconstruction is the gradient: convolutions and max-pooling go back the "
    "same way.",
    command="phosphene explain PICTURE --model SPEC --unit LAYER=CHANNEL --method deconvnet --method guided_backprop",
)
def relation_to_deconvnets(material: Material) -> Drawn:
    """Two photographs through the three rules; and a channel in front of the first ReLU, where all must agree."""
    pooling = material.need_pooling()
    rows, labels, backs, dead = [], [], [], []
    start = Target(unit=_first_channel(pooling))
    errors = []
    for name in ("cat", "espresso"):
        picture = material.photograph(name)
        images = pooling.preprocessed([picture], pooling.views([picture]))
        best = int(forward(pooling, images)[0].argmax())
        neuron = _strongest(pooling, images)
        goal = Target(unit=neuron)
        deconv, guided = (attribute(pooling, images, goal, rule) for rule in ("deconvnet", "guided_backprop"))
        plain = replace(deconv, reconstruction=_gradient(pooling, images, goal))
        rows += [to_pil(images[0].cpu()), *(_back(one) for one in (deconv, plain, guided))]
        labels += [f"{name}: {pooling.labels[best]}", "DeconvNet", "gradient", "guided back-propagation"]
        backs.append([_color(one) for one in (deconv, plain, guided)])
        dead.append(attribute(pooling, images, Target.of(best), "deconvnet").problems[0] is not None)
        below, same = _color(attribute(pooling, images, start, "deconvnet")), _gradient(pooling, images, start)
        errors.append(float((below - same).abs().max() / same.abs().max().clamp(min=1e-30)))
    cosines: dict[str, Any] = {
        "deconvnet_and_gradient": [_cosine(deconv, plain) for deconv, plain, _ in backs],
        "guided_and_gradient": [_cosine(guided, plain) for _, plain, guided in backs],
        "deconvnet_of_two_pictures": _cosine(backs[0][0], backs[1][0]),
    }
    return Drawn(
        contact_sheet(rows, labels, columns=4, cell=224),
        {
            "in front of the first ReLU DeconvNet is the gradient (relative error below 1e-5)": max(errors) < 1e-5,
            "behind ReLUs they differ": max(cosines["deconvnet_and_gradient"]) < 0.99,
            "the switches of max-pooling tie DeconvNet to the picture": cosines["deconvnet_of_two_pictures"] < 0.9,
        },
        {
            "model": pooling.name,
            "neuron": str(neuron),
            "relative_error_in_front_of_the_first_relu": max(errors),
            "deconvnet_of_the_class_score_is_zero": dead,
            **cosines,
        },
    )


def _strongest(classifier: Prepared, images: Tensor) -> Unit:
    """The strongest neuron of the default layer: a DeconvNet starts from one (zeiler2014)."""
    layer = classifier.default_layer
    _, found = activations(classifier, images, [layer])
    channel, row, column = np.unravel_index(int(found[layer][0].argmax()), tuple(found[layer].shape[1:]))
    return Unit(layer, int(channel), (int(row), int(column)))


def _color(result: Attribution) -> Tensor:
    assert result.reconstruction is not None
    return result.reconstruction.cpu()


def _gradient(classifier: Prepared, images: Tensor, goal: Target) -> Tensor:
    """(N, C, H, W) the plain gradient of a class or a unit."""
    return input_gradient(classifier, images, goal)[1].cpu()


def _first_channel(classifier: Prepared) -> Unit:
    """The first channel of the first convolution, in front of any ReLU."""
    layers = [layer for layer in sorted(classifier.layers, key=lambda layer: layer.order) if layer.kind == "Conv2d"]
    return Unit(layers[0].name, 0)


def _back(result: Attribution) -> Image.Image:
    """What came back to the image, in color, zero in the middle gray."""
    shown = reconstruction_picture(result, whole_view(result.size, result.size), 224)
    assert shown is not None
    return shown


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.cpu().flatten(), other.cpu().flatten(), dim=0))
