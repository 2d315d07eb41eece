"""Values as they can be compared later, though what holds them be filled anew."""

from __future__ import annotations

import functools
import types
from collections import deque
from typing import Any

import numpy as np
from torch import Tensor, nn

# How many items of a container, and values of an array or tensor, are looked at: what is written to a tensor past
# PyTorch's counting (`.data`) shows in these.
MOST_ITEMS, SAMPLED = 64, 8
_LEVELS = 2
CONTAINERS = (list, dict, set, deque, np.ndarray, types.MethodType, functools.partial)


def comparable(value: Any, level: int = 0) -> Any:
    """Plain values as they are, containers, arrays and settings item by item, everything else by its identity.

    Args:
        value: of an attribute.
        level: how many objects it was reached through: of objects in objects no more than two are looked into.
    """
    kind = type(value)
    if kind in (int, bool, str, float, type(None)):
        return value
    if kind in (list, tuple, deque) and len(value) <= MOST_ITEMS:
        return [comparable(item, level) for item in value]
    if kind is set and len(value) <= MOST_ITEMS:
        return {comparable(item, level) for item in value if item.__hash__}
    if isinstance(value, dict) and len(value) <= MOST_ITEMS:
        return [(key, comparable(item, level)) for key, item in value.items()]
    if kind is types.MethodType:
        return id(value.__func__), comparable(value.__self__, level)
    if kind is functools.partial:
        return [comparable(item, level) for item in (value.func, value.args, value.keywords)]
    if kind is np.ndarray and value.dtype.kind in "biufc":
        return value.shape, value.dtype.str, value.ravel()[:: max(1, value.size // SAMPLED)].tobytes()
    if level < _LEVELS and is_settings(value):
        own = object.__getattribute__(value, "__dict__")
        return [(key, comparable(item, level + 1)) for key, item in own.items()]
    return id(value)


def is_settings(value: Any) -> bool:
    """Whether an object is one of a few named values: of a dataclass, a namespace or another plain class."""
    if isinstance(value, nn.Module | Tensor | type | types.ModuleType):
        return False
    if callable(value) and type(value).__module__.partition(".")[0] in ("builtins", "functools", "torch"):
        return False
    try:
        own = object.__getattribute__(value, "__dict__")  # (past code of its own)
    except AttributeError:
        return False
    return 0 < len(own) <= MOST_ITEMS


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's values lie in memory of its own, rather than in tensors that it is made of (torchao's).

    Example:
        >>> is_plain(Tensor())
        True
    """
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
