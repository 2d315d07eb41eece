"""A linear head of one's own on a known network: what `phosphene head` fits, as a folder of two files."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier, HeadKind, Labels
from phosphene.devices import own_random_state
from phosphene.errors import InputError, ModelError, OptionError
from phosphene.runtime.prepare import Prepared, prepare

WEIGHTS, CARD = "head.safetensors", "head.json"


def with_head(base: Classifier, weight: Tensor, bias: Tensor, labels: Sequence[str], name: str) -> Classifier:
    """The classifier `base` with another last layer; the rest of it is a copy.

    Args:
        base: a network that ends in global average pooling and one linear layer.
        weight: (K, k) on the k pooled features; (1, k) for two labels makes a sigmoid head whose one output speaks
            for the second label.
        bias: (K,).
        labels: names of the classes.
        name: what reports call the result.

    Raises:
        ModelError: if the network does not end that way, or has another number of features.
        OptionError: if labels and weights do not fit.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
        >>> two = with_head(Classifier(net), torch.ones(1, 4), torch.zeros(1), ["dog", "wolf"], "mine")
        >>> two.head, two.logits(torch.rand(5, 3, 8, 8)).shape
        ('sigmoid', torch.Size([5, 2]))
    """
    outputs, features = weight.shape
    if len(labels) < 2 or outputs != (1 if len(labels) == 2 else len(labels)):
        raise OptionError(f"a head of {outputs} outputs for {len(labels)} labels; two labels take one output")
    base = base.source if isinstance(base, Prepared) else base
    place = last_linear(base)
    module = copy.deepcopy(base.module)
    old = module.get_submodule(place)
    assert isinstance(old, nn.Linear)
    if old.in_features != features:
        raise ModelError(
            f"a head on {features} features does not fit {base.name}, whose last layer sees {old.in_features}"
        )
    with own_random_state():  # (its first weights are drawn)
        linear = nn.Linear(int(features), int(outputs)).to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    module.set_submodule(place, linear)
    kind: HeadKind = "sigmoid" if outputs == 1 else "softmax"
    facts: dict[str, Any] = {"name": name, "output": base.output, "inputs": base.inputs}
    return Classifier(module.eval(), base.preprocess, Labels(tuple(labels)), kind, **facts)


def last_linear(classifier: Classifier) -> str:
    """The dotted name of the linear layer that a network ends in.

    Raises:
        ModelError: if it ends in something else.
    """
    name = prepare(classifier).linear_head[1].linear
    if name is None or not isinstance(classifier.module.get_submodule(name), nn.Linear):
        raise ModelError(f"no head can be put on {classifier.name}: it ends in no linear layer of its own")
    return name


def to_bytes(weight: Tensor, bias: Tensor) -> bytes:
    """The content of the weights file."""
    tensors = {"weight": weight.detach().float().cpu().contiguous(), "bias": bias.detach().float().cpu().contiguous()}
    return safetensors.torch.save(tensors)


def is_head(spec: str | os.PathLike[str]) -> bool:
    """Whether a spec names a folder that holds a head."""
    folder = Path(spec)
    return (folder / CARD).is_file() and (folder / WEIGHTS).is_file()


def load(
    folder: str | os.PathLike[str], load_base: Callable[..., Classifier], weights: str | Path | None = None
) -> Classifier:
    """The classifier in a folder: its head on the network that its card names.

    Args:
        folder: what `phosphene head` wrote.
        load_base: load_classifier, for the network below the head.
        weights: of that network; None for those it had when the head was fitted.

    Raises:
        InputError: if a file is damaged.
        ModelError: if the head does not fit the network.
    """
    folder = Path(folder)
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(folder / WEIGHTS)
        base, labels = str(card["base"]), [str(label) for label in card["labels"]]
        weight, bias = tensors["weight"], tensors["bias"]
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        raise InputError(
            f"{folder}: holds no head that can be read ({reason}); fit it again with phosphene head"
        ) from None
    return with_head(load_base(base, weights=weights or card.get("weights")), weight, bias, labels, name=folder.name)
