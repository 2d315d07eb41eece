"""What a network holds and may change as it runs, so that each pass can begin with what it was given in."""

from __future__ import annotations

import operator
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phosphene.hooks import is_scripted
from phosphene.runtime.comparable import MOST_ITEMS, attributes, glance, is_own_dict, is_readable, is_settings

# Numbers in a tensor up to which a parameter is kept as well: vectors that are iterated on, averages; no kernels.
_SMALL = 2**16
# The same of a tensor that is neither parameter nor buffer, such as a memory of features.
_LARGEST = 2**24
# Objects in objects that are looked into.
_LEVELS = 3
_NUMBERS = (bool, int, float, complex, str, type(None))
# What says that a first pass put hooks on the network (transformers): without it the next would put them on again.
_LASTING = ("_output_capturing_hooks_installed",)


class State:
    """The attributes, buffers and small parameters of a module's parts at one time.

    Of large parameters no more is kept than shows whether they were written to. Tensors that lie elsewhere are kept up
    to 16 million numbers.

    Args:
        module: of one's own.
        whole: whether large parameters are kept too.

    Example:
        >>> net = nn.BatchNorm2d(3, momentum=0.5)
        >>> state = State(net)
        >>> _ = net(torch.rand(2, 3, 4, 4))
        >>> state.counts(), state.is_changed()
        (True, True)
        >>> state.restore()
        >>> net.running_mean, state.is_changed()
        (tensor([0., 0., 0.]), False)
    """

    def __init__(self, module: nn.Module, *, whole: bool = False) -> None:
        parts = [child for child in module.modules() if not is_scripted(child)]
        tables = [
            table for child in parts for table in (vars(child), child._buffers, child._parameters, child._modules)
        ]
        objects, containers, loose = _inside(tables)
        self._parts = [(table, dict(table)) for table in tables]
        self._objects = [(table, dict(table)) for table in objects]
        parameters = [parameter for parameter in module.parameters() if is_readable(parameter)]
        large = {id(one): one for one in parameters if one.numel() > _SMALL and not whole}
        loose = [tensor for tensor in loose if tensor.numel() <= _LARGEST]
        written = {id(tensor): tensor for tensor in (*module.buffers(), *parameters, *loose)}
        readable = [tensor for key, tensor in written.items() if key not in large and is_readable(tensor)]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in readable]
        self._large = [(tensor, glance(tensor)) for tensor in large.values()]
        self._containers = [(value, _FILLED.get(type(value), dict)(value)) for value in containers]
        self._own_containers = {id(value) for table in tables for value in table.values() if _is_filled(value)}

    @property
    def _tables(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return self._parts + self._objects

    def is_changed(self) -> bool:
        """Whether anything else is there now."""
        return self.counts() or any(not _same(table, before) for table, before in self._tables)

    def writes_weights(self) -> bool:
        """Whether large parameters hold something else now, which is lost."""
        return any(glance(tensor) != before for tensor, before in self._large)

    def is_of_objects(self) -> bool:
        """Whether all that is another now are attributes of objects and what these hold: no part, no tensor."""
        tensors = any(not _equal(tensor, before) for tensor, before in self._tensors) or self.writes_weights()
        own = [pair for pair in self._containers if id(pair[0]) in self._own_containers]
        alike = all(_same(*pair) for pair in self._parts) and all(_alike(*pair) for pair in own)
        return alike and not tensors

    def counts(self) -> bool:
        """Whether a number is another now: in an attribute, in a list, dict or array of one, in a tensor.

        What is merely kept, such as the last features, is no number.
        """
        for table, before in self._tables:
            for key, value in table.items():
                known = before.get(key)
                if known is not value and isinstance(value, _NUMBERS) and (type(known), known) != (type(value), value):
                    return True
        changed = (not _equal(tensor, before) for tensor, before in self._tensors)
        filled = any(not _alike(value, before) for value, before in self._containers)
        return filled or any(changed) or self.writes_weights()

    def restore(self) -> None:
        """Put everything back."""
        for table, before in self._tables:
            if not _same(table, before):
                lasting = {key: table[key] for key in _LASTING if key in table}
                table.clear()
                table.update(before | lasting)
        for value, before in self._containers:
            if not _alike(value, before):
                _fill(value, before)
        with torch.inference_mode(False), torch.no_grad():
            for tensor, kept in self._tensors:
                if tensor.grad_fn is not None and not tensor._is_view():
                    tensor.detach_()  # (written to while a gradient was recorded: the next pass would go on from there)
                if tensor.shape != kept.shape:
                    tensor.data = kept.clone()
                elif not _equal(tensor, kept):
                    tensor.data.copy_(kept)  # (past PyTorch's counting: what was computed keeps its way back)


def _inside(tables: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Any], list[Tensor]]:
    """(attributes of objects, containers, tensors) that lie in the attributes of modules, or in one another there."""
    known, parts = set(map(id, tables)), list(tables)
    objects: list[dict[str, Any]] = []
    containers: list[Any] = []
    tensors: list[Tensor] = []
    waiting = [(value, 0) for table in parts for value in table.values()]
    while waiting:
        value, level = waiting.pop()
        if id(value) in known or isinstance(value, _NUMBERS):
            continue
        known.add(id(value))
        if isinstance(value, Tensor):
            tensors.append(value)
            continue
        items: Any = ()
        if _is_filled(value):
            containers.append(value)
            items = value.values() if isinstance(value, dict) else () if isinstance(value, np.ndarray | set) else value
        elif type(value) is tuple:
            items = value
        elif level < _LEVELS and is_settings(value) and not _is_of_python(value):
            objects += [vars(value)] if hasattr(value, "__dict__") else []
            items, level = attributes(value).values(), level + 1
        if len(items) <= MOST_ITEMS:
            waiting += [(item, level) for item in items]
    return objects, containers, tensors


def _is_of_python(value: object) -> bool:
    """Whether an object is of Python's own library, as a logger is, whose tables are everybody's."""
    place = type(value).__module__.partition(".")[0]
    return place in sys.stdlib_module_names and place not in ("types", "argparse", "collections", "__main__")


def _equal(tensor: Tensor, before: Tensor) -> bool:
    return tensor.shape == before.shape and torch.equal(_bytes(tensor), _bytes(before))


def _bytes(tensor: Tensor) -> Tensor:
    """The values as bytes, of which each equals itself, whatever type they are of."""
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


def _same(table: dict[str, Any], before: dict[str, Any]) -> bool:
    return len(table) == len(before) and all(map(operator.is_, table.values(), before.values()))


_FILLED: dict[type, Callable[[Any], Any]] = {list: list, dict: dict, set: set, deque: list, np.ndarray: np.copy}


def _is_filled(value: Any) -> bool:
    """Whether it is a container that code fills: of Python's own kinds, or settings that are a dict."""
    own = isinstance(value, dict) and type(value) is not OrderedDict
    return type(value) in _FILLED or (own and not is_own_dict(value))


def _alike(value: Any, before: Any) -> bool:
    if isinstance(value, np.ndarray):
        return bool(value.tobytes() == before.tobytes())
    if isinstance(value, set):
        return bool(value == before)
    if isinstance(value, dict):
        return list(value) == list(before) and _same(value, before)
    return len(value) == len(before) and all(map(operator.is_, value, before))


def _fill(value: Any, before: Any) -> None:
    if isinstance(value, np.ndarray):
        value[...] = before
        return
    value.clear()
    (value.extend if isinstance(value, list | deque) else value.update)(before)
