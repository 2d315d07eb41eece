"""Networks in ONNX files, run by onnxruntime: "onnx:FILE"."""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phosphene.classifier import Classifier
from phosphene.errors import ModelError, to_install
from phosphene.graph import Takes
from phosphene.score_function import ScoreFunction
from phosphene.zoo.card import Unstated
from phosphene.zoo.source import model_source
from phosphene.zoo.weights import Weights, first_line

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


@model_source("onnx", "onnx:FILE")
def load(name: str, weights: Weights = None) -> Classifier:
    """The network in an ONNX file as a ScoreFunction: it has scores, but neither layers nor gradients.

    How to feed it stands in the JSON card beside it. It may take pictures (N, C, H, W) or (N, H, W, C), told by which
    axis holds 1, 3 or 4; a batch of fixed size is filled up. It runs on the CPU, or on CUDA where onnxruntime's GPU
    package is installed.

    Args:
        name: path of the file.
        weights: none; the file holds its own.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
        ModelError: if the file cannot be read, or takes something else than one batch of pictures.
    """
    path = Path(name)
    if weights is not None:
        raise ModelError(f"{path} holds its own weights; give weights= to a network made by code")
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give an ONNX file: onnx:net.onnx")
    session = _session(path)
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        shapes = ", ".join(f"{one.name} {one.shape}" for one in inputs)
        raise ModelError(f"{path}: takes {shapes}, not one batch of pictures (N, C, H, W)")
    taken = inputs[0]
    if taken.type not in (*_TYPES, "tensor(uint8)"):
        raise ModelError(f"{path}: takes {taken.type} for {taken.name}; phosphene gives float or uint8 pictures")
    last = _channels_last(taken.shape)
    channels, size = (taken.shape[3], taken.shape[1:3]) if last else (taken.shape[1], taken.shape[2:])
    count = channels if isinstance(channels, int) else 3
    fixed = (size[0], size[1]) if all(isinstance(side, int) for side in size) else None
    whole = taken.type == "tensor(uint8)"
    takes: Takes = "pictures" if whole else "array"
    return ScoreFunction(
        _Run(session, taken, last, whole),
        Unstated(fixed, None, (0.0,) * count, (1.0,) * count),
        takes=takes,
        name=path.name,
        identity=hashlib.sha256(path.read_bytes()).digest(),
    )


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


def _channels_last(shape: list[Any]) -> bool:
    """Whether the last axis holds the channels, and the second does not."""
    return shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)


class _Run:
    """What a session gives for a batch: its outputs by name, or its only one."""

    def __init__(self, session: Any, taken: Any, last: bool, whole: bool) -> None:
        self.session, self.name = session, taken.name
        self.kind = np.uint8 if whole else _TYPES[taken.type]
        self.batch = taken.shape[0] if isinstance(taken.shape[0], int) else None
        # Pictures of whole numbers come with the channels last, arrays with the channels first.
        self.axes = None if last == whole else ((0, 2, 3, 1) if last else (0, 3, 1, 2))
        self.outputs = [one.name for one in session.get_outputs()]

    def __call__(self, images: NDArray[Any]) -> Any:
        given = images if self.axes is None else images.transpose(self.axes)
        given = np.ascontiguousarray(given.astype(self.kind, copy=False))
        size = self.batch or len(given)
        parts = [self._part(given[start : start + size], size) for start in range(0, len(given), size)]
        found = {name: np.concatenate(values) for name, *values in zip(self.outputs, *parts, strict=True)}
        return found if len(found) > 1 else found[self.outputs[0]]

    def _part(self, given: NDArray[Any], size: int) -> list[NDArray[Any]]:
        """The outputs of at most `size` pictures, the last repeated where the file asks for that many."""
        rows = np.minimum(np.arange(size), len(given) - 1)
        return [values[: len(given)] for values in self.session.run(None, {self.name: given[rows]})]
