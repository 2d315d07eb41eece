"""Other rules for ReLUs on the way back, however they are written, and what no rule covers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from phosphene.autograd_graph import graph_nodes, node_kind, nodes_below
from phosphene.errors import ModelError
from phosphene.hooks import running_layer

ReluRule = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]

# What the autograd graph calls activations that no rule for ReLUs covers, and ReLUs that escaped the rule.
_NO_RULE = (
    *("Silu", "Gelu", "Hardswish", "Mish", "Elu", "Celu", "LeakyRelu", "PreluKernel", "RreluWithNoise", "Softplus"),
    *("Softshrink", "Hardshrink", "LogSigmoid", "Tanh", "Erf", "Glu", "Sin", "Cos", "Atan", "Asinh"),
    # Recurrent layers that run as one operation, with theirs inside.
    *("MkldnnRnnLayer", "CudnnRnn", "MiopenRnn", "LstmMps", "ThnnFusedLstmCell", "ThnnFusedGruCell"),
)
# What was scripted becomes one node once it has run, in which nobody can look.
_SCRIPT = "torch::jit::(anonymous namespace)::DifferentiableGraph"
_ESCAPED = ("Relu", "Hardtanh", "Threshold", _SCRIPT)
# Activations written out by hand: x * sigmoid(x), x * relu6(x + 3) / 6, x / (1 + |x|).
_GATES = {"Sigmoid", "Hardsigmoid", "Exp", "Abs", "_Rectify"}
_AFFINE = {"Mul", "Div", "Add", "Sub", "Rsub", "Neg", "Reciprocal"}
# What takes one of two values at each place.
_CHOICES = {"Maximum", "Minimum", "Fmax", "Fmin"}
# What gives several values.
_PARTS_OF = {"Split", "SplitWithSizes", "UnsafeSplit", "UnsafeSplitWithSizes", "Unbind", "Chunk", "Unsafechunk"}


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
        if node is not None and (
            _is_minimum(name, args) or _is_of_its_sign(name, args) or _is_of_thresholds(name, (*args, *kwargs.values()))
        ):
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
                what = "code in TorchScript" if kind == _SCRIPT else node.name()
                raise ModelError(
                    f"the ReLU rule does not reach {what}: it is cut elsewhere than at 0, is written in parts, "
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


def _is_of_thresholds(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a call is the maximum of values and of thresholds that are no values, as a thresholded linear unit's.

    Those of zero make a ReLU, and one number for all keeps numbers safe.
    """
    if name not in ("maximum", "max", "fmax") or not all(isinstance(one, Tensor) for one in args):
        return False
    return any(not one.requires_grad and one.numel() > 1 for one in args)


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


def _is_escaped(node: Any) -> bool:
    """Whether a node is a ReLU, or may hide one, that did not pass the rule."""
    if isinstance(node, BackwardCFunction):  # our own convolution says of itself that it holds no activation
        # (The second calls hooks, and changes nothing itself; the third pools regions or convolves by offsets.)
        passing = ("_Rectify", "BackwardHookFunction", "GeneratedBackwardFor_torchvision_")
        return not node_kind(node).startswith(passing) and not getattr(node, "linear", False)
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
    # Of a magnitude, as in nn.LPPool2d, a ReLU is none.
    return kind == _SCRIPT or (kind in _ESCAPED and not any(node_kind(one) == "Abs" for one in below))


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
