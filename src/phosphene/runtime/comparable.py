"""Values as they can be compared later, though what holds them be filled anew."""

from __future__ import annotations

import enum
import functools
import math
import sys
import types
from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# What every module has, and where it keeps its hooks.
BASE = frozenset(vars(nn.Module()))
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# How many items of a container are looked at.
MOST_ITEMS = 64
# Of how many values an array or tensor is looked at as a whole, and how many of a larger one: what is written to a
# tensor past PyTorch's counting (`.data`) shows in these. And how many objects and
# containers are looked into from one attribute.
WHOLE, _SAMPLED = 4096, 1024
_OBJECTS = 1000
_PLAIN = (int, bool, str, float, type(None))
CONTAINERS = (
    *(list, dict, set, deque, bytearray, array, np.ndarray),
    *(types.MethodType, functools.partial, enum.Enum, enum.EnumMeta),
)


def comparable(value: Any, seen: set[int] | None = None) -> Any:
    """Plain values as they are, containers, arrays and settings item by item, everything else by its identity.

    Args:
        value: of an attribute.
        seen: what was looked into on the way; each is once, and no more than a thousand.
    """
    kind, seen = type(value), set() if seen is None else seen
    if kind in _PLAIN:
        return value
    if kind is types.MethodType:  # (made anew each time that it is asked for)
        return id(value.__func__), comparable(value.__self__, seen)
    if kind is np.ndarray and value.dtype.kind != "O":
        step = sampling_step(value.size, len(value) if value.ndim else 1, WHOLE)
        return value.shape, value.dtype.str, value.ravel()[::step].tobytes()
    if kind in (bytearray, array) and len(value) <= WHOLE:
        return bytes(value)
    if id(value) in seen or len(seen) >= _OBJECTS:
        return id(value)
    if isinstance(value, list | tuple | deque | set | frozenset) and len(value) <= MOST_ITEMS:
        seen.add(id(value))
        own = getattr(value, "__dict__", {})  # (of a list of a class of its own)
        return [comparable(item, seen) for item in value] + [(key, comparable(one, seen)) for key, one in own.items()]
    if isinstance(value, enum.Enum):  # (its class leads to all the other members)
        seen.add(id(value))
        return [id(value), *(comparable(item, seen) for key, item in vars(value).items() if key != "__objclass__")]
    if isinstance(value, enum.EnumMeta) and len(value) <= MOST_ITEMS:
        seen.add(id(value))
        members: list[Any] = list(value)
        return [comparable(member, seen) for member in members]
    if isinstance(value, dict) and len(value) <= MOST_ITEMS:
        seen.add(id(value))
        return [(key, comparable(item, seen)) for key, item in value.items()]
    if kind is functools.partial:
        return [comparable(item, seen) for item in (value.func, value.args, value.keywords)]
    if is_settings(value):
        seen.add(id(value))
        found = [(key, comparable(item, seen)) for key, item in attributes(value).items()]
        if id(kind) in seen:  # (of many objects of a class what that holds is looked at once)
            return [*found, id(kind)]
        seen.add(id(kind))
        return found + _of_class(kind, seen)
    if is_settings_class(value):
        seen.add(id(value))
        return id(value), _of_class(value, seen)
    return id(value)


def attributes(value: object) -> dict[str, Any]:
    """What an object holds by name, past code of its own: in its dictionary, and in the slots of its classes.

    Example:
        >>> attributes(type("Settings", (), {"__slots__": ("scale",)})())
        {}
        >>> attributes(types.SimpleNamespace(scale=2.0))
        {'scale': 2.0}
    """
    kinds = [kind for kind in type(value).__mro__ if kind.__module__ not in sys.stdlib_module_names]
    slots = [(name, item) for kind in kinds for name, item in vars(kind).items() if _is_slot(item)]
    found = {}
    for name, slot in slots:
        try:
            found[name] = slot.__get__(value)
        except AttributeError:  # nothing is in it yet
            continue
    try:
        return {**found, **object.__getattribute__(value, "__dict__")}
    except AttributeError:
        return found


def _is_slot(item: object) -> bool:
    # (What is written in C has members of this kind, too, which are no settings.)
    return isinstance(item, types.MemberDescriptorType) and "__slots__" in vars(item.__objclass__)


def sampling_step(count: int, rows: int, samples: int) -> int:
    """Every how many values are looked at: all of few, else some of each row, in each at other columns.

    Example:
        >>> sampling_step(4096, 64, 1024), sampling_step(128 * 576, 128, 1024)
        (1, 71)
    """
    if count <= WHOLE:
        return 1
    columns = count // max(1, rows)
    step = max(1, min(count // samples, columns))
    # With a divisor in common some columns would never be looked at.
    return next(one for one in range(step, 0, -1) if math.gcd(one, columns) == 1)


def _of_class(kind: type, seen: set[int]) -> list[tuple[str, Any]]:
    """The plain values that a class of settings holds itself, and those of the classes written in it."""
    return [(key, comparable(item, seen)) for key, item in vars(kind).items() if _is_value(kind, key, item)]


def _is_value(kind: type, key: str, item: Any) -> bool:
    if isinstance(item, type):
        return item.__qualname__ == f"{kind.__qualname__}.{key}" and is_settings_class(item)
    return not key.startswith("__") and isinstance(item, int | float | str | None | list | tuple | dict | set)


def is_settings_class(value: Any) -> bool:
    """Whether it is a class of a few plain values, which code reads as settings.

    Example:
        >>> is_settings_class(type("Config", (), {"scale": 2.0})), is_settings_class(nn.ReLU)
        (True, False)
    """
    if not isinstance(value, type) or issubclass(value, nn.Module | Tensor | enum.Enum):
        return False
    if len(vars(value)) > MOST_ITEMS:
        return False
    return any(_is_value(value, key, item) for key, item in vars(value).items())


def is_settings(value: Any) -> bool:
    """Whether an object is one of a few named values: of a dataclass, a namespace or another plain class."""
    kind = type(value)
    if kind in _PLAIN or isinstance(value, nn.Module | Tensor | type | types.ModuleType | enum.Enum):
        return False
    if kind is OrderedDict and not vars(value):  # (each module has seven tables of hooks: nothing of them is a setting)
        return False
    if callable(value) and kind.__module__.partition(".")[0] in ("builtins", "functools", "torch"):
        return False
    own = attributes(value)
    if not own:
        return hasattr(value, "__dict__") and is_settings_class(kind)
    return len(own) <= MOST_ITEMS


def is_own_dict(value: Any) -> bool:
    """Whether it is a dict whose items are its attributes (`self.__dict__ = self`), as settings often are."""
    return isinstance(value, dict) and getattr(value, "__dict__", None) is value


def is_readable(tensor: Tensor) -> bool:
    """Whether a tensor's values can be read where they lie."""
    odd = tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg()
    return is_plain(tensor) and tensor.layout == torch.strided and tensor.device.type != "meta" and not odd


def glance(tensor: Tensor) -> tuple[int | None, bytes]:
    """How often a tensor was written to, as far as that is counted, and some of its values."""
    version = None if tensor.is_inference() else tensor._version
    if not is_readable(tensor):
        return version, b""
    return version, bytes_of([sampled(tensor)])


def sampled(tensor: Tensor) -> Tensor:
    """A view of a readable tensor's memory: all of a small one, of a large one some values of each row."""
    values = tensor.detach()
    if values.numel() <= WHOLE:
        return values
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    while values.ndim > 1 and not values.is_contiguous():  # of another layout the first row
        values = values[0]
    return values.view(-1)[:: sampling_step(values.numel(), len(tensor), _SAMPLED)]


def bytes_of(values: Sequence[Tensor]) -> bytes:
    """All that tensors on one device hold, for which the CPU waits once."""
    return torch.cat([one.contiguous().view(-1).view(torch.uint8) for one in values]).cpu().numpy().tobytes()


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's values lie in memory of its own, rather than in tensors that it is made of (torchao's).

    Example:
        >>> is_plain(Tensor())
        True
    """
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
