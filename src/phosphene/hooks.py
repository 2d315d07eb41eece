"""Touching a running model and leaving no trace: activations of layers, their gradients, layer shapes."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from phosphene.axes import Follow, has_places, is_tokens_first
from phosphene.errors import ModelError, NotFoundError, OptionError, suggest
from phosphene.types import Layer

Edit = Callable[[str, Tensor], Tensor]


class Captured(dict[str, Tensor]):
    """What was captured, by name; whoever asks for more is told what did not run."""

    def __missing__(self, name: str) -> Tensor:
        raise did_not_run(name)


def did_not_run(layer: str) -> ModelError:
    """Why nothing of a layer was seen, in one line."""
    return ModelError(
        f"layer '{layer}' did not run on these images, or returned no tensor; name one with layer= that runs for every "
        "picture (`phosphene layers` lists those that ran)"
    )


@contextmanager
def capture(
    module: nn.Module, layers: Sequence[str], edit: Edit | None = None, *, tokens_first: Set[str] = frozenset()
) -> Iterator[dict[str, Tensor]]:
    """The outputs of named layers, filled in while the module runs inside the context.

    What follows a captured layer in place (an in-place ReLU) works on a copy, so the captured value stays
    what the layer returned. Only runs of the thread that opened the context are seen, and the hooks are
    gone afterwards whatever happens. A layer that runs several times gives its last output.

    Args:
        module: any module.
        layers: dotted names; "" is the module itself.
        edit: replaces each output before it is kept and passed on, called with (name, output).
        tokens_first: those of the layers whose outputs are (T, N, C): they are kept, and edited, as (N, T, C).

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
        >>> with capture(net, ["0"]) as found:
        ...     _ = net(torch.ones(1, 2))
        >>> found["0"].shape
        torch.Size([1, 3])
    """
    if isinstance(layers, str) or not isinstance(layers, Sequence | Set):
        raise OptionError(f"layers {layers!r} to be captured are no list; give their dotted names")
    if not isinstance(module, nn.Module):
        raise OptionError(f"{type(module).__name__} is no nn.Module; of a classifier give prepare(classifier).module")
    found = Captured()
    thread = threading.get_ident()

    def hook_for(name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            if threading.get_ident() != thread:
                return None
            value = first_tensor(output)
            if value is None:
                return None
            if _is_wrapped(value):
                raise ModelError(
                    f"layer '{name}' runs inside of torch.vmap or another transformation of torch.func, where nobody "
                    "can watch it; use a method that looks at input and output alone (saliency, occlusion, rise)"
                )
            if value.is_quantized:
                raise ModelError(
                    f"layer '{name}' gives whole numbers, as quantized layers do, whose channels are not read; use "
                    "occlusion or rise, or the network before it was quantized"
                )
            if value.is_complex():
                raise ModelError(
                    f"layer '{name}' gives complex numbers, whose channels are not read; name another layer"
                )
            value = value.transpose(0, 1) if name in tokens_first else value
            value = value if edit is None else edit(name, value)
            found[name] = value
            passed = value.transpose(0, 1) if name in tokens_first else value
            return _replace_first(output, passed.clone())

        return hook

    with ExitStack() as stack:
        for name in dict.fromkeys(layers):
            handle = _layer(module, name).register_forward_hook(hook_for(name))
            stack.callback(handle.remove)
        yield found


@contextmanager
def capture_input(
    module: nn.Module, layer: str, edit: Edit | None = None, *, tokens_first: bool = False
) -> Iterator[dict[str, Tensor]]:
    """The first tensor that a named layer is given, filled in while the module runs; else as `capture`."""
    found: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def hook(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        source: Any = arguments if first_tensor(arguments) is not None else keywords
        value = first_tensor(source)
        if threading.get_ident() != thread or value is None:
            return None
        value = value.transpose(0, 1) if tokens_first else value
        found[layer] = value = value if edit is None else edit(layer, value)
        changed = _replace_first(source, (value.transpose(0, 1) if tokens_first else value).clone())
        return (changed, keywords) if source is arguments else (arguments, changed)

    handle = module.get_submodule(layer).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def scaled_gradients(module: nn.Module, layers: Sequence[str], factor: float) -> Iterator[None]:
    """Gradients that come back to the outputs of named layers are multiplied by `factor`, on their way further back.

    At each call of a layer, and of several tensors that it returns at the first. Only runs of the thread that opened
    the context are seen, and the hooks are gone afterwards whatever happens.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 1, bias=False))
        >>> inputs = torch.ones(1, 2, requires_grad=True)
        >>> with scaled_gradients(net, ["0"], 0.5):
        ...     (gradient,) = torch.autograd.grad(net(inputs).sum(), inputs)
        >>> torch.equal(gradient, 0.5 * net[0].weight)
        True
    """
    thread = threading.get_ident()

    def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
        value = first_tensor(output)
        if threading.get_ident() == thread and value is not None and value.requires_grad:
            value.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]

    found = {id(layer): layer for layer in map(module.get_submodule, layers)}
    with ExitStack() as stack:
        for layer in found.values():
            stack.callback(layer.register_forward_hook(hook).remove)
        yield


def survey(
    module: nn.Module, inputs: Tensor, call: Callable[[nn.Module, Tensor], Any] = lambda module, inputs: module(inputs)
) -> list[Layer]:
    """Every module that ran on `inputs`, in the order in which they finished.

    With the shapes of their outputs (without N) and which axis of these holds the channels: as the operations on the
    way from the images say, and where they cannot be followed (code of another library), as the module's kind says.

    Args:
        module: the network.
        inputs: (N, C, H, W) normalized images.
        call: how it is called with them, where it takes more.
    """
    seen: dict[str, Layer] = {}
    thread = threading.get_ident()

    def hook_for(name: str, kind: str) -> Callable[..., Any]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            fed = first_tensor(arguments)
            value = None if _is_of_many(output, fed) else first_tensor(output)
            of_others = value is None or value.is_complex() or _is_wrapped(value)
            if value is not None and not of_others and threading.get_ident() == thread:
                calls = seen.pop(name).calls + 1 if name in seen else 1
                if follow.axes(value) is None and (names := _axes_of_kind(module, value)) is not None:
                    # (A norm of learned queries, say, has tokens, but no places.)
                    follow.name(value, names if follow.follows(value) else names.replace("P", "?"))
                layout, before = (None if item is None else follow.layout(item) for item in (value, fed))
                axes = follow.axes(value)
                told = (
                    has_places(axes),
                    follow.moves,
                    follow.made(value),
                    follow.seen(value),
                    follow.resamples,
                    follow.chooses,
                    follow.layered(value),
                )
                value = value.transpose(0, 1) if is_tokens_first(layout) else value
                rows = len(value) // len(inputs) if value.ndim else 1
                shape = tuple(value.shape[1:])
                seen[name] = Layer(name, kind, shape, len(seen), calls, layout, before, rows, *told)

        return hook

    with ExitStack() as stack:
        for name, child in module.named_modules():
            # (What makes a weight of others gives no map of the images.)
            if name and not is_scripted(child) and "parametrizations" not in name.split("."):
                handle = child.register_forward_hook(hook_for(name, type(child).__name__))
                stack.callback(handle.remove)
        with torch.no_grad(), Follow() as follow:
            call(module, follow.name(inputs, "NCPP"))
    return [replace(layer, order=order) for order, layer in enumerate(seen.values())]


_CHANNELS_FIRST = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.LocalResponseNorm),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.FractionalMaxPool2d, nn.LPPool2d),
    *(nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d),
)


def _axes_of_kind(module: nn.Module, output: Tensor) -> str | None:
    """Names of the axes of an output as the module's kind has them: channels first, or last."""
    if isinstance(module, _CHANNELS_FIRST):
        return "NCPP" if output.ndim == 4 else None
    if isinstance(module, nn.Linear) or (isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1):
        return {3: "NPC", 4: "NPPC"}.get(output.ndim)
    return None


def first_tensor(output: Any) -> Tensor | None:
    """The tensor in a layer's output: itself, or the first one of a tuple or dict."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return next((item for item in output if isinstance(item, Tensor)), None)
    return None


def _is_of_many(output: Any, fed: Tensor | None) -> bool:
    """Whether a module is a whole network or a part of one (an encoder), no layer with one output of its own.

    It gives a dict, maps of several sizes, or first of all what it was given.
    """
    if isinstance(output, tuple | list):
        tensors = [item for item in output if isinstance(item, Tensor)]
        sizes = {item.shape[2:] for item in tensors if item.ndim == 4}
        return len(sizes) > 1 or (len(tensors) > 1 and tensors[0] is fed)
    return isinstance(output, Mapping)


def _is_wrapped(value: Tensor) -> bool:
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(value))


def _replace_first(output: Any, value: Tensor) -> Any:
    if isinstance(output, Tensor):
        return value
    if isinstance(output, Mapping):
        key = next(key for key, item in output.items() if isinstance(item, Tensor))
        return type(output)({**output, key: value})  # type: ignore[call-arg]
    position = next(index for index, item in enumerate(output) if isinstance(item, Tensor))
    items = [*output[:position], value, *output[position + 1 :]]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)


def _layer(module: nn.Module, name: str) -> nn.Module:
    try:
        layer = module.get_submodule(name)
    except (AttributeError, TypeError, RuntimeError):  # (the last of TorchScript, for any name)
        named = dict(module.named_modules(remove_duplicate=False))
        if name not in named:
            raise NotFoundError(f"no layer {name!r} in {type(module).__name__}{suggest(str(name), named)}") from None
        layer = named[name]
    if is_scripted(layer):
        raise ModelError(
            f"layer '{name}' cannot be watched: TorchScript runs as one piece; use a method that looks at input and "
            "output alone (saliency, occlusion, rise), or the network as torch.export.save writes it"
        )
    return layer


def is_scripted(module: nn.Module) -> bool:
    """Whether a module is TorchScript, which takes no hooks."""
    return isinstance(module, torch.jit.ScriptModule)


class ValueHooks(TorchFunctionMode):
    """Notes whether code lays hooks on values, and lets those be that PyTorch refuses: on values without a gradient.

    Args:
        aside: whether none is laid, for what goes back is no gradient.

    Example:
        >>> with ValueHooks() as hooks:
        ...     _ = torch.ones(2).register_hook(print)
        >>> hooks.seen
        True
    """

    seen = False

    def __init__(self, *, aside: bool = False) -> None:
        super().__init__()
        self.aside = aside

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.register_hook, Tensor.retain_grad):
            self.seen = True
            if self.aside or not args[0].requires_grad:
                return RemovableHandle(OrderedDict())
        return func(*args, **(kwargs or {}))


def running_layer() -> str:
    """The innermost module whose code this thread is running, named as in the outermost that holds it.

    Python's own stack knows it, so no hook has to be laid on any module for the sake of an error message.
    """
    owners: list[nn.Module] = []
    frame = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            owners.append(owner)
        frame = frame.f_back  # type: ignore[assignment]
    if not owners:
        return "a function outside any module"
    for root in reversed(owners):
        for name, child in root.named_modules():
            if child is owners[0]:
                return f"layer '{name}' ({type(child).__name__})"
    return f"a layer of type {type(owners[0]).__name__}"
