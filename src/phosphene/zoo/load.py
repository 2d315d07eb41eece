"""load_classifier: from what a person types to a Classifier."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from phosphene.classifier import Classifier, HeadKind, Labels, Preprocess, unwrapped
from phosphene.discovery import discover
from phosphene.errors import ModelError, NotFoundError, OptionError, suggest, warn
from phosphene.graph import input_channels
from phosphene.images import EXTENSIONS
from phosphene.labels import as_labels
from phosphene.runtime.freeze import freeze
from phosphene.types import Size
from phosphene.zoo import factory, file, timm
from phosphene.zoo import head as own_head
from phosphene.zoo.card import Card, Unstated, read_card, read_labels
from phosphene.zoo.proposals import no_model, of_bare_name, of_python_file
from phosphene.zoo.source import SOURCES, SPELLINGS
from phosphene.zoo.weights import Weights, first_line, is_local

# Sources whose files are told by their ending.
_RUNTIMES = ("onnx", "tflite", "keras")
_BARE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*[0-9][A-Za-z0-9_.]*|[a-z]+net|[a-z]+vit|swin")


def load_classifier(
    spec: str | Classifier | nn.Module = "embedded",
    *,
    weights: str | Path | None = None,
    preprocess: Preprocess | None = None,
    labels: Labels | Sequence[str] | str | Path | None = None,
    head: HeadKind | None = None,
    output: str | int | None = None,
    device: str | torch.device | None = None,
) -> Classifier:
    """The classifier that a spec names, in eval mode on a device.

    What stands in the JSON card beside a file of a model, of weights or of code ("net.json" beside "net.pt2" or
    "net.py": size, short_side, mean, std, interpolation, labels, head, output) goes before what the source publishes,
    and an argument before both.

    Args:
        spec: "embedded" (EfficientNet-Lite0), "embedded:lite1", "embedded:lite2"; "timm:NAME" or "torchvision:NAME"
            with their published weights, preprocessing and labels; "hf:NAME" or "hf:FOLDER" of transformers;
            "onnx:FILE" and "tflite:FILE", which have scores alone; "keras:FILE", which has gradients too;
            "papers:cnn_f" or "papers:conv64_256x4" with weights from a file; "package.module:factory" or
            "file.py:factory", the user's code that returns a Classifier or an
            nn.Module; a TorchScript or torch.export file; a folder made by `phosphene head`. Behind any of these `@KEY`
            names the output that holds the scores, where there are several. A Classifier is returned as it is, or
            on another device as a copy. A bare nn.Module sees pictures in [0, 1] at their own size, without
            normalization, unless `preprocess` says otherwise, and a warning says so; one of timm is fed as it was
            trained.
        weights: a .safetensors file or a state dict (.pt) to load into the network instead of the published one, read
            without running code; "random" for an untrained network.
        preprocess: how the network is fed, where its source does not say.
        labels: class names, as Classifier takes them, or a file with them: one a line, or a JSON list.
        head: "softmax", "sigmoid" or "score".
        output: key or position of the scores where the network returns a dict or a tuple.
        device: "cpu", "cuda", ...; None leaves it where it was loaded.

    Raises:
        NotFoundError: for an unknown source or name, with the nearest ones.
        MissingExtraError: if something has to be installed first, with the install line.
        ModelError: if the weights do not fit, need code to be run or cannot be downloaded, or the device cannot be
            used.

    Example:
        >>> load_classifier("embedded").labels.find("tabby")
        281
    """
    if isinstance(spec, Classifier | nn.Module):
        if weights is not None:
            raise OptionError("weights= goes with the name of a network; load them into the module itself")
        found, card = spec if isinstance(spec, Classifier) else _bare(spec), Card()
    else:
        if not isinstance(spec, str | Path):
            raise OptionError(no_model(spec))
        spec, named = _and_output(str(spec))
        output = named if output is None else output
        found, card = _source(spec)(weights), _card(spec, weights)
    if labels is not None and not isinstance(labels, Labels):
        labels = read_labels(labels) if isinstance(labels, str | Path) else as_labels(labels)
    given = Card(preprocess, labels, head, output).over(card)
    if given != Card():
        found = given.applied_to(found)
    if isinstance(found.preprocess, Unstated) and not isinstance(spec, Classifier):
        channels = found.preprocess.channels
        mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if channels == 3 else ([0.5] * channels,) * 2
        says = f'"size": [224, 224], "mean": {mean}, "std": {std}'
        how = (
            "put a JSON card beside the file of the same name (net.json beside net.py), such as "
            f'{{{says}, "labels": "labels.txt", "head": "softmax"}}, or in Python pass preprocess=Preprocess(...)'
        )
        if card != Card():
            how = f"add it to its JSON card, such as {says}"
        if isinstance(spec, nn.Module):
            how = "make it Classifier(network, Preprocess((224, 224), 256, mean, std), labels), and use that every time"
        warn(
            f"{found.name} does not say how pictures are prepared for it, so it sees them in "
            f"[0, {found.preprocess.scale:g}] at {_size(found.preprocess.size)}, without normalization; {how}",
        )
    return found if device is None else _on_device(found, device)


def _size(size: Size | None) -> str:
    return "their own size" if size is None else f"{size[0]} x {size[1]} pixels"


def _bare(network: nn.Module) -> Classifier:
    """A Classifier of a network that somebody made; of timm's, which say how they are fed, as they say."""
    if getattr(network, "pretrained_cfg", None) and find_spec("timm") is not None:
        return timm.classifier_of(network)
    channels = input_channels(unwrapped(network))
    return Classifier(network, Unstated(None, None, (0.0,) * channels, (1.0,) * channels))


def _card(spec: str, weights: Weights) -> Card:
    """What stands beside the file that the weights are from, or else beside that of the code or the model."""
    if is_local(weights) and Path(weights).with_suffix(".json").is_file():
        return read_card(Path(weights))
    name, _, rest = spec.partition(":")
    code = spec.rpartition(":")[0]
    if code.endswith(".py") and Path(code).is_file():
        return read_card(Path(code))
    place = rest if name in SOURCES else spec
    return read_card(Path(place)) if file.is_file(spec) or Path(place).is_file() else Card()


def _and_output(spec: str) -> tuple[str, str | int | None]:
    """(spec, key or position of the scores) of SPEC@KEY; a file or folder of that name is no such thing."""
    rest, at, key = spec.rpartition("@")
    exists = any(place and Path(place).exists() for place in (spec, spec.partition(":")[2]))
    if not (at and rest and key) or exists or set(key) & set("/:"):
        return spec, None
    return rest, int(key) if key.isdigit() else key


def _source(spec: str) -> Callable[[Weights], Classifier]:
    discover("phosphene.zoo")
    name, _, rest = spec.partition(":")
    if name in SOURCES:
        return partial(SOURCES[name], rest)
    ending = Path(spec).suffix.lower().removeprefix(".")
    if ending in _RUNTIMES:
        return partial(SOURCES[ending], spec)
    if own_head.is_head(spec):
        return partial(_with_own_head, spec)
    if file.is_file(spec):
        return partial(file.load, spec)
    if factory.is_factory(spec):
        return partial(factory.load, spec)
    known = ", ".join(spelled for source in sorted(SPELLINGS) for spelled in SPELLINGS[source])
    if spec.endswith(".py"):
        raise NotFoundError(f"{spec}: {of_python_file(Path(spec))}")
    if Path(spec).suffix.lower() in EXTENSIONS:
        raise NotFoundError(f"no model '{spec}', which is named like a picture; the classifier comes first")
    near = suggest(name, SOURCES if ":" in spec else ("embedded",))
    if not near and _BARE_NAME.fullmatch(spec):
        near = f"; {of_bare_name(spec)}"
    if not near:
        near = (
            f" (there are: {known}, package.module:factory, file.py:factory, a TorchScript or torch.export file, "
            "a folder of phosphene head)"
        )
    raise NotFoundError(f"no model '{spec}'{near}")


def _with_own_head(folder: str, weights: Weights) -> Classifier:
    return own_head.load(folder, load_classifier, weights)


def _on_device(classifier: Classifier, device: str | torch.device) -> Classifier:
    """A copy of the classifier on the device, or itself where it is there already."""
    try:
        place = torch.empty(0, device=device).device
        if classifier.device == place:
            return classifier
        return classifier.with_module(freeze(classifier.module).to(place))
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device '{device}' cannot be used ({first_line(error)}); choose cpu") from None
