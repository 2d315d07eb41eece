"""A network from the user's own code: "package.module:factory" or "path/to/file.py:factory"."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from phosphene.classifier import Classifier
from phosphene.errors import ModelError, NotFoundError, suggest
from phosphene.graph import input_channels
from phosphene.zoo.card import Unstated
from phosphene.zoo.imported import as_a_script, folder_of, run_file, told
from phosphene.zoo.weights import Weights, is_local, load_weights


def is_factory(spec: str) -> bool:
    """Whether a spec names code: dotted names or a .py file, a colon, a name."""
    place, colon, name = spec.rpartition(":")
    dotted = all(part.isidentifier() for part in place.split("."))
    return bool(colon) and all(part.isidentifier() for part in name.split(".")) and (dotted or place.endswith(".py"))


def load(spec: str, weights: Weights = None) -> Classifier:
    """What a factory of the user's code makes: a Classifier, or an nn.Module that sees images in [0, 1].

    The factory is called without arguments; a Classifier or a module under that name is taken as it is. This runs
    the user's code, as an import does: a file can import the files beside it, sees no arguments of the command, and is
    run once until it changes; what it prints goes to stderr.

    Args:
        spec: "package.module:factory" (also looked for in the current folder) or "path/to/file.py:factory".
        weights: a .safetensors or .pt file to load into the network; "random" leaves it as it was made.

    Raises:
        NotFoundError: if the module or the name does not exist.
        ModelError: if the code fails or returns something else.
    """
    place, _, name = spec.rpartition(":")
    own = Path(place) if place.endswith(".py") else None
    folder = None if own is None else folder_of(own)
    made = _resolve(run_file(own) if own is not None else _module(place), name, place)
    if not isinstance(made, Classifier | nn.Module):
        if not callable(made):
            raise ModelError(f"{spec} is a {type(made).__name__}, neither a factory nor a classifier")
        with told(f"{spec}() failed", None if folder is None else folder.root), as_a_script(Path(place), folder):
            made = made()
    if isinstance(made, nn.Module):
        channels = input_channels(made)
        made = Classifier(made, Unstated(None, None, (0.0,) * channels, (1.0,) * channels), name=spec)
    if not isinstance(made, Classifier):
        raise ModelError(f"{spec}() returned a {type(made).__name__}; return a Classifier or a torch.nn.Module")
    if is_local(weights):
        load_weights(made.module, weights)
    return made


def _module(place: str) -> ModuleType:
    top = place.partition(".")[0]
    # The command does not look into the current folder by itself, where a user's own module usually lies.
    if top not in sys.modules and find_spec(top) is None:
        if not (Path(top).is_dir() or Path(f"{top}.py").is_file()):
            raise NotFoundError(f"no module '{top}'; run phosphene where {top} can be imported from")
        sys.path.insert(0, str(Path.cwd()))
    with told(f"'{place}' cannot be imported", Path.cwd()), as_a_script(Path(place)):
        return import_module(place)


def _resolve(module: ModuleType, name: str, place: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            public = [known for known in dir(value) if not known.startswith("_")]
            raise NotFoundError(f"{place} has no '{part}'{suggest(part, public)}")
        value = getattr(value, part)
    return value
