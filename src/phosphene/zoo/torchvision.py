"""Networks of torchvision with the preprocessing and labels published with them: "torchvision:NAME"."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from phosphene.classifier import Classifier, Labels, Preprocess
from phosphene.errors import NotFoundError, suggest, to_install
from phosphene.zoo.embedded import imagenet_labels
from phosphene.zoo.source import model_source
from phosphene.zoo.weights import Weights, built_for, is_local, no_download, read_state_dict


@model_source("torchvision", "torchvision:NAME")
def load(name: str, weights: Weights = None) -> Classifier:
    """A torchvision classifier with published weights, or with those of a local file.

    Args:
        name: a classification model ("resnet18"), with or without the name of its weights
            ("resnet50:IMAGENET1K_V1"); torchvision's own default otherwise.
        weights: a .safetensors or .pt file, of any number of classes; "random" for an untrained network. The
            preprocessing stays that of the published weights, in googlenet and inception_v3 what they do to their input
            as well.

    Raises:
        MissingExtraError: if torchvision is not installed.
        NotFoundError: for an unknown name, with the nearest ones.
        ModelError: if the weights cannot be downloaded or do not fit.
    """
    models = _models()
    name, _, tag = name.partition(":")
    known = models.list_models(module=models)
    if name not in known:
        raise NotFoundError(f"torchvision has no classifier '{name}'{suggest(name, known)}")
    published = _published(models, name, tag)
    labels: Labels | None = _labels(published)
    if is_local(weights):
        network, classes = built_for(
            weights, lambda count: _untrained(models, name, count, **_as_published(name, weights))
        )
        labels = labels if classes is None else None
    elif weights is None:
        network = _trained(models, name, published)
    else:
        network = _untrained(models, name, None)
    spec = f"torchvision:{name}:{tag}" if tag else f"torchvision:{name}"
    return Classifier(network.eval(), _preprocess(published), labels, name=spec)


def _models() -> Any:
    try:
        return import_module("torchvision.models")
    except ImportError:
        raise to_install("torchvision is not installed", "torchvision>=0.23") from None


def _published(models: Any, name: str, tag: str) -> Any:
    choices = models.get_model_weights(name).__members__
    tag = tag or "DEFAULT"
    if tag not in choices:
        raise NotFoundError(f"torchvision:{name} has no weights '{tag}'{suggest(tag, choices)} ({', '.join(choices)})")
    return choices[tag]


def _trained(models: Any, name: str, published: Any) -> nn.Module:
    try:
        network: nn.Module = models.get_model(name, weights=published)
    except Exception as error:  # a failed download, a wrong checksum, a full disk
        raise no_download(f"torchvision:{name}", error) from error
    return network


# These two warn unless told how to start. Their published weights were taken over from TensorFlow: they want the
# pictures in [-1, 1], which the network does by itself with `transform_input`, off unless asked for.
_INCEPTIONS = ("googlenet", "inception_v3")


def _as_published(name: str, path: str | Path) -> dict[str, Any]:
    """How torchvision builds a network for its published weights, which a local file holds, tuned or as they are.

    The side branches that help in training are there if the file has them: they take no part in eval mode.
    """
    if name not in _INCEPTIONS:
        return {}
    aux = any("aux" in key.lower() for key in read_state_dict(path))
    return {"transform_input": True, "aux_logits": aux}


def _untrained(models: Any, name: str, classes: int | None, **options: Any) -> nn.Module:
    options |= {} if classes is None else {"num_classes": classes}
    if name in _INCEPTIONS:
        options["init_weights"] = False
    network: nn.Module = models.get_model(name, weights=None, **options)
    return network


def _preprocess(published: Any) -> Preprocess:
    shown = published.transforms()
    crop, short_side = shown.crop_size[0], shown.resize_size[0]
    return Preprocess((crop, crop), short_side, tuple(shown.mean), tuple(shown.std), shown.interpolation.value)


def _labels(published: Any) -> Labels:
    names, own = tuple(published.meta["categories"]), imagenet_labels()
    if len(names) != len(own):
        return Labels(names)
    # Torchvision publishes names alone; identifiers and synonyms of the same 1000 classes are known here.
    return Labels(names, own.ids, tuple((own[index], *own.synonyms[index]) for index in range(len(own))))
