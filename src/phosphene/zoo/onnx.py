"""Networks in ONNX files, run by onnxruntime: "onnx:FILE"."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phosphene.classifier import Classifier
from phosphene.errors import ModelError, to_install
from phosphene.zoo.foreign import Taken, classifier_of, network_file, one_input
from phosphene.zoo.source import model_source
from phosphene.zoo.weights import Weights, first_line

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


@model_source("onnx", "onnx:FILE")
def load(name: str, weights: Weights = None) -> Classifier:
    """The network in an ONNX file as a ScoreFunction: it has scores, but neither layers nor gradients.

    How to feed it stands in the JSON card beside it. It may take pictures (N, C, H, W) or (N, H, W, C), told by which
    axis is not as long as another, or the shorter; a batch of fixed size is filled up. It runs on the CPU, or on CUDA
    where onnxruntime's GPU package is installed.

    Args:
        name: path of the file.
        weights: none; the file holds its own.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
        ModelError: if the file cannot be read, or takes something else than one batch of pictures.
    """
    path = network_file(name, weights, "onnx")
    session = _session(path)
    inputs = session.get_inputs()
    one_input(path, [(one.name, one.shape) for one in inputs])
    taken = inputs[0]
    if taken.type not in _TYPES:
        raise ModelError(f"{path}: takes {taken.type} for {taken.name}; phosphene gives float or uint8 pictures")
    outputs = [one.name for one in session.get_outputs()]

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return dict(zip(outputs, session.run(None, {taken.name: images}), strict=True))

    return classifier_of(path, Taken(tuple(taken.shape), _TYPES[taken.type]), run)


def _session(path: Path) -> Any:
    try:
        runtime = import_module("onnxruntime")
    except ImportError:
        raise to_install("onnxruntime is not installed", "onnxruntime>=1.17") from None
    known = ("CUDAExecutionProvider", "CPUExecutionProvider")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        providers = [one for one in known if one in runtime.get_available_providers()]
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # the reader raises classes of its own
        raise ModelError(f"{path}: no readable ONNX file ({first_line(error)})") from None
