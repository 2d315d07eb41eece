"""Layer-wise relevance propagation: the backward pass carries relevance, by the rules of a composite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from phosphene.autograd_graph import graph_nodes, node_kind
from phosphene.decomposed import FUSED
from phosphene.errors import ModelError
from phosphene.hooks import running_layer

Run = Callable[..., Tensor]

# What a denominator is kept away from zero by, where a rule has no epsilon of its own.
_STABILIZER = 1e-6


@dataclass(frozen=True)
class Step:
    """A linear step of a network: `run(values, weight, bias)`, or of several values without weights.

    Args:
        run: what it does.
        weight: None for a step without weights (a sum, a mean).
        bias: None for none.
        axis: of the weight, along which the output's channels lie.
    """

    run: Run
    weight: Tensor | None = None
    bias: Tensor | None = None
    axis: int = 0


class Rule(Protocol):
    """How relevance (like the output) goes from a step's output to its input (like `values`)."""

    def __call__(self, step: Step, values: Tensor, relevance: Tensor) -> Tensor:
        """The relevance of the values."""


@dataclass(frozen=True)
class Epsilon:
    """Each input gets relevance as its product with the weight makes up the output: ``x w / (z + epsilon sign z)``."""

    epsilon: float = _STABILIZER

    def __call__(self, step: Step, values: Tensor, relevance: Tensor) -> Tensor:
        return _shared(step, [(values, step.weight, step.bias)], relevance, self.epsilon)


@dataclass(frozen=True)
class AlphaBeta:
    """Positive products get `alpha` times the relevance, negative ones `beta` times it; (1, 0) is the z+ rule."""

    alpha: float = 2.0
    beta: float = 1.0

    def __call__(self, step: Step, values: Tensor, relevance: Tensor) -> Tensor:
        high, low = values.clamp(min=0), values.clamp(max=0)
        up, down = _clamped(step.weight, min=0), _clamped(step.weight, max=0)
        positive = [(high, up, _clamped(step.bias, min=0)), (low, down, None)]
        found = self.alpha * _shared(step, positive, relevance)
        if self.beta:
            negative = [(high, down, _clamped(step.bias, max=0)), (low, up, None)]
            found = found - self.beta * _shared(step, negative, relevance)
        return found


@dataclass(frozen=True)
class Gamma:
    """The epsilon rule with what agrees in sign with the output raised by `gamma`."""

    gamma: float = 0.25

    def __call__(self, step: Step, values: Tensor, relevance: Tensor) -> Tensor:
        high, low = values.clamp(min=0), values.clamp(max=0)
        up, down = (self._raised(step.weight, **bound) for bound in ({"min": 0}, {"max": 0}))
        positive = [(high, up, self._raised(step.bias, min=0)), (low, down, None)]
        negative = [(high, down, self._raised(step.bias, max=0)), (low, up, None)]
        with torch.no_grad():
            output = step.run(values, step.weight, step.bias)
        return _shared(step, positive, relevance * (output > 0)) + _shared(step, negative, relevance * (output < 0))

    def _raised(self, weight: Tensor | None, **bound: float) -> Tensor | None:
        return None if weight is None else weight + self.gamma * weight.clamp(**bound)


@dataclass(frozen=True)
class Box:
    """The z-box rule, for a first layer: what a pixel could have been, from `low` to `high`, is taken off.

    Refused where what the layer sees leaves the box by more than `room`, as a share of its width: it is no pixel then.
    """

    low: Tensor
    high: Tensor
    room: float = 0.1

    def __call__(self, step: Step, values: Tensor, relevance: Tensor) -> Tensor:
        shape = self.low.shape[1:]
        if values.shape[1:] != shape and (values.ndim != 4 or (values.shape[1], 1, 1) != shape):
            raise ModelError(
                "the z-box rule is for a first layer on the pixels themselves, and here it sees something else; use "
                "composite=epsilon_plus_flat"
            )
        low, high = self.low.to(values), self.high.to(values)
        room = self.room * (high - low)
        if bool(((values < low - room) | (values > high + room)).any()):
            least, most = map(float, values.aminmax())
            raise ModelError(
                f"the z-box rule of the first layer is for pixels of {low.min():.3g} to {high.max():.3g}, and it sees "
                f"{least:.3g} to {most:.3g}: they are normalized in the network or were before; let a Preprocess do "
                "that, or use composite=epsilon_plus_flat"
            )
        parts = [
            (values, step.weight, step.bias),
            (low.expand_as(values), _clamped(step.weight, min=0), _clamped(step.bias, min=0)),
            (high.expand_as(values), _clamped(step.weight, max=0), _clamped(step.bias, max=0)),
        ]
        return _shared(step, parts, relevance, signs=(1, -1, -1))


@dataclass(frozen=True)
class Flat:
    """Every input that reaches an output gets the same share of its relevance."""

    def __call__(self, step: Step, values: Tensor, relevance: Tensor) -> Tensor:
        ones = None if step.weight is None else torch.ones_like(step.weight)
        return _shared(step, [(torch.ones_like(values), ones, None)], relevance)


@dataclass(frozen=True)
class Composite:
    """Which rule each kind of layer has.

    Args:
        convolution: of convolutions.
        dense: of fully connected layers.
        first: of the first layer with weights; None for that of its kind.
        attention: whether there are rules for softmax, layer norm and products of two features, as of AttnLRP.
        biases: whether biases take their share of the relevance, which is then lost; else the inputs get all of it.
    """

    convolution: Rule
    dense: Rule
    first: Rule | None = None
    attention: bool = False
    biases: bool = True


Part = tuple[Tensor, Tensor | None, Tensor | None]


def _shared(
    step: Step,
    parts: list[Part],
    relevance: Tensor,
    epsilon: float = _STABILIZER,
    signs: tuple[int, ...] = (),
) -> Tensor:
    """The relevance that the parts (values, weight, bias) of a step's output get as they make it up.

    ``sum over parts of sign * values * d output_part / d values * relevance / (sum of sign * output_part)``.
    """
    signs = signs or (1,) * len(parts)
    with torch.enable_grad():
        leaves = [values.detach().requires_grad_() for values, _, _ in parts]
        outputs = [step.run(leaf, weight, bias) for leaf, (_, weight, bias) in zip(leaves, parts, strict=True)]
    whole = sum(sign * output.detach() for sign, output in zip(signs, outputs, strict=True))
    share = torch.where(relevance == 0, 0.0, relevance / _stabilized(whole, epsilon))  # (of nothing nothing is shared)
    found = torch.autograd.grad(outputs, leaves, [share] * len(outputs))
    total = sum(sign * leaf.detach() * one for sign, leaf, one in zip(signs, leaves, found, strict=True))
    return torch.as_tensor(total)


def _stabilized(values: Any, epsilon: float = _STABILIZER) -> Tensor:
    signs: Tensor = torch.where(values < 0, -1.0, 1.0).to(values)
    return torch.as_tensor(values + epsilon * signs)


def _clamped(weight: Tensor | None, **bound: float) -> Tensor | None:
    return None if weight is None else weight.clamp(**bound)


class _Weighted(torch.autograd.Function):
    """A layer with weights; backward by its rule."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Step, rule: Rule, biases: bool, lost: list[Tensor]) -> Tensor:
        ctx.save_for_backward(values)
        ctx.step, ctx.rule, ctx.lost = step if biases else replace(step, bias=None), rule, lost
        return step.run(values, step.weight, step.bias)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        (values,) = ctx.saved_tensors
        found = ctx.rule(ctx.step, values, relevance)
        ctx.lost.append(relevance.sum() - found.sum())
        return found, None, None, None, None


class _Shared(torch.autograd.Function):
    """A step of one or several features, linear in each: each gets relevance as it makes up the output.

    Of a product, which is linear in each of its `shares` factors, each gets its part of the relevance.
    """

    @staticmethod
    def forward(ctx: Any, run: Run, shares: int, lost: list[Tensor], *values: Tensor) -> Tensor:
        ctx.save_for_backward(*values)
        ctx.run, ctx.shares, ctx.lost = run, shares, lost
        return run(*values).clone()  # (what hands on its own input must not be taken for it)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        with torch.enable_grad():
            leaves = [values.detach().requires_grad_() for values in ctx.saved_tensors]
            output = ctx.run(*leaves)
        found = torch.autograd.grad(output, leaves, relevance / _stabilized(output.detach()) / ctx.shares)
        each = [leaf.detach() * one for leaf, one in zip(leaves, found, strict=True)]
        ctx.lost.append(relevance.sum() - sum(one.sum() for one in each))
        return None, None, None, *each


class _Passed(torch.autograd.Function):
    """An activation: its input gets the relevance of its output."""

    @staticmethod
    def forward(ctx: Any, run: Run, values: Tensor) -> Tensor:
        return run(values).clone()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        return None, relevance


class _Softmax(torch.autograd.Function):
    """Softmax by the first-order term of its Taylor expansion: ``x * (R - s * sum R)``."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, axis: int, lost: list[Tensor]) -> Tensor:
        output = values.softmax(dim=axis)
        ctx.save_for_backward(values, output)
        ctx.axis, ctx.lost = axis, lost
        return output

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        values, output = ctx.saved_tensors
        finite = values.masked_fill(values.isinf(), 0.0)  # (what a mask took out)
        found = finite * (relevance - output * relevance.sum(dim=ctx.axis, keepdim=True))
        ctx.lost.append(relevance.sum() - found.sum())
        return found, None, None


class _Constant(torch.autograd.Function):
    """A constant beside features, such as a class token: the relevance that comes to it is lost."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, _feature: Tensor, lost: list[Tensor]) -> Tensor:
        ctx.lost = lost
        return value.clone()

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        ctx.lost.append(relevance.sum())
        return None, None, None


_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_ACTIVATIONS = {
    *(
        "relu",
        "relu6",
        "hardtanh",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "hardswish",
        "mish",
        "softplus",
    ),
    *("tanh", "sigmoid", "hardsigmoid", "prelu", "threshold", "clamp", "clip", "clamp_min", "softsign"),
    *("softshrink", "hardshrink", "tanhshrink", "logsigmoid"),
}
_AVERAGES = {"avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean", "sum", "interpolate"}
_SUMS = {"add": 1, "radd": 1, "iadd": 1, "sub": -1, "isub": -1}
_PRODUCTS = {"mul", "rmul", "imul", "multiply", "div", "truediv", "divide", "itruediv", "neg"}
_MATRICES = {"matmul", "rmatmul", "bmm"}
_JOINS = {"cat", "concat", "concatenate", "stack", "hstack", "vstack"}
_IN_PLACE = {"iadd", "isub", "imul", "itruediv"}
# Nodes of the autograd graph whose gradient hands relevance on as it is: values moved, cut out, joined, the greatest.
_ROUTES = {
    *("View", "UnsafeView", "Reshape", "ReshapeAlias", "Permute", "Transpose", "T", "Squeeze", "Unsqueeze", "Slice"),
    *("Select", "Narrow", "Cat", "Stack", "Split", "SplitWithSizes", "Unbind", "Expand", "Repeat", "Clone", "Alias"),
    *("CopySlices", "CopyBackwards", "Copy", "ToCopy", "AsStrided", "Index", "IndexSelect", "Gather", "Roll", "Flip"),
    *("ConstantPadNd", "PixelShuffle", "PixelUnshuffle", "MaskedFill", "Where", "MaxPool2DWithIndices", "Amax", "Max"),
    *(
        "AdaptiveMaxPool2D",
        "MaxPool3DWithIndices",
        "Max1",
        "Unfold",
        "_Weighted",
        "_Shared",
        "_Passed",
        "_Softmax",
        "_Constant",
    ),
    *("torch::autograd::AccumulateGrad", "torch::autograd::CopySlices", "torch::autograd::CopyBackwards"),
}


@dataclass
class Propagation:
    """A pass under way.

    Args:
        composite: the rules.
        lost: relevance that biases, stabilizers and other rules took, one value for each step.
    """

    composite: Composite
    lost: list[Tensor] = field(default_factory=list)
    places: dict[Any, str] = field(default_factory=dict)

    def check(self, result: Tensor) -> None:
        """Refuse a result in whose graph a step without a rule lies.

        Raises:
            ModelError: naming the step and its layer.
        """
        for node in graph_nodes(result):
            kind = node_kind(node)
            if kind not in _ROUTES:
                where = self.places.get(node, "code hidden from Python")
                more = "" if self.composite.attention else "; networks with attention: attn_lrp"
                raise ModelError(
                    f"no relevance rule for the step {kind} of {where}: relevance would be lost or made there; use "
                    f"integrated_gradients{more}"
                )


@contextmanager
def propagating(composite: Composite) -> Iterator[Propagation]:
    """What runs inside the context passes relevance back where gradients would go, by the rules of a composite.

    Caught are the functions that layers call, whether as modules, functions or methods. A batch norm behind a
    convolution or a linear layer is folded into it; one that stands alone is a linear layer of its own, by the epsilon
    rule. A zero padding before a convolution belongs to it. Sums of features, means and pooling by averages share by
    contribution; activations pass relevance on; pooling by the maximum hands it to the winner. Everything else is
    refused by `Propagation.check`, which has to be asked.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False))
        >>> _ = net.requires_grad_(False)
        >>> x = torch.rand(1, 4, requires_grad=True)
        >>> with propagating(Composite(Epsilon(), Epsilon())) as pass_:
        ...     score = net(x)
        >>> pass_.check(score)
        >>> (relevance,) = torch.autograd.grad(score, x, score.detach())
        >>> torch.allclose(relevance.sum(), score.sum(), atol=1e-4)
        True
    """
    found = Propagation(composite)
    with _Relevance(found):
        yield found


class _Relevance(TorchFunctionMode):
    """Sees each torch call of its thread before it runs."""

    def __init__(self, asked: Propagation) -> None:
        super().__init__()
        self.asked, self.rules = asked, asked.composite

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").partition(".")[0]
        plain = name.strip("_")
        if not any(map(_is_feature, (*args, *kwargs.values()))):
            return func(*args, **kwargs)
        if plain in FUSED and self.rules.attention:
            with self:
                return FUSED[plain](*args, **kwargs)
        in_place = (name.endswith("_") and not name.startswith("__")) or plain in _IN_PLACE
        in_place = in_place or bool(kwargs.get("inplace"))
        in_place = in_place or (_takes_inplace(func) and any(one is True for one in args))
        kept = (args[0].clone(), *args[1:]) if in_place and plain not in _ACTIVATIONS and _is_feature(args[0]) else args
        made = self._made(func, plain, kept, kwargs)
        if made is not None:
            return args[0].copy_(made) if in_place else made
        if plain in _JOINS and args and isinstance(args[0], tuple | list):
            args = (self._joined(args[0]), *args[1:])
        output = func(*args, **kwargs)
        given = {value.grad_fn for value in args if isinstance(value, Tensor)}
        for value in output if isinstance(output, tuple | list) else (output,):
            if _is_feature(value) and value.grad_fn not in given:
                self.asked.places[value.grad_fn] = running_layer()
        return output

    def _made(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
        """What a call gives where there is a rule for it; None where there is none."""
        values, *rest = args if args else (kwargs.get("input"),)
        kwargs = {key: value for key, value in kwargs.items() if key not in ("inplace", *(() if args else ("input",)))}
        if name in _CONVOLUTIONS or name == "linear":
            return self._layer(func, values, rest, kwargs, name)
        if name == "batch_norm":
            if len(rest) == 8:  # the operator's own order, as exported networks call it: weight and bias first
                rest = [*rest[2:4], *rest[:2], *rest[4:7]]
            return self._batch_norm(values, *rest, **kwargs)
        if name in _ACTIVATIONS and _is_feature(values) and not any(map(_is_feature, rest)):
            held = tuple(False if item is True else item for item in rest) if _takes_inplace(func) else tuple(rest)
            return self._pass(lambda given: func(given, *held, **kwargs), values)
        if name in _AVERAGES and _is_feature(values):
            return self._share(lambda given: func(given, *rest, **kwargs), values)
        if name in ("pad", "constant_pad_nd") and _is_feature(values):
            return self._pad(func, values, rest, kwargs)
        if name == "neg":
            return self._share(torch.neg, values)
        if name in (*_SUMS, *_PRODUCTS, *_MATRICES, "rsub") and rest:
            return self._pair(name, values, rest[0], rest[1:], kwargs)
        if name == "addmm" and not _is_feature(values) and _is_feature(rest[0]) and not kwargs:
            weight = rest[1].t()
            return self._weighted(Step(F.linear, weight, values), rest[0], dense=True)
        return self._of_attention(name, values, rest, kwargs) if self.rules.attention else None

    def _layer(self, func: Run, values: Tensor, rest: list[Any], kwargs: Mapping[str, Any], name: str) -> Tensor | None:
        """A convolution or a linear layer."""
        weight, bias, more = (*rest, *(None,) * (2 - len(rest)))[0], None, tuple(rest[2:])
        if len(rest) > 1:
            bias = rest[1]
        weight, bias = kwargs.get("weight", weight), kwargs.get("bias", bias)
        if _is_feature(weight) or _is_feature(bias) or not _is_feature(values):
            return None
        options = {key: value for key, value in kwargs.items() if key not in ("weight", "bias")}
        source, pads = _note(values, "_padded_from") or (values, None)

        def run(given: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
            return func(given if pads is None else F.pad(given, pads), w, b, *more, **options)

        return self._weighted(Step(run, weight, bias, int("transpose" in name)), source, name == "linear")

    def _weighted(self, step: Step, values: Tensor, dense: bool) -> Tensor:
        rule = self.rules.dense if dense else self.rules.convolution
        if self.rules.first is not None and not _has_weights_below(values):
            rule = self.rules.first
        output: Tensor = _Weighted.apply(values, step, rule, self.rules.biases, self.asked.lost)  # type: ignore[no-untyped-call]
        return _noted(output, "_made_by", (step, values, dense))

    def _batch_norm(
        self,
        values: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor | None:
        if training or running_mean is None or running_var is None:
            return None
        scale = (running_var + eps).rsqrt()
        scale = scale if weight is None else weight * scale
        shift = -running_mean * scale
        shift = shift if bias is None else bias + shift
        before = _note(values, "_made_by")
        step, source, dense = before or (Step(torch.clone), values, False)
        # (Of tokens a linear layer has its channels last, and a norm behind it those of axis 1.)
        if step.weight is not None and step.weight.shape[step.axis] == len(scale) and not (dense and values.ndim > 2):
            folded = step.weight * scale.view(*(1,) * step.axis, -1, *(1,) * (step.weight.ndim - 1 - step.axis))
            moved = shift if step.bias is None else shift + step.bias * scale
            return self._weighted(replace(step, weight=folded, bias=moved), source, dense)
        across = (1, -1, *(1,) * (values.ndim - 2))
        return self._scaled(values, lambda given: given * scale.view(across), shift.view(across))

    def _pad(self, func: Run, values: Tensor, rest: list[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """A frame: of zeros remembered, so that a convolution behind it is one with it; of others a constant."""
        mode = kwargs.get("mode", rest[1] if len(rest) > 1 and isinstance(rest[1], str) else "constant")
        value = kwargs.get("value", rest[-1] if len(rest) > 1 and not isinstance(rest[-1], str) else None)
        if mode != "constant":
            return None
        pads = tuple(kwargs.get("pad", rest[0] if rest else ()))
        padded = F.pad(values, pads)
        if not value:
            return _noted(padded, "_padded_from", (values, pads))
        inside = F.pad(torch.ones_like(values, dtype=torch.bool), pads)
        padded, frame = self._joined((padded, torch.full_like(padded, value)))
        return torch.where(inside, padded, frame)

    def _joined(self, parts: Any) -> list[Tensor]:
        feature = next(filter(_is_feature, parts))
        return [
            part if _is_feature(part) else _Constant.apply(part, feature, self.asked.lost)  # type: ignore[no-untyped-call]
            for part in parts
        ]

    def _pair(self, name: str, one: Any, other: Any, more: list[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """A sum or a product of a feature with a constant or another feature."""
        if more or kwargs.get("out") is not None or kwargs.get("rounding_mode") is not None:
            return None
        both = _is_feature(one) and _is_feature(other)
        if name in _SUMS or name == "rsub":
            first, second = (other, one) if name == "rsub" else (one, other)
            factor = kwargs.get("alpha", 1) * (-1 if name == "rsub" else _SUMS[name])

            def run(a: Any, b: Any) -> Tensor:
                return torch.as_tensor(a + factor * b)

            if not (both or self.rules.biases) and _keeps_shape(first, second):
                return self._pass(lambda a: run(a, second), first) if _is_feature(first) else None
            return self._of_two(run, first, second)
        if name in _MATRICES and not both:
            if _is_feature(other):
                return None
            weight = other.transpose(-2, -1)
            if weight.ndim == 2:
                return self._weighted(Step(F.linear, weight), one, dense=True)
            return self._share(lambda given: given @ other, one)
        if both and not self.rules.attention:
            return None
        if name in ("div", "truediv", "divide", "itruediv"):
            return None if _is_feature(other) else self._of_two(lambda a, b: a / b, one, other)
        if name in _MATRICES:
            first, second = (other, one) if name == "rmatmul" else (one, other)
            return self._of_two(lambda a, b: a @ b, first, second, shares=2)
        return self._of_two(lambda a, b: a * b, one, other, shares=2 if both else 1)

    def _of_two(self, run: Run, one: Any, other: Any, shares: int = 1) -> Tensor:
        if not _is_feature(other):
            return self._share(lambda given: run(given, other), one)
        if not _is_feature(one):
            return self._share(lambda given: run(one, given), other)
        return self._share(run, one, other, shares=shares)

    def _scaled(self, values: Tensor, run: Run, bias: Tensor | None) -> Tensor:
        """A linear step without mixing, and what is added to it, which takes a share where biases do."""
        if bias is None:
            return self._share(run, values)
        if self.rules.biases:
            return self._share(lambda given: run(given) + bias, values)
        return self._pass(lambda given: given + bias, self._share(run, values))

    def _pass(self, run: Run, values: Tensor) -> Tensor:
        return _Passed.apply(run, values)  # type: ignore[no-any-return, no-untyped-call]

    def _share(self, run: Run, *values: Tensor, shares: int = 1) -> Tensor:
        return _Shared.apply(run, shares, self.asked.lost, *values)  # type: ignore[no-any-return, no-untyped-call]

    def _of_attention(self, name: str, values: Any, rest: list[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
        """What AttnLRP adds: softmax by Taylor expansion, layer norm with its spread held still."""
        if name == "softmax" and _is_feature(values):
            axis = kwargs.get("dim", rest[0] if rest else None)
            return None if axis is None else _Softmax.apply(values, axis, self.asked.lost)  # type: ignore[no-untyped-call]
        if name == "layer_norm" and _is_feature(values):
            return self._layer_norm(values, *rest, **kwargs)
        return None

    def _layer_norm(
        self,
        values: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        axes = tuple(range(-len(tuple(normalized_shape)), 0))
        with torch.no_grad():
            spread = (values.var(dim=axes, correction=0, keepdim=True) + eps).sqrt()

        def run(given: Tensor) -> Tensor:
            found = (given - given.mean(dim=axes, keepdim=True)) / spread
            return found if weight is None else found * weight

        return self._scaled(values, run, bias)


def _is_feature(value: Any) -> bool:
    """Whether a value depends on the image, which alone has a gradient that anybody asks for."""
    if isinstance(value, tuple | list):
        return any(map(_is_feature, value))
    return isinstance(value, Tensor) and value.requires_grad and not isinstance(value, nn.Parameter)


def _keeps_shape(feature: Any, constant: Any) -> bool:
    """Whether a constant beside a feature leaves it its shape."""
    return isinstance(feature, Tensor) and (feature + 0 * constant).shape == feature.shape


def _takes_inplace(func: Any) -> bool:
    return bool(getattr(func, "__module__", "") == "torch.nn.functional")


def _noted(output: Tensor, name: str, what: Any) -> Tensor:
    """A value with a note of what made it, good as long as it is not changed in place."""
    setattr(output, name, (output._version, what))
    return output


def _note(value: Tensor, name: str) -> Any:
    version, what = getattr(value, name, (None, None))
    return what if version == value._version else None


def _has_weights_below(values: Tensor) -> bool:
    return any(node_kind(node) == "_Weighted" for node in graph_nodes(values))
