"""Networks saved with their code: TorchScript and torch.export files."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.zoo.card import Unstated
from phosphene.zoo.proposals import of_weights
from phosphene.zoo.weights import Weights, content_of, first_line, read_safely

SUFFIXES = (".pt", ".pth", ".ckpt", ".pt2", ".ts", ".torchscript", ".jit", ".safetensors")


def is_file(spec: str) -> bool:
    """Whether a spec names a model file."""
    return spec.lower().endswith(SUFFIXES)


def load(spec: str, weights: Weights = None) -> Classifier:
    """The network in a TorchScript or torch.export file, without running Python code out of it.

    An exported network keeps its layers; TorchScript runs as one piece, so that only methods that look at the input
    and the output work on it. How to feed it stands in the JSON card beside it.

    Raises:
        ModelError: if the file holds weights alone, needs code to be run, or was exported in training mode.
    """
    path = Path(spec)
    if weights is not None:
        raise ModelError(f"{path} holds its own weights; give weights= to a network made by code")
    content = content_of(path)
    if content == "torchscript":
        return Classifier(_scripted(path), Unstated(None), name=path.name)
    if content == "export":
        return _exported(path)
    if content == "pickle":
        read_safely(path, str(path))  # a whole pickled model is refused with the reason
    raise ModelError(f"{path}: holds weights alone; {of_weights(path)}")


def _scripted(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated in favour of torch.export, yet still what many have
            network: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path}: no readable TorchScript file ({first_line(error)})") from None
    return network.eval()


def _exported(path: Path) -> Classifier:
    _refuse_code(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            network = torch.export.unflatten(program)
    except Exception as error:  # the reader raises whatever its version raises
        raise ModelError(f"{path}: no readable torch.export file ({first_line(error)})") from None
    _check_mode(program, path)
    count, channels, *size = _input_shape(program, path)
    if isinstance(count, int):
        raise ModelError(
            f"{path}: was exported for batches of exactly {count}; export it again with a dynamic one: "
            "torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), two images or more"
        )
    fixed = (size[0], size[1]) if all(isinstance(side, int) for side in size) else None
    return Classifier(network, Unstated(fixed, None, (0.0,) * channels, (1.0,) * channels), name=path.name)


def _refuse_code(path: Path) -> None:
    """Refuse an archive in which the reader would unpickle anything but tensors, or run machine code."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if "aotinductor" in name:
                raise ModelError(f"{path}: refused, since it holds machine code ({name}); use torch.export.save")
            if name.rpartition("/")[2].startswith(("custom_obj", "opaque_obj")):
                raise ModelError(f"{path}: refused, since it holds an object that is no tensor ({name})")
        for name in _pickled(archive):
            read_safely(io.BytesIO(archive.read(name)), f"{path}: {name}")


def _pickled(archive: zipfile.ZipFile) -> Iterator[str]:
    """The members that torch.export.load hands to the unpickler."""
    names = archive.namelist()
    yield from (name for name in names if name.endswith(".pt") and archive.getinfo(name).file_size)
    for config in (name for name in names if name.endswith("_config.json")):
        folder = config.rpartition("/")[0]
        for payload in json.loads(archive.read(config)).get("config", {}).values():
            if payload.get("use_pickle"):
                yield f"{folder}/{payload['path_name']}"


def _check_mode(program: Any, path: Path) -> None:
    """Dropout and batch statistics of training stay in an exported graph for ever."""
    for node in program.graph.nodes:
        name = str(node.target)
        training = (name.startswith("aten.dropout") and node.args[2]) or (
            name.startswith("aten.batch_norm") and node.args[5]
        )
        if training:
            raise ModelError(f"{path}: was exported in training mode ({name}); call model.eval() before the export")


def _input_shape(program: Any, path: Path) -> list[int | Any]:
    names = set(program.graph_signature.user_inputs)
    shapes = [list(node.meta["val"].shape) for node in program.graph.nodes if node.name in names]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ModelError(f"{path}: takes {len(shapes)} inputs of shapes {shapes}, not one batch of images (N, C, H, W)")
    return shapes[0]
