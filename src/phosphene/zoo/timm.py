"""Networks of timm with the preprocessing and labels published with them: "timm:NAME"."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

from torch import nn

from phosphene.classifier import Classifier, Labels, Preprocess
from phosphene.errors import ModelError, NotFoundError, suggest, to_install
from phosphene.zoo.embedded import imagenet_labels
from phosphene.zoo.source import model_source
from phosphene.zoo.weights import Weights, built_for, first_line, is_local, no_download

_HUBS = ("hf-hub:", "hf_hub:", "local-dir:")


@model_source("timm", "timm:NAME")
def load(name: str, weights: Weights = None) -> Classifier:
    """A timm classifier with its published weights, or with those of a local file.

    Pictures are resized and cut as timm's evaluation does. Two rare modes are ours: "squash" fills the whole input,
    and "border" is read as the usual centre crop.

    Args:
        name: a model of timm, with or without the tag of its weights ("resnet18", "vit_tiny_patch16_224.augreg_in21k").
        weights: a .safetensors or .pt file, of any number of classes; "random" for an untrained network.

    Raises:
        MissingExtraError: if timm is not installed.
        NotFoundError: for an unknown name, with the nearest ones.
        ModelError: if the weights cannot be downloaded or do not fit.
    """
    timm = _timm()
    _check_name(timm, name)
    if is_local(weights):
        network, _ = built_for(weights, lambda count: _create(timm, name, num_classes=count))
    else:
        network = _create(timm, name, pretrained=weights is None)
    if not getattr(network, "num_classes", 1):
        raise ModelError(f"timm:{name} has no classes: it makes features; choose a classifier")
    return classifier_of(network.eval(), f"timm:{name}")


def classifier_of(network: nn.Module, name: str | None = None) -> Classifier:
    """A Classifier of a network of timm, which says how it is fed and what its classes are."""
    timm = _timm()
    return Classifier(network, _preprocess(timm, network), _labels(timm, network), name=name)


def _timm() -> Any:
    try:
        import_module("timm.data")
        return import_module("timm")
    except ImportError:
        raise to_install("timm is not installed", "timm>=1.0") from None


def _create(timm: Any, name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # the hub's client raises what its version happens to raise
        if not pretrained:
            raise ModelError(f"timm:{name} cannot be made ({first_line(error)})") from error
        raise no_download(f"timm:{name}", error) from error
    return network


def _check_name(timm: Any, name: str) -> None:
    if not name:
        raise NotFoundError("timm: name a model, such as timm:resnet18")
    base = name.partition(".")[0]
    if not name.startswith(_HUBS) and not timm.is_model(base):
        raise NotFoundError(f"timm has no model '{base}'{suggest(base, timm.list_models())}")


def _preprocess(timm: Any, network: nn.Module) -> Preprocess:
    facts = timm.data.resolve_model_data_config(network)
    height, width = facts["input_size"][-2:]
    short_side = math.floor(min(height, width) / facts["crop_pct"])
    interpolation = facts["interpolation"]
    return Preprocess(
        (height, width),
        None if facts["crop_mode"] == "squash" else short_side,
        tuple(facts["mean"]),
        tuple(facts["std"]),
        interpolation if interpolation in ("bilinear", "bicubic", "nearest", "lanczos") else "bicubic",
    )


def _labels(timm: Any, network: Any) -> Labels | None:
    """The names of the data set the weights were trained on, where timm knows it."""
    subset = timm.data.infer_imagenet_subset(network)
    if subset == "imagenet-1k":
        return imagenet_labels()
    if subset:
        info = timm.data.ImageNetInfo(subset)
        indices = range(info.num_classes())
        return Labels(
            tuple(info.index_to_description(index).partition(",")[0] for index in indices),
            tuple(info.index_to_label_name(index) for index in indices),
        )
    names = (getattr(network, "pretrained_cfg", None) or {}).get("label_names")
    return Labels(tuple(names)) if names and len(names) == network.num_classes else None
