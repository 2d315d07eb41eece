"""Networks in TensorFlow Lite files, run by LiteRT: "tflite:FILE"."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from phosphene.classifier import Classifier
from phosphene.errors import ModelError, to_install
from phosphene.zoo.foreign import Taken, classifier_of, network_file, one_input
from phosphene.zoo.source import model_source
from phosphene.zoo.weights import Weights, first_line

_FLOATS = (np.float32, np.float16)
_WHOLE = (np.uint8, np.int8)


@model_source("tflite", "tflite:FILE")
def load(name: str, weights: Weights = None) -> Classifier:
    """The network in a TensorFlow Lite file as a ScoreFunction: it has scores, but neither layers nor gradients.

    How to feed it stands in the JSON card beside it. Of a quantized input the card says the numbers before they are
    quantized; without one white and black are the ends of its range, as converters make them. Quantized outputs are
    read as the numbers that they stand for. A batch of fixed size, mostly of one, is run part by part.

    Args:
        name: path of the file.
        weights: none; the file holds its own.

    Raises:
        MissingExtraError: if LiteRT is not installed.
        ModelError: if the file cannot be read, or takes something else than one batch of pictures.
    """
    path = network_file(name, weights, "tflite")
    run = _Run(path)
    return classifier_of(path, run.taken, run)


class _Run:
    """Runs batches, one at a time: an interpreter has one place for what it is given."""

    def __init__(self, path: Path) -> None:
        self.interpreter, self.lock = _interpreter(path), Lock()
        inputs = self.interpreter.get_input_details()
        shapes = [[None if side < 0 else int(side) for side in one["shape_signature"]] for one in inputs]
        one_input(path, [(one["name"], shape) for one, shape in zip(inputs, shapes, strict=True)])
        self.given, self.outputs = inputs[0], self.interpreter.get_output_details()
        kind = self.given["dtype"]
        if kind not in (*_FLOATS, *_WHOLE):
            raise ModelError(f"{path}: takes {kind.__name__}; phosphene gives float or whole numbers of 8 bits")
        mean, std = _ends_of_range(self.given) if kind in _WHOLE else (0.0, 1.0)
        # Whole numbers are made here, of what is normalized: "pictures" would leave no room for a card.
        self.taken = Taken(tuple(shapes[0]), kind if kind in _FLOATS else np.float32, True, mean, std)

    def __call__(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        given = _quantized(images, self.given)
        with self.lock:
            if tuple(self.given["shape"]) != given.shape:
                self.interpreter.resize_tensor_input(self.given["index"], given.shape)
                self.interpreter.allocate_tensors()
                self.given = self.interpreter.get_input_details()[0]
            self.interpreter.set_tensor(self.given["index"], given)
            self.interpreter.invoke()
            return {one["name"]: _numbers(self.interpreter.get_tensor(one["index"]), one) for one in self.outputs}


def _interpreter(path: Path) -> Any:
    try:
        runtime = import_module("ai_edge_litert.interpreter")
    except ImportError:
        raise to_install("LiteRT is not installed", "ai-edge-litert>=1.2") from None
    try:
        made = runtime.Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
        made.allocate_tensors()
    except Exception as error:  # the reader raises classes of its own
        raise ModelError(f"{path}: no readable TensorFlow Lite file ({first_line(error)})") from None
    return made


def _scale(details: Any) -> tuple[float, int]:
    """(scale, the whole number that stands for zero) of a tensor of whole numbers; 1 and 0 if they are themselves."""
    scale, zero = details["quantization"]
    return (float(scale), int(zero)) if scale else (1.0, 0)


def _ends_of_range(details: Any) -> tuple[float, float]:
    """(mean, std) that make the lowest whole number of black, and the highest of white; (0, 1) of too small a range."""
    scale, zero = _scale(details)
    lowest = np.iinfo(details["dtype"]).min
    return ((zero - lowest) / 255, 1 / (255 * scale)) if scale >= 1 / 255 else (0.0, 1.0)


def _quantized(values: NDArray[Any], details: Any) -> NDArray[Any]:
    """Numbers as the whole numbers that stand for them, where the file takes such."""
    kind = details["dtype"]
    if kind not in _WHOLE:
        return values
    scale, zero = _scale(details)
    ends = np.iinfo(kind)
    return np.clip(np.rint(values / scale + zero), ends.min, ends.max).astype(kind)


def _numbers(values: NDArray[Any], details: Any) -> NDArray[Any]:
    """The numbers that whole numbers stand for; others as they are."""
    if values.dtype.type not in _WHOLE:
        return values
    scale, zero = _scale(details)
    return (values.astype(np.float32) - zero) * scale
