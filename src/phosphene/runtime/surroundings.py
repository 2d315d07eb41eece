"""What the code of a network reads that hangs on none of its modules: their classes, global names, closures."""

from __future__ import annotations

import dis
import functools
import sys
import types
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import partial
from typing import Any

from torch import nn
from torch.nn import functional as F

from phosphene.classifier import Classifier
from phosphene.runtime.comparable import CONTAINERS, comparable, is_settings, is_settings_class

# Nobody changes the code of these between two calls but by naming it anew, which is seen where it is named: their
# functions are looked at by identity and not followed.
_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "timm", "torchvision", "transformers"}
# How far functions are followed that call functions.
_DEPTH = 3


class Surroundings:
    """All of that at one time.

    Args:
        modules: of a network.

    Example:
        >>> class Net(nn.Module):
        ...     scale = 1.0
        ...     def forward(self, x): return x * self.scale
        >>> surroundings = Surroundings([Net()])
        >>> surroundings.holds()
        True
        >>> Net.scale = 2.0
        >>> surroundings.holds()
        False
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        reader = _Reader()
        reader.read(modules)
        reader.read_functional()
        self._classes = [(space, len(space)) for space in reader.classes.values()]
        # By identity; what can be filled anew is looked into.
        self._named = list(reader.named.values())
        self._filled = [(read, comparable(value)) for read, value in self._named if _is_filled(value)]

    def holds(self) -> bool:
        """Whether everything is as it was."""
        if any(len(space) != count for space, count in self._classes):
            return False
        if any(read() is not value for read, value in self._named):
            return False
        return all(comparable(read()) == before for read, before in self._filled)

    def settle(self) -> None:
        """Leave out from now on what has changed by now.

        For what a network's own passes change, such as a count of calls: noticing it would make all anew at each call.
        """
        self._classes = [(space, len(space)) for space, _ in self._classes]
        self._named = [(read, value) for read, value in self._named if read() is value]
        self._filled = [(read, before) for read, before in self._filled if comparable(read()) == before]


class _Reader:
    """Collects what is read, each function and class once."""

    def __init__(self) -> None:
        self.classes: dict[type, Mapping[str, Any]] = {}
        self.named: dict[tuple[int, str], tuple[Callable[[], Any], Any]] = {}  # how it is read, and what was there
        self._followed: set[types.FunctionType] = set()
        self.mentioned = {"forward", "__call__", "__getattr__"}

    def read(self, modules: Iterable[nn.Module]) -> None:
        """From each forward on, what code mentions of the modules' classes; other methods may do what they like."""
        for module in modules:
            for kind in type(module).__mro__:
                if kind not in self.classes and not _is_library(kind.__module__):
                    self.classes[kind] = vars(kind)
            for value in vars(module).values():  # (hooks lie deeper, run as they are, and often keep what they see)
                self._follow(value)
        known = 0
        while known < len(self.mentioned):
            known = len(self.mentioned)
            for space in self.classes.values():
                for name in self.mentioned & space.keys():
                    self._note(space, name)

    def read_functional(self) -> None:
        """What layers of PyTorch call, whose own code is not followed."""
        for name in [name for name, value in vars(F).items() if callable(value)]:
            self._note(vars(F), name)

    def _note(self, space: Mapping[str, Any] | types.CellType, name: str, depth: int = _DEPTH) -> None:
        read = partial(_content, space) if isinstance(space, types.CellType) else partial(space.get, name)
        if isinstance(value := read(), Classifier):  # (whoever holds the fingerprint would keep it alive)
            return
        self.named[id(space), name] = read, value
        self._follow(value, depth)

    def _follow(self, value: Any, depth: int = _DEPTH) -> None:
        function = _function(value)
        if function is None or depth == 0 or function in self._followed or _is_library(function.__module__):
            return
        self._followed.add(function)
        codes = list(_codes(function.__code__))
        self.mentioned.update(_names(function))
        for name in globals_read(function) & function.__globals__.keys():
            found = function.__globals__[name]
            if isinstance(found, types.ModuleType | type):
                library = _is_library(found.__name__ if isinstance(found, types.ModuleType) else found.__module__)
                inner = vars(found)
                for attribute in {name for code in codes for name in code.co_names} & inner.keys():
                    if not library or callable(inner[attribute]):
                        self._note(inner, attribute, depth - 1)
                if library:
                    continue
            self._note(function.__globals__, name, depth - 1)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            if name != "__class__":
                self._note(cell, name, depth - 1)


def _content(cell: types.CellType) -> Any:
    """What a cell of a closure holds; an empty one holds nothing."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code of a function and of those inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def globals_read(function: types.FunctionType) -> frozenset[str]:
    """The names that a function, and what is written inside of it, look up among the globals.

    Example:
        >>> sorted(globals_read(lambda x: x.head + sum(model.head(y) for y in x)))
        ['model', 'sum']
    """
    return _globals_read(function.__code__)


@functools.lru_cache(maxsize=4096)  # (a network's blocks share their code, and each pass over them reads it again)
def _globals_read(code: types.CodeType) -> frozenset[str]:
    # (Among `co_names` are names of attributes too, and `x` of `self.x` is not the `x` of somebody's notebook.)
    read = (one for inner in _codes(code) for one in dis.get_instructions(inner))
    return frozenset(one.argval for one in read if one.opname == "LOAD_GLOBAL")


def held(value: Any, *, globals_too: bool = True) -> Iterator[Any]:
    """What a function, a method or a container holds."""
    if isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.FunctionType):
        yield from (*contents(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        if globals_too:
            yield from (value.__globals__[name] for name in globals_read(value) & value.__globals__.keys())
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | Set):
        yield from value


def contents(function: types.FunctionType) -> list[Any]:
    """What the cells of a closure hold."""
    return list(map(_content, function.__closure__ or ()))


def names_used(modules: Iterable[nn.Module]) -> Set[str]:
    """The names that the code of modules and of their classes uses from each forward on, also in strings.

    Example:
        >>> class Block(nn.Module):
        ...     usual = nn.ReLU()
        ...     def __init__(self): super().__init__(); self.act = self.usual
        ...     def forward(self, x): return self.act(x)
        >>> "act" in names_used([Block()]), "usual" in names_used([Block()])
        (True, False)
    """
    reader = _Reader()
    reader.read(modules)
    return reader.mentioned


def _names(function: types.FunctionType) -> Iterator[str]:
    for code in _codes(function.__code__):
        yield from code.co_names
        yield from (one for one in code.co_consts if isinstance(one, str))


def _function(value: Any) -> types.FunctionType | None:
    """The Python function in a value, if there is one."""
    if isinstance(value, staticmethod | classmethod | types.MethodType):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    elif isinstance(value, functools.partial | functools.cached_property):
        value = value.func
    return value if isinstance(value, types.FunctionType) else None


def _is_filled(value: Any) -> bool:
    if isinstance(value, type):
        return not _is_library(value.__module__) and is_settings_class(value)
    own = isinstance(value, Namespace | types.SimpleNamespace) or not _is_library(type(value).__module__)
    return isinstance(value, CONTAINERS) or (own and is_settings(value))


def _is_library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in _LIBRARIES
