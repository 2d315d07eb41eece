"""Networks in Keras files, run by Keras on PyTorch: "keras:FILE"."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.errors import ModelError, to_install
from phosphene.zoo.card import Unstated
from phosphene.zoo.foreign import Taken, network_file, one_input
from phosphene.zoo.source import model_source
from phosphene.zoo.weights import Weights, first_line


@model_source("keras", "keras:FILE")
def load(name: str, weights: Weights = None) -> Classifier:
    """The network in a .keras file: it has scores and gradients, but its layers are not to be looked at.

    Keras calls its layers in a way of its own, past the hooks by which a layer of PyTorch is watched. How to feed the
    network stands in the JSON card beside it. Nothing in the file is run: Keras refuses lambdas and code of others.

    Args:
        name: path of the file.
        weights: none; the file holds its own.

    Raises:
        MissingExtraError: if Keras is not installed.
        ModelError: if Keras runs on something else than PyTorch, the file cannot be read, or takes something else than
            one batch of pictures.
    """
    path = network_file(name, weights, "keras")
    keras = _keras()
    try:
        model = keras.saving.load_model(path, compile=False)
    except Exception as error:  # the reader raises classes of its own
        raise ModelError(f"{path}: no readable Keras file ({first_line(error)})") from None
    one_input(path, [(one.name, one.shape) for one in model.inputs])
    taken = Taken(tuple(model.inputs[0].shape), np.float32, keras.config.image_data_format() == "channels_last")
    # (What it divides by itself it takes as bytes.)
    white = 255.0 if _divides_bytes(keras, model) else 1.0
    return Classifier(
        ChannelsFirst(model, taken.channels_last), Unstated(taken.size, None, *taken.scale, scale=white), name=path.name
    )


class ChannelsFirst(nn.Module):
    """A Keras model as a function of images (N, C, H, W).

    Args:
        model: the model.
        last: whether it takes them as (N, H, W, C).
    """

    def __init__(self, model: Any, last: bool) -> None:
        super().__init__()
        self.model, self.last = model, last

    def forward(self, images: Tensor) -> Any:
        return self.model(images.permute(0, 2, 3, 1) if self.last else images, training=False)


def _divides_bytes(keras: Any, model: Any) -> bool | None:
    """Whether the first of its steps that computes anything scales 0 to 255 down, as Rescaling(1 / 255) does.

    None where there is no such step, as in a part that augments pictures.
    """
    for step in getattr(model, "operations", model.layers):
        if isinstance(step, keras.Model):
            found = _divides_bytes(keras, step)
            if found is not None:
                return found
        elif isinstance(step, keras.layers.Rescaling):
            return bool(np.max(np.abs(step.scale)) < 1 / 64)
        elif not isinstance(step, keras.layers.Layer) or isinstance(step, keras.layers.Normalization) or step.weights:
            return False
    return None


def _keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")  # (read once, when Keras is imported)
    try:
        keras = import_module("keras")
    except ImportError:
        raise to_install("Keras is not installed", "keras>=3") from None
    running = keras.config.backend() if hasattr(keras, "config") else "tensorflow"
    if running != "torch":
        raise ModelError(
            f"Keras runs on {running} here; set KERAS_BACKEND=torch before it is imported, or export the model to ONNX "
            "(onnx:FILE has scores alone)"
        )
    return keras
