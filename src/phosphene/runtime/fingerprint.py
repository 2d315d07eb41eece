"""Whether a classifier is still what a prepared form was made from."""

from __future__ import annotations

import functools
import types
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.runtime.comparable import (
    BASE,
    CONTAINERS,
    HOOKS,
    MOST_ITEMS,
    attributes,
    bytes_of,
    comparable,
    glance,
    is_plain,
    is_readable,
    is_settings,
    is_settings_class,
    sampled,
)
from phosphene.runtime.surroundings import Surroundings, held

_PARTS = ("_parameters", "_buffers", "_modules", *HOOKS)


class Fingerprint:
    """The state of a classifier at one time: its modules, their attributes and hooks, its tensors, its fields.

    Tensors count as changed if they are exchanged, moved, written to (their version), or hold other values; past
    PyTorch's counting (`.data`) some values of each row of a large one are looked at. Settings count too: numbers and
    texts in objects, arrays, attributes of classes, global names, and what hooks and patched functions hold. What no
    check of this kind can see is one item of a long list or of a large array, or what an object keeps in ways of its
    own: after writing to one call `classifier.refresh()`.

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
        self._fields = _fields(classifier)
        modules, outside, self._tensors = _reached(classifier.module)
        self._kinds = [(child, _kind(child)) for child in modules]
        self._surroundings = Surroundings(modules)
        # Compared by identity where they hold the same objects, so without a look into these.
        tables = [vars(child) for child in modules]
        parts = [own[name] for own in tables for name in _PARTS if name in own]
        self._empty = [part for part in parts if not part]
        self._tables = [(table, list(table.values())) for table in (*tables, *(part for part in parts if part))]
        filled = (
            value
            for own in tables
            for key, value in own.items()
            if key not in BASE and (isinstance(value, CONTAINERS) or is_settings(value) or is_settings_class(value))
        )
        self._containers = [(value, _snapshot(value)) for value in filled]
        self._outside = [(value, _snapshot(value)) for value in outside]
        # A tensor made in inference mode does not count its changes.
        self._counting = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._readable = [tensor for tensor in self._tensors if is_readable(tensor)]
        # Views of the same memory: they show what it holds now.
        self._samples: dict[torch.device, list[Tensor]] = {}
        for tensor in self._readable:
            self._samples.setdefault(tensor.device, []).append(sampled(tensor))
        self._states = self._read()

    def matches(self, classifier: Classifier) -> bool:
        """Whether the classifier is what it was."""
        if _fields(classifier) != self._fields or any(self._empty) or not self._holds():
            return False
        return self._read() == self._states

    def settle(self) -> None:
        """Leave out what the network's own passes have changed by now outside of its modules."""
        self._surroundings.settle()
        self._outside = [(value, then) for value, then in self._outside if _snapshot(value) == then]

    def _holds(self) -> bool:
        """Whether modules, attributes, parts and hooks are what they were."""
        if any(_kind(child) != kind for child, kind in self._kinds):
            return False
        if not self._surroundings.holds():
            return False
        try:
            if any(list(table.values()) != before for table, before in self._tables):
                return False
        except (RuntimeError, ValueError, TypeError):  # other tensors or arrays, whose comparison is no yes or no
            return False
        return all(_snapshot(value) == then for value, then in (*self._containers, *self._outside))

    def _read(self) -> tuple[list[Any], ...]:
        return (
            [tensor.data_ptr() for tensor in self._readable],
            [tensor._version for tensor in self._counting],
            # Whether a weight is frozen, and what hangs on it: code may ask.
            [tensor.requires_grad for tensor in self._tensors],
            [comparable(hung) for hung in map(_hung, self._tensors) if hung],
            list(map(bytes_of, self._samples.values())),
        )


def _hung(tensor: Tensor) -> dict[str, Any]:
    """What code has hung on a tensor; not what one that is made of others is made of."""
    return vars(tensor) if is_plain(tensor) else {}


def _kind(module: nn.Module) -> tuple[Any, ...]:
    """The class, and its methods that a layer runs by."""
    kind = type(module)
    return kind, getattr(kind, "forward", None), getattr(kind, "_conv_forward", None)


def _reached(module: nn.Module) -> tuple[list[nn.Module], list[Any], list[Tensor]]:
    """(all modules, what else their hooks and functions hold, the modules' tensors), wherever code reaches them.

    Modules also hang on one in a list, a dict or an object, or are called by a patched forward or a hook.
    """
    modules: dict[int, nn.Module] = {}
    others: dict[int, Any] = {}
    tensors: dict[int, Tensor] = {}
    waiting: list[tuple[Any, bool]] = [(module, False)]  # (and whether it was reached through a function)
    while waiting:
        value, outside = waiting.pop()
        if id(value) in modules or id(value) in others:
            continue
        if isinstance(value, nn.Module):
            modules[id(value)] = value
            own = vars(value)
            parts = (*own.get("_parameters", {}).values(), *own.get("_buffers", {}).values())
            tensors |= {id(part): part for part in parts if part is not None}
            parts = (*parts, *own.get("_modules", {}).values())
            items = [*parts, *(item for key, item in own.items() if key not in BASE)]
            waiting += [(item, False) for item in items]
            waiting += [(hook, True) for name in HOOKS for hook in own.get(name, {}).values()]
            continue
        others[id(value)] = value if outside and isinstance(value, Tensor | list | dict | set | np.ndarray) else None
        if isinstance(value, types.MethodType | types.FunctionType | functools.partial):
            waiting += [(item, True) for item in held(value, globals_too=False)]
        elif isinstance(value, Tensor) and not outside:
            tensors[id(value)] = value
            waiting += [(item, False) for item in _hung(value).values()]  # (a mask that hangs on a weight)
        elif isinstance(value, list | tuple | dict | deque | set | frozenset) and len(value) <= MOST_ITEMS:
            waiting += [(item, outside) for item in (value.values() if isinstance(value, dict) else value)]
        elif is_settings(value):
            others[id(value)] = value if outside else None
            waiting += [(item, outside or isinstance(item, Tensor)) for item in attributes(value).values()]
    outside_ones = [value for value in others.values() if value is not None]
    return list(modules.values()), outside_ones, list(tensors.values())


def _snapshot(value: Any) -> Any:
    """What can be compared later: numbers, texts, bytes and lists of these, never tensors or arrays."""
    return glance(value) if isinstance(value, Tensor) else comparable(value)


def _fields(classifier: Classifier) -> tuple[Any, ...]:
    own = {key: comparable(value) if type(value) in (list, dict) else value for key, value in vars(classifier).items()}
    return (*(value for key, value in sorted(own.items()) if key != "module"), id(classifier.module))
