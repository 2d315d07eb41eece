"""Random networks as small data: what a strategy draws and a failure prints, and the module that is made of it.

Every part says with `how` in which of many ways it is written: as a plain layer, as a function, in place, by keyword,
patched, subclassed, hooked or parametrized.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

Pair = tuple[int, int]
Kind = Literal["float32", "float64", "float16", "bfloat16"]

CLASSES = 4
# What bends sharply somewhere, by which a rounding error can become a large one of the gradient.
KINKS = ("relu", "relu6", "hardtanh", "leaky_relu", "hardswish")
RECTIFIERS = ("relu", "relu6")
SMOOTH = ("gelu", "silu", "tanh", "softplus")


@dataclass(frozen=True)
class Conv:
    """A convolution; `padding` is a pair, "same" (PyTorch's) or "tf" (TensorFlow's, uneven)."""

    out: int
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair | Literal["same", "tf"] = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    bias: bool = True
    mode: Literal["zeros", "reflect", "circular", "replicate"] = "zeros"
    how: str = "plain"


@dataclass(frozen=True)
class Norm:
    kind: Literal["batch", "group", "layer", "instance"] = "batch"
    affine: bool = True
    how: str = "plain"


@dataclass(frozen=True)
class Act:
    kind: str = "relu"
    how: str = "plain"


@dataclass(frozen=True)
class Pool:
    kind: Literal["max", "avg", "adaptive"] = "max"
    kernel: Pair = (2, 2)
    stride: Pair = (2, 2)
    padding: Pair = (0, 0)
    ceil: bool = False
    count_padding: bool = True
    how: str = "plain"


@dataclass(frozen=True)
class Pad:
    """(left, right, above, below)."""

    sides: tuple[int, int, int, int]


@dataclass(frozen=True)
class Residual:
    """x + inner(x), or in place, or through a projection."""

    inner: tuple[Part, ...]
    how: Literal["plain", "in place", "reversed", "function"] = "plain"
    projection: Conv | None = None


@dataclass(frozen=True)
class Concat:
    branches: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True)
class Squeeze:
    """Squeeze and excitation: a gate for each channel, of all positions."""

    hidden: int = 2
    gate: Literal["sigmoid", "hardsigmoid"] = "sigmoid"


@dataclass(frozen=True)
class Shuffle:
    groups: int = 2


@dataclass(frozen=True)
class Split:
    """The first channels go through `inner`, the others pass by."""

    first: int
    inner: tuple[Part, ...]


@dataclass(frozen=True)
class Attention:
    heads: int = 1
    how: Literal["layer", "by hand"] = "layer"


@dataclass(frozen=True)
class Repeat:
    """The very same modules several times."""

    inner: tuple[Part, ...]
    times: int = 2


@dataclass(frozen=True)
class Drop:
    pass


Part = Conv | Norm | Act | Pool | Pad | Residual | Concat | Squeeze | Shuffle | Split | Attention | Repeat | Drop


@dataclass(frozen=True)
class Net:
    """A network for images of `size` and `channels`."""

    parts: tuple[Part, ...]
    head: Literal["pool", "mean", "convolution", "view", "flatten", "mlp", "functional"] = "pool"
    size: Pair = (8, 8)
    channels: int = 3
    kind: Kind = "float32"
    seed: int = 0

    @property
    def flat(self) -> list[Part]:
        """All parts, those inside of others too."""
        return list(_flat(self.parts))

    @property
    def smooth(self) -> bool:
        """Whether its gradient changes but little with little of anything."""
        sharp = any(
            (isinstance(part, Act) and part.kind in KINKS)
            or (isinstance(part, Pool) and part.kind == "max")
            or (isinstance(part, Squeeze) and part.gate == "hardsigmoid")
            for part in self.flat
        )
        return not sharp and self.head != "mlp"

    @property
    def rectified(self) -> bool:
        """Whether the rules for ReLUs apply to all of its activations."""
        return all(part.kind in RECTIFIERS for part in self.flat if isinstance(part, Act))


def _flat(parts: Sequence[Part]) -> Sequence[Part]:
    found: list[Part] = []
    for part in parts:
        inner = getattr(part, "inner", ())
        branches = getattr(part, "branches", ())
        found += [part, *_flat(inner), *(item for branch in branches for item in _flat(branch))]
    return found


def build(net: Net) -> nn.Module:
    """The module of a network, in eval mode and of its kind; the same weights each time."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(net.seed)
        body, channels = _sequence(net.parts, net.channels)
        module = Network(body, channels, net)
        module.eval()
        with torch.no_grad():
            module(torch.rand(1, net.channels, *net.size))  # (lazy layers take their shapes)
        for child in module.modules():
            _move(child)
        return module.to(getattr(torch, net.kind)).eval()


def _move(module: nn.Module) -> None:
    """Weights and statistics that are not those of a new norm."""
    if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d | nn.LayerNorm):
        for name, low, high in (("running_mean", -0.5, 0.5), ("running_var", 0.3, 2), ("weight", -1.5, 1.5)):
            values = getattr(module, name, None)
            if values is not None:
                nn.init.uniform_(values, low, high)


class Network(nn.Module):
    """Parts one behind the other, and a head."""

    def __init__(self, body: nn.Module, channels: int, net: Net) -> None:
        super().__init__()
        self.body, self.kind, self.length = body, net.head, channels
        if net.head == "convolution":
            self.to_classes = nn.Conv2d(channels, CLASSES, 1)
        elif net.head in ("view", "flatten"):
            self.head: nn.Module = nn.LazyLinear(CLASSES)
        elif net.head == "mlp":
            layers = nn.Linear(channels, 6), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(6, CLASSES)
            self.head = nn.Sequential(*layers)
        elif net.head == "functional":
            self.weight, self.bias = (
                nn.Parameter(torch.randn(CLASSES, channels) / 2),
                nn.Parameter(torch.randn(CLASSES)),
            )
        else:
            self.head = nn.Linear(channels, CLASSES)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if self.kind == "convolution":
            return torch.flatten(self.pool(self.to_classes(x)), 1)
        if self.kind == "view":
            return self.head(x.view(x.size(0), -1))
        if self.kind == "flatten":
            return self.head(x.flatten(1))
        if self.kind == "functional":
            return F.linear(F.adaptive_avg_pool2d(x, (1, 1)).reshape(x.shape[0], self.length), self.weight, self.bias)
        if self.kind == "mean":
            return self.head(x.mean((2, 3)))
        return self.head(self.pool(x).flatten(1))


def _sequence(parts: Sequence[Part], channels: int) -> tuple[nn.Sequential, int]:
    modules = []
    for part in parts:
        module, channels = _made(part, channels)
        modules.append(module)
    return nn.Sequential(*modules), channels


def _made(part: Part, channels: int) -> tuple[nn.Module, int]:
    """(the module of a part, the channels that it returns)."""
    if isinstance(part, Conv):
        return _conv(part, channels), part.out
    if isinstance(part, Norm):
        return _norm(part, channels), channels
    if isinstance(part, Act):
        return _act(part), channels
    if isinstance(part, Pool):
        return _pool(part), channels
    if isinstance(part, Pad):
        return nn.ZeroPad2d(part.sides), channels
    if isinstance(part, Residual):
        inner, out = _sequence(part.inner, channels)
        projection = nn.Identity() if part.projection is None else _conv(part.projection, channels)
        return Adding(inner, projection, part.how), out
    if isinstance(part, Concat):
        branches = [_sequence(branch, channels) for branch in part.branches]
        return Joining([module for module, _ in branches]), sum(out for _, out in branches)
    if isinstance(part, Split):
        inner, out = _sequence(part.inner, part.first)
        return Splitting(inner, part.first), channels - part.first + out
    if isinstance(part, Repeat):
        return Repeating(_sequence(part.inner, channels)[0], part.times), channels
    if isinstance(part, Squeeze):
        return Gating(channels, part), channels
    if isinstance(part, Shuffle):
        return Shuffling(part.groups), channels
    if isinstance(part, Attention):
        return Attending(channels, part), channels
    return nn.Dropout(0.4), channels


# Convolutions


class _TensorFlowSame(nn.Conv2d):
    """Padded as little as the stride allows, the odd place right and below."""

    def forward(self, input: Tensor) -> Tensor:
        x = input
        sides: list[int] = []
        for axis in (1, 0):
            length, step = x.shape[2 + axis], self.stride[axis]
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1)
            total = max((-(-length // step) - 1) * step + reach + 1 - length, 0)
            sides += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class _Standardized(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - 0.5 * weight.mean(), bias)


class _Bent(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mul(0.7) + 0.1


CONV_WAYS = (
    *("plain", "keyword", "class of its own", "own _conv_forward", "patched", "patched by a closure", "partial"),
    *(
        "instance _conv_forward",
        "hook",
        "pre-hook",
        "gradient hook",
        "weight norm",
        "pruned",
        "frozen",
        "channels last",
    ),
)


def _conv(part: Conv, channels: int) -> nn.Module:
    kinds = {"own _conv_forward": _Standardized, "class of its own": _Bent}
    kind = _TensorFlowSame if part.padding == "tf" else kinds.get(part.how, nn.Conv2d)
    padding = (0, 0) if part.padding == "tf" else part.padding
    facts = {"dilation": part.dilation, "groups": part.groups, "bias": part.bias, "padding_mode": part.mode}
    layer = kind(channels, part.out, part.kernel, part.stride, padding, **facts)
    return _written(layer, part.how)


def _written(layer: nn.Module, how: str) -> nn.Module:
    """A layer, written in one of the ways that are open to any of them."""
    if how == "patched":
        layer.forward = MethodType(lambda self, x: type(self).forward(self, x) * 0.5, layer)
    elif how == "patched by a closure":
        before = layer.forward
        layer.forward = lambda x: before(x) - 0.1
    elif how == "partial":
        layer.forward = functools.partial(lambda given, x: 1.5 * given(x), layer.forward)
    elif how == "instance _conv_forward":
        before = layer._conv_forward
        layer._conv_forward = lambda x, weight, bias: before(x, -weight, bias)
    elif how == "hook":
        layer.register_forward_hook(lambda module, given, output: output + 0.2)
    elif how == "pre-hook":
        layer.register_forward_pre_hook(lambda module, given: (given[0] * 1.2,))
    elif how == "gradient hook":
        layer.register_forward_hook(_with_hook)
    elif how == "weight norm":
        parametrizations.weight_norm(layer)
    elif how == "pruned":
        prune.l1_unstructured(layer, "weight", 0.3)
    elif how == "frozen":
        layer.requires_grad_(False)
    elif how == "channels last":
        layer.to(memory_format=torch.channels_last)
    elif how == "keyword":
        return Named(layer)
    return layer


def _with_hook(module: nn.Module, given: Any, output: Tensor) -> None:
    if output.requires_grad:
        output.register_hook(lambda gradient: 0.5 * gradient)


class Named(nn.Module):
    """Calls a layer by keyword."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(input=x)


# Norms


class _NormAct(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 0.8 + 0.1


class FunctionalNorm(nn.Module):
    """A batch norm by the function, with statistics in buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.randn(channels) / 3)
        self.register_buffer("variance", torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance)


class LastNorm(nn.Module):
    """Over channels, which are brought to the end for it."""

    def __init__(self, channels: int, affine: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORM_WAYS = (
    *("plain", "keyword", "class of its own", "function", "patched", "patched by a closure", "hook", "pre-hook"),
    "statistics of the batch",
)


def _norm(part: Norm, channels: int) -> nn.Module:
    if part.kind == "layer":
        return LastNorm(channels, part.affine)
    if part.kind == "group":
        groups = next(count for count in (3, 2, 1) if channels % count == 0)
        return _written(nn.GroupNorm(groups, channels, affine=part.affine), part.how)
    if part.kind == "instance":
        return _written(
            nn.InstanceNorm2d(channels, affine=part.affine, track_running_stats=part.how == "function"), part.how
        )
    if part.how == "function":
        return FunctionalNorm(channels)
    kind = _NormAct if part.how == "class of its own" else nn.BatchNorm2d
    running = part.how != "statistics of the batch"
    return _written(kind(channels, affine=part.affine, track_running_stats=running), part.how)


# Activations


class _Cut(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return 1.25 * super().forward(x - 0.1)


class Function(nn.Module):
    """An activation that is no module."""

    def __init__(self, kind: str, how: str) -> None:
        super().__init__()
        self.kind, self.how = kind, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "method":
            return x.relu()
        if self.how == "method in place":
            return x.relu_()
        if self.how == "clamp":
            return x.clamp(min=0)
        if self.how == "function in place":
            return getattr(F, self.kind)(x, inplace=True)
        if self.how == "by position":
            return getattr(F, self.kind)(x, True)
        return torch.tanh(x) if self.kind == "tanh" else getattr(F, self.kind)(x)


_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "leaky_relu": nn.LeakyReLU,
    "hardswish": nn.Hardswish,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}
ACT_WAYS = ("plain", "function", "patched", "hook", "keyword", "pre-hook")
# What is written in more ways than the others.
MORE_ACT_WAYS: dict[str, tuple[str, ...]] = {
    "relu": ("in place", "function in place", "by position", "method", "method in place", "clamp", "class of its own"),
    "relu6": ("in place", "function in place", "by position"),
    "hardswish": ("in place", "function in place", "by position"),
    "hardtanh": ("in place", "function in place"),
    "leaky_relu": ("in place", "function in place"),
    "silu": ("in place", "function in place"),
}


def _act(part: Act) -> nn.Module:
    if part.how in ("function", "function in place", "by position", "method", "method in place", "clamp"):
        return Function(part.kind, part.how)
    if part.how == "in place":
        return _MODULES[part.kind](inplace=True)
    if part.how == "class of its own":
        return _Cut()
    return _written(_MODULES[part.kind](), part.how)


# Pools


class _Softer(nn.MaxPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return 0.9 * super().forward(x) + 0.05


POOL_WAYS = ("plain", "function", "class of its own", "patched", "hook", "keyword")


def _pool(part: Pool) -> nn.Module:
    if part.kind == "adaptive":
        return _written(nn.AdaptiveAvgPool2d(part.kernel), part.how)
    if part.how == "function":
        return FunctionalPool(part)
    if part.kind == "max":
        kind = _Softer if part.how == "class of its own" else nn.MaxPool2d
        return _written(kind(part.kernel, part.stride, part.padding, ceil_mode=part.ceil), part.how)
    facts = {"ceil_mode": part.ceil, "count_include_pad": part.count_padding}
    return _written(nn.AvgPool2d(part.kernel, part.stride, part.padding, **facts), part.how)


class FunctionalPool(nn.Module):
    def __init__(self, part: Pool) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        part = self.part
        if part.kind == "max":
            return F.max_pool2d(x, part.kernel, part.stride, part.padding, ceil_mode=part.ceil)
        return F.avg_pool2d(x, part.kernel, part.stride, part.padding, part.ceil, part.count_padding)


# What holds others


class Adding(nn.Module):
    def __init__(self, inner: nn.Module, projection: nn.Module, how: str) -> None:
        super().__init__()
        self.inner, self.projection, self.how = inner, projection, how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "in place":
            y = self.inner(x)
            y += self.projection(x)
            return y
        if self.how == "reversed":
            return self.projection(x) + self.inner(x)
        if self.how == "function":
            return torch.add(self.inner(x), self.projection(x), alpha=0.5)
        return self.inner(x) + self.projection(x)


class Joining(nn.Module):
    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class Splitting(nn.Module):
    def __init__(self, inner: nn.Module, first: int) -> None:
        super().__init__()
        self.inner, self.first = inner, first

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, self.first :], self.inner(x[:, : self.first])], 1)


class Repeating(nn.Module):
    def __init__(self, inner: nn.Module, times: int) -> None:
        super().__init__()
        self.inner, self.times = inner, times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.inner(x)
        return x


class Gating(nn.Module):
    def __init__(self, channels: int, part: Squeeze) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, part.hidden, 1), nn.Conv2d(part.hidden, channels, 1)
        self.gate: Callable[[Tensor], Tensor] = getattr(F, part.gate) if part.gate == "hardsigmoid" else torch.sigmoid

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Shuffling(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        x = x.reshape(count, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return x.reshape(count, channels, height, width)


class Attending(nn.Module):
    def __init__(self, channels: int, part: Attention) -> None:
        super().__init__()
        self.norm, self.heads, self.how = nn.LayerNorm(channels), part.heads, part.how
        if part.how == "layer":
            self.attention = nn.MultiheadAttention(channels, part.heads, batch_first=True)
        else:
            self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        given = self.norm(tokens)
        if self.how == "layer":
            found = self.attention(given, given, given, need_weights=False)[0]
        else:
            query, key, value = self.qkv(given).chunk(3, dim=-1)
            found = self.out((query @ key.transpose(1, 2) / channels**0.5).softmax(-1) @ value)
        return (tokens + found).transpose(1, 2).reshape(count, channels, height, width)
