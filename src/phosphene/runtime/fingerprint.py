"""Whether a classifier is still what a prepared form was made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier

# Values of each tensor that are looked at: what is written past PyTorch's counting (`.data`) shows in these.
_SAMPLED = 8
_MOST_ITEMS = 64
_APART = ("_parameters", "_buffers", "_modules", "training")


class Fingerprint:
    """The state of a classifier at one time: its modules, their attributes and hooks, its tensors, its fields.

    Tensors count as changed if they are exchanged, moved, written to (their version), or hold other values at a few
    places. What no check of this kind can see is a tensor inside of an object that is no module, list or dict:
    after writing to one call `classifier.refresh()`.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> classifier = Classifier(net)
        >>> before = Fingerprint(classifier)
        >>> before.matches(classifier)
        True
        >>> _ = net[0].weight.data.mul_(2)
        >>> before.matches(classifier)
        False
    """

    def __init__(self, classifier: Classifier) -> None:
        tensors: list[Tensor] = []
        self._fields = _fields(classifier)
        self._structure = _structure(classifier.module, tensors)
        self._states = list(map(_state, tensors))
        self._samples = [_sample(group) for group in _by_device(tensors)]
        self._sampled = [torch.cat(group) for group in self._samples]

    def matches(self, classifier: Classifier) -> bool:
        """Whether the classifier is what it was."""
        tensors: list[Tensor] = []
        if _fields(classifier) != self._fields or _structure(classifier.module, tensors) != self._structure:
            return False
        if list(map(_state, tensors)) != self._states:
            return False
        with torch.no_grad():
            # The samples are views of the same memory: they show what it holds now.
            return all(
                torch.equal(torch.cat(now), then) for now, then in zip(self._samples, self._sampled, strict=True)
            )


def _fields(classifier: Classifier) -> tuple[Any, ...]:
    return (*(value for key, value in sorted(vars(classifier).items()) if key != "module"), id(classifier.module))


def _structure(module: nn.Module, tensors: list[Tensor]) -> list[Any]:
    """Modules, their classes, hooks and attributes in a form that can be compared; tensors are put in their list."""
    found: list[Any] = []
    for child in module.modules():
        own = child.__dict__
        found.append((id(child), type(child), getattr(type(child), "forward", None)))
        for group in (own.get("_parameters", {}), own.get("_buffers", {})):
            tensors.extend(value for value in group.values() if value is not None)
        found.extend((key, _comparable(value, tensors)) for key, value in own.items() if key not in _APART)
    return found


def _comparable(value: Any, tensors: list[Tensor]) -> Any:
    kind = type(value)
    if kind in (int, bool, str, type(None)):
        return value
    if kind is float:
        return value if value == value else "nan"
    if isinstance(value, Tensor):
        tensors.append(value)
        return None
    if kind in (list, tuple) and len(value) <= _MOST_ITEMS:
        return [_comparable(item, tensors) for item in value]
    if isinstance(value, dict) and len(value) <= _MOST_ITEMS:
        return [(key, _comparable(item, tensors)) for key, item in value.items()] if value else None
    return id(value)


def _state(tensor: Tensor) -> tuple[Any, ...]:
    # A tensor made in inference mode does not count its changes.
    version = 0 if tensor.is_inference() else tensor._version
    return id(tensor), tensor.data_ptr(), version, tensor.device, tensor.dtype, tensor.shape


def _by_device(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    readable = [
        tensor
        for tensor in tensors
        if tensor.numel() and tensor.device.type != "meta" and not (tensor.is_quantized or tensor.is_sparse)
    ]
    for device in dict.fromkeys(tensor.device for tensor in readable):
        yield [tensor for tensor in readable if tensor.device == device]


def _sample(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A few values of each tensor, evenly spread, as views of its memory."""
    found = []
    for tensor in tensors:
        values = tensor.detach()
        last = values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
        if values.is_contiguous() or last:
            values = values.as_strided((values.numel(),), (1,), values.storage_offset())
        while values.ndim > 1:  # of another layout the first row
            values = values[0]
        count = min(_SAMPLED, len(values))
        step = max(1, (len(values) - 1) // max(1, count - 1))
        found.append(values[::step][:count])
    return found
