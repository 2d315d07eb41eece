"""All that can be reached from a network, as it is now: tensors, arrays, numbers, modes, hooks."""

from __future__ import annotations

import functools
import random
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (int, float, complex, bool, str, bytes, type(None))
_DEPTH = 12


def everything(root: nn.Module) -> dict[str, Any]:
    """By its path each value that can be compared, found through attributes, containers, closures and objects."""
    return dict(_walk(root, "network", set(), _DEPTH))


def random_states() -> dict[str, Any]:
    """What the generators of torch, numpy and random stand at."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),
        "random": random.getstate(),
    }


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The paths at which something else stands than before."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def _walk(value: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _PLAIN):
        yield path, repr(value)
    elif depth and id(value) not in seen:
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield from _tensor(value, path)
        elif isinstance(value, np.ndarray):
            yield path, value.tobytes()
        elif isinstance(value, torch.Generator):
            yield path, value.get_state().numpy().tobytes()
        else:
            yield path, (type(value).__name__, id(value))
            for name, held in _held(value):
                yield from _walk(held, f"{path}.{name}", seen, depth - 1)


def _tensor(tensor: Tensor, path: str) -> Iterator[tuple[str, Any]]:
    values = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    where = tensor.data_ptr() if tensor.layout == torch.strided else 0
    yield path, (id(tensor), tensor.requires_grad, tensor.dtype, tuple(tensor.shape), where)
    yield f"{path}: values", values.reshape(-1).clone().view(torch.uint8).numpy().tobytes()
    grad = tensor.grad if tensor.is_leaf else None
    yield f"{path}: gradient", None if grad is None else (id(grad), grad.numpy().tobytes())


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((repr(key), item) for key, item in list(value.items()))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((str(index), item) for index, item in enumerate(value))
    elif isinstance(value, weakref.ref):
        yield "target", value()
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from (("self", value.__self__), ("function", value.__func__))
    elif isinstance(value, types.FunctionType):
        for index, cell in enumerate(value.__closure__ or ()):
            yield f"cell {index}", cell.cell_contents
        yield "defaults", value.__defaults__ or ()
    elif not isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        yield from ((str(key), item) for key, item in list(getattr(value, "__dict__", {}).items()))
