"""Weights in the .mat files of MatConvNet, read by scipy, which runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from phosphene.errors import ModelError
from phosphene.zoo.weights import first_line


def read_matconvnet(path: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor | None]:
    """((weight (K, C, h, w), bias (K,)) by layer, mean picture (C, h, w) or None) of a network of a chain of layers.

    Both forms are read: `weights` of a layer, and `filters` and `biases` of the first releases. MatConvNet's arrays are
    rows, columns, channels, filters; its pictures RGB bytes.

    Raises:
        ModelError: if the file cannot be read or holds no such network.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give a file with weights")
    try:
        found: dict[str, Any] = scipy.io.loadmat(path, simplify_cells=True)
    except NotImplementedError:
        raise ModelError(f"{path}: is MATLAB 7.3 (HDF5); save it with -v7, or give .safetensors") from None
    except Exception as error:  # a damaged file may raise anything in the reader
        raise ModelError(f"{path}: damaged or no MATLAB file ({first_line(error)})") from None
    network = found.get("net", found)
    layers = network.get("layers") if isinstance(network, dict) else None
    if layers is None:
        raise ModelError(f"{path}: holds no network of MatConvNet (no 'layers')")
    read: dict[str, tuple[Tensor, Tensor]] = {}
    for layer in np.atleast_1d(np.asarray(layers, dtype=object)).tolist():
        if not isinstance(layer, dict) or layer.get("type") != "conv":
            continue
        weights = layer["weights"] if "weights" in layer else (layer.get("filters"), layer.get("biases"))
        kernel, bias = (np.asarray(values, dtype=np.float32) for values in weights)
        kernel = kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)  # the reader drops axes of one row or column
        read[str(layer["name"])] = (
            torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))),
            torch.from_numpy(bias.reshape(-1).copy()),
        )
    if not read:
        raise ModelError(f"{path}: holds no convolution with weights")
    return read, _mean(network)


def _mean(network: dict[str, Any]) -> Tensor | None:
    facts = network.get("meta", network)
    normalization = facts.get("normalization") if isinstance(facts, dict) else None
    mean = normalization.get("averageImage") if isinstance(normalization, dict) else None
    if mean is None or np.size(mean) < 3:
        return None
    values = np.asarray(mean, np.float32)
    values = values.reshape(1, 1, 3) if values.ndim == 1 else values  # the mean color alone
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))
