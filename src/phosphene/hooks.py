"""Touching a running model and leaving no trace: activations of layers, layer shapes, other rules for ReLUs."""

from __future__ import annotations

import math
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from phosphene.axes import Follow, has_places, is_tokens_first
from phosphene.errors import ModelError, NotFoundError, OptionError, suggest
from phosphene.types import Layer

Edit = Callable[[str, Tensor], Tensor]
ReluRule = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


class Captured(dict[str, Tensor]):
    """What was captured, by name; whoever asks for more is told what did not run."""

    def __missing__(self, name: str) -> Tensor:
        raise did_not_run(name)


def did_not_run(layer: str) -> ModelError:
    """Why nothing of a layer was seen, in one line."""
    return ModelError(
        f"layer '{layer}' did not run on these images, or returned no tensor; `phosphene layers` lists those that do"
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
                placed = has_places(follow.axes(value))
                value = value.transpose(0, 1) if is_tokens_first(layout) else value
                rows = len(value) // len(inputs) if value.ndim else 1
                shape, order = tuple(value.shape[1:]), len(seen)
                seen[name] = Layer(name, kind, shape, order, calls, layout, before, rows, placed, follow.moves)

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


# What TorchScript calls them, and the activations that no rule covers.
_IN_SCRIPTS = re.compile(
    r"aten::(relu6?|hardtanh|threshold|clamp(_min)?|maximum|silu|gelu|hardswish|mish|[sc]?elu|leaky_relu|prelu|rrelu|"
    r"softplus)_?\("
)


def hides_relus(module: nn.Module) -> bool:
    """Whether a module is TorchScript in which something is rectified: no rule for ReLUs reaches it.

    Example:
        >>> hides_relus(nn.ReLU())
        False
    """
    return is_scripted(module) and _IN_SCRIPTS.search(str(module.inlined_graph)) is not None


# What the autograd graph calls activations that no rule for ReLUs covers, and ReLUs that escaped the rule.
_NO_RULE = (
    *("Silu", "Gelu", "Hardswish", "Mish", "Elu", "Celu", "LeakyRelu", "PreluKernel", "RreluWithNoise", "Softplus"),
    *("Softshrink", "Hardshrink", "LogSigmoid", "Tanh", "Erf", "Glu", "Sin", "Cos", "Atan", "Asinh"),
)
_ESCAPED = ("Relu", "Hardtanh", "Threshold")
# Activations written out by hand: x * sigmoid(x), x * relu6(x + 3) / 6, x / (1 + |x|).
_GATES = {"Sigmoid", "Hardsigmoid", "Exp", "Abs", "_Rectify"}
_AFFINE = {"Mul", "Div", "Add", "Sub", "Rsub", "Neg", "Reciprocal"}
# What takes one of two values at each place.
_CHOICES = {"Maximum", "Minimum", "Fmax", "Fmin"}
# What gives several values.
_PARTS_OF = {"Split", "SplitWithSizes", "UnsafeSplit", "UnsafeSplitWithSizes", "Unbind", "Chunk", "Unsafechunk"}


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


@contextmanager
def relu_rule(rule: ReluRule) -> Iterator[Callable[[Tensor], None]]:
    """Every ReLU that this thread runs inside the context passes gradients back by `rule`; yields a check.

    Caught are ReLU, ReLU6, hardtanh and clamp from 0, threshold and maximum at 0, as modules, functions and
    methods, in place or not, used once or often, and values taken by a mask of where they are positive (`where`,
    `masked_fill`, a product, an assignment); the values forward stay the same. The module is not touched, and
    other threads are not affected. The check looks at the graph behind a result and refuses it if an activation
    without a rule lies in it, or a ReLU in code that Python does not see (scripted, compiled, an autograd function
    of the network's own), or one made of a magnitude, a minimum or two choices. Gates (sigmoid, softmax) keep their
    gradient.

    Args:
        rule: (gradient at the ReLU's output, through) -> gradient at its input; `through` makes of a gradient a new one
            that is zero where the ReLU let no value through.

    Example:
        >>> net, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.ones(1, 2, requires_grad=True)
        >>> with relu_rule(lambda gradient, through: gradient) as check:
        ...     score = net(x).sum()
        ...     check(score)
        >>> torch.equal(torch.autograd.grad(score, x)[0], net[0].weight.sum(0, keepdim=True))
        True
    """
    mode = _ReluRule(rule)
    with mode:
        yield mode.check


class _ReluRule(TorchFunctionMode):
    """Sees each torch call of its thread before it runs."""

    def __init__(self, rule: ReluRule) -> None:
        super().__init__()
        self.rule = rule
        self.places: dict[Any, str] = {}  # node of the graph -> the layer that made it, where there may be no rule
        self.by_parts: set[Any] = set()  # nodes of the graph that cut at zero in another way than a ReLU does at once
        self.signs: list[tuple[Any, Any, bool]] = []  # (mask, what was compared with zero, whether it holds above zero)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0]  # relu.default: an operator with its overload
        relu = _read_relu(name.strip("_"), args, kwargs)
        if relu is not None:
            values, upper = relu
            in_place = bool(name.endswith("_") or kwargs.get("inplace", False))
            directly = in_place and not (values.is_leaf or values._is_view())
            # As PyTorch's own: a ReLU keeps what it gave, all others let their output be worked on in place.
            keeps = name.strip("_") == "relu"
            rectified = _Rectify.apply(values, upper, self.rule, directly, keeps)  # type: ignore[no-untyped-call]
            return values.copy_(rectified) if in_place and not directly else rectified
        masked = self._masked(name.strip("_"), args, kwargs)
        if masked is not None:
            in_place = name in ("__setitem__", "__imul__") or (name.endswith("_") and not name.startswith("__"))
            directly = in_place and not (masked.is_leaf or masked._is_view())
            rectified = _Rectify.apply(masked, math.inf, self.rule, directly, False)  # type: ignore[no-untyped-call]
            rectified = masked.copy_(rectified) if in_place and not directly else rectified
            return None if name == "__setitem__" else rectified
        given = [value.grad_fn for value in args if isinstance(value, Tensor)]
        output = func(*args, **kwargs)
        node = output.grad_fn if isinstance(output, Tensor) else None
        # What hands on what it was given, such as dropout in eval mode, did not make it.
        if node is not None and node not in given and node_kind(node) in (*_NO_RULE, "Mul", "Div"):
            self.places[node] = running_layer()
        if node is not None and (_is_minimum(name, args) or _is_of_its_sign(name, args)):
            self.by_parts.add(node)
        if name.strip("_") in ("gt", "ge", "lt", "le") and len(args) == 2 and _is_zero(args[1]):
            self.signs.append((output, args[0], name.strip("_")[0] == "g"))
        return output

    def _masked(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """What goes in if a call takes values by a mask of where they are positive, zero elsewhere: a ReLU by hand."""
        found = _read_masked(name, args, kwargs)
        if found is None:
            return None
        values, mask = found
        # By what the mask was made of where that is known; else by what it holds.
        given = set(map(id, (*args, *kwargs.values())))
        for known, source, positive in self.signs:
            if id(known) in given and source is values:
                kept = mask.dtype != torch.bool or bool(mask.eq(known).all())
                return values if kept == positive else None
        return values if _is_sign(mask, values) else None

    def check(self, result: Tensor) -> None:
        """Refuse a result whose graph holds an activation without a rule.

        Raises:
            ModelError: naming the activation and its layer.
        """
        for node in graph_nodes(result):
            kind = node_kind(node)
            if kind in _NO_RULE or _is_self_gate(node):
                what = kind if kind in _NO_RULE else "x * gate(x)"
                where = self.places.get(node, "code hidden from Python")
                raise ModelError(
                    f"no ReLU rule for the activation {what} of {where}: deconvnet and guided_backprop read networks "
                    "of ReLUs; use saliency, smoothgrad or integrated_gradients"
                )
            if node in self.by_parts or _is_escaped(node):
                raise ModelError(
                    f"the ReLU rule does not reach {node.name()}: it is cut elsewhere than at 0, is written in parts, "
                    "or runs in scripted or compiled code or in an autograd function of the network's own; pass the "
                    "network as plain Python modules with nn.ReLU"
                )


class _Rectify(torch.autograd.Function):
    """min(max(x, 0), upper), whose backward pass is a rule."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, upper: float, rule: ReluRule, in_place: bool, keeps_output: bool) -> Tensor:
        ctx.rule = rule
        high = None if upper == math.inf else upper
        if in_place:
            ctx.mark_dirty(values)
        output = values.clamp_(0, high) if in_place else values.clamp(0, high)
        ctx.save_for_backward(output if keeps_output else (output > 0) & (output < upper))  # (or where it let through)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (kept,) = ctx.saved_tensors

        def through(given: Tensor) -> Tensor:
            if kept.dtype == torch.bool:
                return torch.where(kept, given, 0.0)
            return torch.ops.aten.threshold_backward(given, kept, 0.0)  # type: ignore[no-any-return]

        return ctx.rule(gradient, through), None, None, None, None


def _read_relu(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, float] | None:
    """(what goes in, where it saturates) if a call is a ReLU of something that needs a gradient, else None."""
    values, *rest = args or (kwargs.get("input"),)

    def argument(position: int, key: str, default: Any = None) -> Any:
        return rest[position] if position < len(rest) else kwargs.get(key, default)

    low: Any = None
    high: Any = math.inf
    if name in ("relu", "relu6"):
        low, high = 0, 6.0 if name == "relu6" else math.inf
    elif name == "hardtanh":
        low, high = argument(0, "min_val", -1.0), argument(1, "max_val", 1.0)
    elif name in ("clamp", "clip", "clamp_min"):
        low, high = argument(0, "min"), argument(1, "max")
    elif name == "threshold" and argument(0, "threshold") == 0:
        low = argument(1, "value")
    elif name in ("maximum", "max", "fmax") and isinstance(argument(0, "other"), Tensor):
        values, low = (argument(0, "other"), values) if _is_zero(values) else (values, argument(0, "other"))
    if not (_is_zero(low) and isinstance(values, Tensor) and values.requires_grad):
        return None
    return values, math.inf if high is None else float(high)


def _read_masked(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """(values, mask of those that are kept) of a call that takes values by a mask and zero elsewhere."""
    values: Any = None
    mask: Any = None
    if name == "where":
        order = ("input", "condition", "other")
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.bool:
            order = ("condition", "input", "other")
        given = {**dict(zip(order, args, strict=False)), **kwargs}
        mask, values, other = (given.get(key) for key in ("condition", "input", "other"))
        if _is_zero(values) and isinstance(mask, Tensor):
            values, mask, other = other, ~mask, values
        if not _is_zero(other):
            return None
    elif name in ("masked_fill", "setitem") and len(args) == 3 and _is_zero(args[2]):
        values, mask = args[:2]
        mask = ~mask if isinstance(mask, Tensor) and mask.dtype == torch.bool else None
    elif name in ("mul", "rmul", "imul", "multiply") and len(args) == 2 and not kwargs:
        values, mask = args if isinstance(args[0], Tensor) and args[0].requires_grad else args[::-1]
    if not (isinstance(values, Tensor) and isinstance(mask, Tensor)) or mask.requires_grad or not values.requires_grad:
        return None
    fits = mask.shape == values.shape and values.is_floating_point()
    return (values, mask) if fits and torch.result_type(values, mask) == values.dtype else None


def _is_sign(mask: Tensor, values: Tensor) -> bool:
    """Whether a mask is where values are positive; without anything negative it may be any mask of ones."""
    with torch.no_grad():
        chosen = mask.bool()
        if mask.dtype != torch.bool and not torch.equal(mask, chosen.to(mask.dtype)):
            return False
        # (Where a value is zero it does not matter.)
        return bool((values < 0).any()) and torch.equal(chosen & (values != 0), values > 0)


def _is_minimum(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call is the minimum of something and zero."""
    return name in ("minimum", "fmin", "min") and any(map(_is_zero, args))


def _is_of_its_sign(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call takes one of two values by the sign of one of them, as leaky ReLUs do."""
    tensors = [one for one in args if isinstance(one, Tensor)] if name == "where" else []
    masks = [one for one in tensors if one.dtype == torch.bool]
    values = [one.detach() for one in tensors if one.is_floating_point() and masks and one.shape == masks[0].shape]
    return any(_is_sign(mask, one) for one in values for mask in (masks[0], ~masks[0]))


def _is_zero(bound: Any) -> bool:
    """Whether a bound is the number 0, or a constant tensor of zeros."""
    if isinstance(bound, Tensor):
        return not bound.requires_grad and not bool(bound.any())
    return isinstance(bound, int | float) and bound == 0


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


def graph_nodes(result: Tensor) -> Iterator[Any]:
    """Every node of the autograd graph behind a result, once."""
    waiting, seen = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(nodes_below(node))


def nodes_below(node: Any) -> list[Any]:
    """What a node of the autograd graph was made from, as far as it needs gradients."""
    return [below for below, _ in node.next_functions if below is not None]


def node_kind(node: Any) -> str:
    """What a node of the autograd graph does: 'MulBackward0' -> 'Mul'."""
    return re.sub(r"Backward\d*$", "", node.name())


def _is_escaped(node: Any) -> bool:
    """Whether a node is a ReLU, or may hide one, that did not pass the rule."""
    if isinstance(node, BackwardCFunction):  # our own convolution says of itself that it holds no activation
        return node_kind(node) != "_Rectify" and not getattr(node, "linear", False)
    kind, below = node_kind(node), nodes_below(node)
    if kind in ("Clamp", "ClampMin", "ClampMax"):
        # (From elsewhere than 0 it keeps numbers safe and is no activation.)
        return any(_is_zero(getattr(node, name, None)) for name in ("_saved_min", "_saved_max"))
    if any(node_kind(one) in _PARTS_OF for one in (*below, *(two for one in below for two in nodes_below(one)))):
        pass  # (of several outputs of one node it cannot be told which is meant)
    elif kind in _CHOICES and len(below) == 2 and any(_pointwise_kinds(*pair) for pair in (below, below[::-1])):
        return True  # the larger of x and .1 x
    elif kind in ("Add", "Sub") and any(
        node_kind(one) == "Abs" and set(nodes_below(one)) & set(below) for one in below
    ):
        return True  # x + |x|
    if any(node_kind(below) == "Abs" for below in nodes_below(node)):  # of a magnitude, as in nn.LPPool2d, it is none
        return False
    return node_kind(node) in _ESCAPED


def _is_self_gate(node: Any) -> bool:
    """Whether a node multiplies or divides a value by a gate that is a pointwise function of the same value."""
    if node_kind(node) not in ("Mul", "Div") or len(nodes_below(node)) != 2:
        return False
    first, second = nodes_below(node)
    return any(
        bool(_GATES & (_pointwise_kinds(gate, _unscaled(value)) or set()))
        for value, gate in ((first, second), (second, first))
    )


def _unscaled(node: Any) -> Any:
    while node_kind(node) in ("Mul", "Div") and len(nodes_below(node)) == 1:
        (node,) = nodes_below(node)
    return node


def _pointwise_kinds(node: Any, source: Any, depth: int = 8) -> set[str] | None:
    """The kinds of nodes between a value and a pointwise function of it, or None if it is no such function."""
    if node is source:
        return set()
    if depth == 0 or node_kind(node) not in _GATES | _AFFINE or not nodes_below(node):
        return None
    kinds = {node_kind(node)}
    for below in nodes_below(node):
        found = _pointwise_kinds(below, source, depth - 1)
        if found is None:
            return None
        kinds |= found
    return kinds
