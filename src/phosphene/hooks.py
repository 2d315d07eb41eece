"""Touching a running model and leaving no trace: activations of layers, layer shapes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from phosphene.types import Layer

Edit = Callable[[str, Tensor], Tensor]


@contextmanager
def capture(module: nn.Module, layers: Sequence[str], edit: Edit | None = None) -> Iterator[dict[str, Tensor]]:
    """The outputs of named layers, filled in while the module runs inside the context.

    What follows a captured layer in place (an in-place ReLU) works on a copy, so the captured value stays
    what the layer returned. Only runs of the thread that opened the context are seen, and the hooks are
    gone afterwards whatever happens. A layer that runs several times gives its last output.

    Args:
        module: any module.
        layers: dotted names; "" is the module itself.
        edit: replaces each output before it is kept and passed on, called with (name, output).

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
        >>> with capture(net, ["0"]) as found:
        ...     _ = net(torch.ones(1, 2))
        >>> found["0"].shape
        torch.Size([1, 3])
    """
    found: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def hook_for(name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            if threading.get_ident() != thread:
                return None
            value = first_tensor(output)
            if value is None:
                return None
            value = value if edit is None else edit(name, value)
            found[name] = value
            return _replace_first(output, value.clone())

        return hook

    with ExitStack() as stack:
        for name in dict.fromkeys(layers):
            handle = module.get_submodule(name).register_forward_hook(hook_for(name))
            stack.callback(handle.remove)
        yield found


def survey(module: nn.Module, inputs: Tensor) -> list[Layer]:
    """Every module that ran on `inputs`, in the order in which they finished, with output shapes (without N)."""
    seen: dict[str, Layer] = {}
    thread = threading.get_ident()

    def hook_for(name: str, kind: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
            # What returns a dict is a whole network or a part of one, no layer with an output of its own.
            value = None if isinstance(output, Mapping) else first_tensor(output)
            if value is not None and threading.get_ident() == thread:
                calls = seen.pop(name).calls + 1 if name in seen else 1
                seen[name] = Layer(name, kind, tuple(value.shape[1:]), len(seen), calls)

        return hook

    with ExitStack() as stack:
        for name, child in module.named_modules():
            if name and not _is_scripted(child):
                handle = child.register_forward_hook(hook_for(name, type(child).__name__))
                stack.callback(handle.remove)
        with torch.no_grad():
            module(inputs)
    ordered = list(seen.values())
    return [Layer(layer.name, layer.kind, layer.shape, order, layer.calls) for order, layer in enumerate(ordered)]


def first_tensor(output: Any) -> Tensor | None:
    """The tensor in a layer's output: itself, or the first one of a tuple or dict."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return next((item for item in output if isinstance(item, Tensor)), None)
    return None


def _replace_first(output: Any, value: Tensor) -> Any:
    if isinstance(output, Tensor):
        return value
    if isinstance(output, Mapping):
        key = next(key for key, item in output.items() if isinstance(item, Tensor))
        return type(output)({**output, key: value})  # type: ignore[call-arg]
    position = next(index for index, item in enumerate(output) if isinstance(item, Tensor))
    items = [*output[:position], value, *output[position + 1 :]]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)
