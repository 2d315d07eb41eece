"""Weights from a file, read without running code, fitted to a network."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from phosphene.errors import ModelError

# What `weights=` may be: a file, or "random" for an untrained network (tests, sanity checks).
Weights = str | Path | None
Content = Literal["safetensors", "pickle", "torchscript", "export"]

State = dict[str, Tensor]

# Where training scripts put the state dict inside what they save, the most specific first.
_NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "state_dict_ema", "model_ema")


def is_local(weights: Weights) -> TypeGuard[str | Path]:
    """Whether a file was named: neither the published weights (None) nor an untrained network ("random")."""
    return weights is not None and str(weights) != "random"


def built_for(path: str | Path, build: Callable[[int | None], nn.Module]) -> tuple[nn.Module, int | None]:
    """A network with the weights of a file, and its number of classes where that is not the usual one (else None).

    Args:
        path: the file.
        build: makes the untrained network of so many classes, of its usual number for None.
    """
    network = build(None)
    classes = class_count(fit_names(read_state_dict(path), network), network)
    if classes is not None:
        network = build(classes)
    load_weights(network, path)
    return network, classes


def content_of(path: Path) -> Content:
    """What a model file holds, told by its content and not by its name.

    Raises:
        ModelError: if there is no such file, or it is empty.
    """
    if not path.is_file():
        raise ModelError(f"{path}: {'is a directory' if path.is_dir() else 'no such file'}; give a file with weights")
    if path.stat().st_size == 0:
        raise ModelError(f"{path}: is empty (0 bytes)")
    if path.suffix == ".safetensors":
        return "safetensors"
    if not zipfile.is_zipfile(path):
        return "pickle"
    with zipfile.ZipFile(path) as archive:
        inner = [name.partition("/")[2] or name for name in archive.namelist()]
    if any(name.startswith("code/") for name in inner):
        return "torchscript"
    exported = any(name == "archive_format" or name.startswith("serialized_exported_program") for name in inner)
    return "export" if exported else "pickle"


def read_state_dict(path: str | Path) -> State:
    """The tensors in a .safetensors file or a state dict saved by torch.save; nothing in the file is executed.

    Args:
        path: the file. A state dict nested in a checkpoint ({"state_dict": ...}) is found.

    Raises:
        ModelError: if the file is missing, damaged, wants code to be run, or holds no state dict.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "net.pt"
        >>> torch.save({"epoch": 3, "state_dict": nn.Linear(2, 1).state_dict()}, path)
        >>> sorted(read_state_dict(path))
        ['bias', 'weight']
    """
    path = Path(path)
    content = content_of(path)
    if content == "safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path}: no readable safetensors file ({first_line(error)})") from None
    if content != "pickle":
        kind = {"torchscript": "a TorchScript network", "export": "an exported network"}[content]
        raise ModelError(f"{path}: is {kind}, not weights alone; load it by itself: load_classifier('{path}')")
    return _state_in(read_safely(path, str(path)), path)


def read_safely(source: Any, where: str) -> Any:
    """What torch.save wrote, tensors and plain containers only.

    Raises:
        ModelError: if the pickle needs code, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"class `?(\S+?)`?[ ,]", str(error))
        if wanted is None:
            # What PyTorch says besides advises to read the file with code and all.
            raise ModelError(f"{where}: holds no weights; give .safetensors, or what torch.save wrote") from None
        raise ModelError(
            f"{where}: refused, since reading it would run code ({wanted.group(1)}); a pickle of a whole model can do "
            "anything. Save the weights alone: torch.save(model.state_dict(), path), or safetensors"
        ) from None
    except Exception as error:  # a damaged file may raise anything in the reader
        raise ModelError(f"{where}: damaged or not a file of torch.save ({first_line(error)})") from None


def load_weights(network: nn.Module, path: str | Path) -> None:
    """Put the weights of a file into a network; every tensor has to find its place.

    Prefixes that wrappers leave ("module.", "model.", "_orig_mod.") are taken off.

    Raises:
        ModelError: naming what is missing, left over or of another shape.
    """
    place_weights(network, fit_names(read_state_dict(path), network), path)


def place_weights(network: nn.Module, state: State, path: str | Path) -> None:
    """Put the tensors of a state dict, read from a file, into a network; every one has to find its place.

    Raises:
        ModelError: naming what is missing, left over or of another shape.
    """
    wanted = network.state_dict()
    problems = []
    # Old files lack the counters that newer norms keep; nothing reads them in eval mode.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    left_over = [key for key in state if key not in wanted]
    shapes = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing:
        problems.append(f"{len(missing)} missing ({_some(missing)})")
    if left_over:
        problems.append(f"{len(left_over)} that the network does not have ({_some(left_over)})")
    if shapes:
        key = shapes[0]
        got, want = tuple(state[key].shape), tuple(wanted[key].shape)
        problems.append(f"{len(shapes)} of another shape ({key}: {got}, not {want})")
    if problems:
        raise ModelError(
            f"{path}: these weights are not for this {type(network).__name__}: of its {len(wanted)} tensors "
            + "; ".join(problems)
        )
    network.load_state_dict(state, strict=False)


def fit_names(state: State, network: nn.Module) -> State:
    """The state dict with the prefix taken off that a wrapper put before every name."""
    wanted = network.state_dict().keys()
    if not wanted or any(key in state for key in wanted):
        return state
    some = min(wanted)
    prefixes = {key.removesuffix(some) for key in state if key.endswith(f".{some}")}
    best = max(prefixes, key=lambda prefix: sum(prefix + key in state for key in wanted), default="")
    return {key.removeprefix(best): value for key, value in state.items() if key.startswith(best)}


def class_count(state: State, network: nn.Module) -> int | None:
    """How many classes the weights are for, if that alone keeps them from fitting the network; else None."""
    wanted = network.state_dict()
    differing = {
        (state[key].shape[0], wanted[key].shape[0])
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape and state[key].ndim and wanted[key].ndim
    }
    return differing.pop()[0] if len(differing) == 1 else None


def no_download(spec: str, error: BaseException) -> ModelError:
    """The error for published weights that did not come."""
    return ModelError(
        f"{spec}: its published weights cannot be had ({first_line(error)}); "
        "give a local file: weights='FILE', on the command line --weights FILE"
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _state_in(saved: Any, path: Path) -> State:
    if not isinstance(saved, Mapping):
        raise ModelError(f"{path}: holds a {type(saved).__name__}, not a state dict; save model.state_dict()")
    if any(isinstance(value, Tensor) for value in saved.values()):
        return {str(key): value for key, value in saved.items() if isinstance(value, Tensor)}
    nested = [key for key in _NESTS if isinstance(saved.get(key), Mapping)]
    if not nested:
        raise ModelError(f"{path}: no state dict among its entries ({_some([str(key) for key in saved])})")
    return _state_in(saved[nested[0]], path)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
