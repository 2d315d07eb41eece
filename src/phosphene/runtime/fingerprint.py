"""Whether a classifier is still what a prepared form was made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.runtime.comparable import (
    CONTAINERS,
    MOST_ITEMS,
    SAMPLED,
    comparable,
    is_plain,
    is_settings,
    is_settings_class,
)
from phosphene.runtime.surroundings import Surroundings

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PARTS = ("_parameters", "_buffers", "_modules", *_HOOKS)

# What every module has.
_BASE = frozenset(vars(nn.Module()))


class Fingerprint:
    """The state of a classifier at one time: its modules, their attributes and hooks, its tensors, its fields.

    Tensors count as changed if they are exchanged, moved, written to (their version), or hold other values at a few
    places. Settings count too: numbers and texts in objects, arrays, attributes of classes, global names. What no check
    of this kind can see is a tensor inside of an object that is no module, list or dict, or one item of a long list:
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
        modules = _modules(classifier.module)
        for child in modules:
            for key, value in vars(child).items():
                if key not in (*_HOOKS, "_modules"):
                    _collect(value, tensors)
        self._kinds = [(child, *_kind(child)) for child in modules]
        self._surroundings = Surroundings(modules)
        # Compared by identity where they hold the same objects, so without a look into these.
        tables = [vars(child) for child in modules]
        parts = [own[name] for own in tables for name in _PARTS if name in own]
        self._empty = [part for part in parts if not part]
        self._tables = [(table, list(table.values())) for table in (*tables, *(part for part in parts if part))]
        self._containers = [
            (value, comparable(value))
            for own in tables
            for key, value in own.items()
            if key not in _BASE and (isinstance(value, CONTAINERS) or is_settings(value) or is_settings_class(value))
        ]
        self._tensors = list({id(tensor): tensor for tensor in tensors}.values())
        # A tensor made in inference mode does not count its changes.
        self._counting = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._placed = [tensor for tensor in self._tensors if _has_memory(tensor)]
        self._states = self._read()
        self._samples = list(_samples(self._placed))
        self._sampled = [_joined(groups) for groups in self._samples]

    def matches(self, classifier: Classifier) -> bool:
        """Whether the classifier is what it was."""
        if _fields(classifier) != self._fields or any(self._empty) or not self._holds():
            return False
        if self._read() != self._states:
            return False
        with torch.no_grad():
            # The samples are views of the same memory: they show what it holds now.
            return all(torch.equal(_joined(now), then) for now, then in zip(self._samples, self._sampled, strict=True))

    def settle(self) -> None:
        """Leave out what the network's own passes have changed by now outside of its modules (`Surroundings`)."""
        self._surroundings.settle()

    def _holds(self) -> bool:
        """Whether modules, attributes, parts and hooks are what they were."""
        if any(_kind(child) != (kind, forward) for child, kind, forward in self._kinds):
            return False
        if not self._surroundings.holds():
            return False
        try:
            if any(list(table.values()) != before for table, before in self._tables):
                return False
        except (RuntimeError, ValueError, TypeError):  # other tensors or arrays, whose comparison is no yes or no
            return False
        return all(comparable(value) == before for value, before in self._containers)

    def _read(self) -> tuple[list[int], list[int]]:
        return [tensor.data_ptr() for tensor in self._placed], [tensor._version for tensor in self._counting]


def _kind(module: nn.Module) -> tuple[type, Any]:
    return type(module), getattr(type(module), "forward", None)


def _modules(module: nn.Module) -> list[nn.Module]:
    """All modules, also those that hang on one in a plain list or dict."""
    found: dict[int, nn.Module] = {}
    waiting: list[Any] = [module]
    while waiting:
        value = waiting.pop()
        if isinstance(value, nn.Module) and id(value) not in found:
            found[id(value)] = value
            own = vars(value)
            waiting += [*own.get("_modules", {}).values(), *(item for key, item in own.items() if key not in _BASE)]
        elif isinstance(value, list | tuple) and len(value) <= MOST_ITEMS:
            waiting += value
        elif isinstance(value, dict) and len(value) <= MOST_ITEMS:
            waiting += value.values()
    return list(found.values())


def _fields(classifier: Classifier) -> tuple[Any, ...]:
    own = {key: comparable(value) if type(value) in (list, dict) else value for key, value in vars(classifier).items()}
    return (*(value for key, value in sorted(own.items()) if key != "module"), id(classifier.module))


def _collect(value: Any, tensors: list[Tensor]) -> None:
    """Tensors, also of lists and dicts, into a list."""
    if isinstance(value, Tensor):
        tensors.append(value)
    elif isinstance(value, list | tuple) and len(value) <= MOST_ITEMS:
        for item in value:
            _collect(item, tensors)
    elif isinstance(value, dict) and len(value) <= MOST_ITEMS:
        for item in value.values():
            _collect(item, tensors)


def _has_memory(tensor: Tensor) -> bool:
    """Whether a tensor lies in one piece of memory of its own: sparse and wrapped ones do not."""
    try:
        return is_plain(tensor) and tensor.layout == torch.strided and tensor.data_ptr() >= 0
    except (RuntimeError, NotImplementedError):
        return False


def _samples(tensors: Sequence[Tensor]) -> Iterator[list[list[Tensor]]]:
    """A few values of each tensor, evenly spread, as views of its memory; for each device those of one length together.

    Read as whole numbers: of these each equals itself, and all are of types that can be joined.
    """
    groups: dict[torch.device, dict[torch.dtype, list[Tensor]]] = {}
    for tensor in tensors:
        odd = tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg()
        if not odd and tensor.numel() and tensor.device.type != "meta" and tensor.dtype.itemsize in _WHOLE:
            found = _sample(tensor.detach())
            groups.setdefault(found.device, {}).setdefault(found.dtype, []).append(found)
    yield from ([*of_device.values()] for of_device in groups.values())


def _joined(groups: Sequence[list[Tensor]]) -> Tensor:
    """All values of a device as bytes, so that the CPU waits for one comparison alone."""
    return torch.cat([torch.cat(group).view(torch.uint8) for group in groups])


_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _sample(values: Tensor) -> Tensor:
    last = values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
    if values.is_contiguous() or last:
        values = values.as_strided((values.numel(),), (1,), values.storage_offset())
    while values.ndim > 1:  # of another layout the first row
        values = values[0]
    count = min(SAMPLED, len(values))
    step = max(1, (len(values) - 1) // max(1, count - 1))
    return values[::step][:count].view(_WHOLE[values.dtype.itemsize])
