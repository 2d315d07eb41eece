"""Whether a classifier is still what a prepared form was made from."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier

# Values of each tensor that are looked at: what is written past PyTorch's counting (`.data`) shows in these.
_SAMPLED = 8
_MOST_ITEMS = 64
_LEVELS = 2
_CONTAINERS = (list, dict, set, deque, np.ndarray)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_PARTS = ("_parameters", "_buffers", "_modules", *_HOOKS)

# What every module has.
_BASE = frozenset(vars(nn.Module()))


class Fingerprint:
    """The state of a classifier at one time: its modules, their attributes and hooks, its tensors, its fields.

    Tensors count as changed if they are exchanged, moved, written to (their version), or hold other values at a few
    places. Settings count too: numbers and texts in objects, arrays. What no check of this kind can see is a tensor
    inside of an object that is no module, list or dict, what a class gives its instances, a global name, or one item of
    a long list: after writing to one call `classifier.refresh()`.

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
        # Compared by identity where they hold the same objects, so without a look into these.
        tables = [vars(child) for child in modules]
        parts = [own[name] for own in tables for name in _PARTS if name in own]
        self._empty = [part for part in parts if not part]
        self._tables = [(table, list(table.values())) for table in (*tables, *(part for part in parts if part))]
        self._containers = [
            (value, _comparable(value))
            for own in tables
            for key, value in own.items()
            if key not in _BASE and (isinstance(value, _CONTAINERS) or _is_settings(value))
        ]
        self._tensors = list({id(tensor): tensor for tensor in tensors}.values())
        # A tensor made in inference mode does not count its changes.
        self._counting = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._states = self._read()
        self._samples = [_sample(group) for group in _by_device(self._tensors)]
        self._sampled = [torch.cat(group) for group in self._samples]

    def matches(self, classifier: Classifier) -> bool:
        """Whether the classifier is what it was."""
        if _fields(classifier) != self._fields or any(self._empty) or not self._holds():
            return False
        if self._read() != self._states:
            return False
        with torch.no_grad():
            # The samples are views of the same memory: they show what it holds now.
            return all(
                torch.equal(torch.cat(now), then) for now, then in zip(self._samples, self._sampled, strict=True)
            )

    def _holds(self) -> bool:
        """Whether modules, attributes, parts and hooks are what they were."""
        if any(_kind(child) != (kind, forward) for child, kind, forward in self._kinds):
            return False
        try:
            if any(list(table.values()) != before for table, before in self._tables):
                return False
        except (RuntimeError, ValueError, TypeError):  # other tensors or arrays, whose comparison is no yes or no
            return False
        return all(_comparable(value) == before for value, before in self._containers)

    def _read(self) -> tuple[list[int], list[int]]:
        return [tensor.data_ptr() for tensor in self._tensors], [tensor._version for tensor in self._counting]


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
        elif isinstance(value, list | tuple) and len(value) <= _MOST_ITEMS:
            waiting += value
        elif isinstance(value, dict) and len(value) <= _MOST_ITEMS:
            waiting += value.values()
    return list(found.values())


def _fields(classifier: Classifier) -> tuple[Any, ...]:
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in vars(classifier).items()}
    return (*(value for key, value in sorted(own.items()) if key != "module"), id(classifier.module))


def _comparable(value: Any, level: int = 0) -> Any:
    """Plain values as they are, containers, arrays and settings item by item, everything else by its identity.

    Args:
        value: of an attribute.
        level: how many objects it was reached through: of objects in objects no more than two are looked into.
    """
    kind = type(value)
    if kind in (int, bool, str, float, type(None)):
        return value
    if kind in (list, tuple, deque) and len(value) <= _MOST_ITEMS:
        return [_comparable(item, level) for item in value]
    if kind is set and len(value) <= _MOST_ITEMS:
        return {_comparable(item, level) for item in value if item.__hash__}
    if isinstance(value, dict) and len(value) <= _MOST_ITEMS:
        return [(key, _comparable(item, level)) for key, item in value.items()]
    if kind is np.ndarray and value.dtype.kind in "biufc":
        return value.shape, value.dtype.str, value.ravel()[:: max(1, value.size // _SAMPLED)].tobytes()
    if level < _LEVELS and _is_settings(value):
        own = object.__getattribute__(value, "__dict__")
        return [(key, _comparable(item, level + 1)) for key, item in own.items()]
    return id(value)


def _is_settings(value: Any) -> bool:
    """Whether an object is one of a few named values: of a dataclass, a namespace or another plain class."""
    if isinstance(value, nn.Module | Tensor | type | types.ModuleType) or callable(value):
        return False
    try:
        own = object.__getattribute__(value, "__dict__")  # (past code of its own)
    except AttributeError:
        return False
    return 0 < len(own) <= _MOST_ITEMS


def _collect(value: Any, tensors: list[Tensor]) -> None:
    """Tensors, also of lists and dicts, into a list."""
    if isinstance(value, Tensor):
        tensors.append(value)
    elif isinstance(value, list | tuple) and len(value) <= _MOST_ITEMS:
        for item in value:
            _collect(item, tensors)
    elif isinstance(value, dict) and len(value) <= _MOST_ITEMS:
        for item in value.values():
            _collect(item, tensors)


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
