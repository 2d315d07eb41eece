"""What draws random networks: each part fits what came before it, so that every network runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.networks import (
    ACT_WAYS,
    CONV_WAYS,
    KINKS,
    MORE_ACT_WAYS,
    NORM_WAYS,
    POOL_WAYS,
    RECTIFIERS,
    SMOOTH,
    Act,
    Attention,
    Concat,
    Conv,
    Drop,
    Net,
    Norm,
    Pad,
    Part,
    Pool,
    Repeat,
    Residual,
    Shuffle,
    Split,
    Squeeze,
)

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True)
class _Map:
    """What a part is given: its channels, its size, the activations that the network may have."""

    channels: int
    height: int
    width: int
    acts: Sequence[str]

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


def _mostly(usual: Any, others: Sequence[Any]) -> st.SearchStrategy[Any]:
    """The usual way in three cases of four."""
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), st.sampled_from(others))


def _outputs(length: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    return (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


@st.composite
def networks(draw: Draw) -> Net:
    """A network of one to seven parts on images of 8 to 20 pixels."""
    acts = draw(st.sampled_from([RECTIFIERS, RECTIFIERS, SMOOTH, KINKS, (*KINKS, *SMOOTH)]))
    size = draw(st.tuples(st.integers(8, 20), st.integers(8, 20)))
    channels = draw(st.sampled_from([3, 3, 3, 1, 4]))
    seen, parts = _Map(channels, *size, acts), []
    for _ in range(draw(st.integers(1, 7))):
        found, seen = _part(draw, seen, 0)
        parts += found
    heads = ["pool", "pool", "mean", "convolution", "view", "flatten", "functional"]
    heads += ["mlp"] if acts is not SMOOTH else []
    head = draw(st.sampled_from(heads))
    kind = draw(_mostly("float32", ["float64", "float16", "bfloat16"]))
    return Net(tuple(parts), head, size, channels, kind, draw(st.integers(0, 999)))


def _part(draw: Draw, seen: _Map, depth: int) -> tuple[list[Part], _Map]:
    """(a part, or a convolution with what usually follows it; what comes out)."""
    kinds = ["block", "block", "block", "conv", "norm", "act", "pool", "squeeze", "shuffle", "drop", "pad"]
    if depth == 0:
        kinds += ["residual", "residual", "concat", "split", "repeat", "attention", "projected"]
    kind = draw(st.sampled_from(kinds))
    if kind == "block":
        return _block(draw, seen)
    if kind == "conv":
        return _conv(draw, seen)
    if kind == "norm":
        return [_norm(draw)], seen
    if kind == "act":
        return [_act(draw, seen)], seen
    if kind == "pool":
        return _pool(draw, seen)
    if kind == "squeeze":
        gates = ["sigmoid"] if seen.acts is SMOOTH else ["sigmoid", "hardsigmoid"]
        found = Squeeze(draw(st.integers(1, 4)), draw(st.sampled_from(gates)))
        return [found] if seen.acts is not SMOOTH else [Drop()], seen
    if kind == "shuffle":
        return [Shuffle(draw(st.sampled_from(_divisors(seen.channels))))], seen
    if kind == "pad":
        sides = draw(st.tuples(*[st.integers(0, 2)] * 4))
        return [Pad(sides)], replace(
            seen, height=seen.height + sides[2] + sides[3], width=seen.width + sides[0] + sides[1]
        )
    if kind == "residual":
        how = draw(st.sampled_from(["plain", "plain", "in place", "reversed", "function"]))
        return [Residual(_keeping(draw, seen, seen.channels), how)], seen
    if kind == "projected":
        return _projected(draw, seen)
    if kind == "concat":
        branches = tuple(_keeping(draw, seen, draw(st.integers(1, 5))) for _ in range(draw(st.integers(2, 3))))
        return [Concat(branches)], replace(seen, channels=sum(_channels(branch, seen) for branch in branches))
    if kind == "split" and seen.channels > 1:
        first = draw(st.integers(1, seen.channels - 1))
        inner = _keeping(draw, replace(seen, channels=first), draw(st.integers(1, 4)))
        out = seen.channels - first + _channels(inner, replace(seen, channels=first))
        return [Split(first, inner)], replace(seen, channels=out)
    if kind == "repeat":
        return [Repeat(_keeping(draw, seen, seen.channels), draw(st.integers(2, 3)))], seen
    if kind == "attention":
        heads = draw(st.sampled_from(_divisors(seen.channels)))
        return [Attention(heads, draw(st.sampled_from(["layer", "by hand"])))], seen
    return [Drop()], seen


def _divisors(number: int) -> list[int]:
    return [count for count in range(1, number + 1) if number % count == 0]


def _channels(parts: Sequence[Part], seen: _Map) -> int:
    return next((part.out for part in reversed(parts) if isinstance(part, Conv)), seen.channels)


def _block(draw: Draw, seen: _Map) -> tuple[list[Part], _Map]:
    """A convolution, mostly a norm, mostly an activation: what is joined into one."""
    parts, seen = _conv(draw, seen)
    if draw(st.integers(0, 3)):
        parts.append(_norm(draw))
    if draw(st.integers(0, 4)):
        parts.append(_act(draw, seen))
    return parts, seen


def _conv(draw: Draw, seen: _Map) -> tuple[list[Part], _Map]:
    kernel, dilation, padding, stride = zip(*(_axis(draw, length) for length in seen.size), strict=True)
    groups = draw(st.sampled_from([1, 1, *_divisors(seen.channels)]))
    out = groups * draw(st.integers(1, max(1, 8 // groups)))
    mode, named = "zeros", draw(_mostly(None, ["same", "tf", "reflect", "circular", "replicate"]))
    if named in ("reflect", "circular", "replicate"):
        inside = tuple(min(value, length - 1) for value, length in zip(padding, seen.size, strict=True))
        if min(map(_outputs, seen.size, kernel, stride, inside, dilation)) > 0:
            mode, padding = named, inside
    if named == "same":
        stride, padding = (1, 1), "same"
    if named == "tf":
        padding = "tf"
    ways = [way for way in CONV_WAYS if named != "tf" or way not in ("class of its own", "own _conv_forward")]
    ways = [way for way in ways if named != "tf" or way != "instance _conv_forward"]
    found = Conv(
        out, kernel, stride, padding, dilation, groups, draw(st.booleans()), mode, draw(_mostly("plain", ways))
    )
    if padding == "same":
        return [found], replace(seen, channels=out)
    if padding == "tf":
        height, width = (-(-length // step) for length, step in zip(seen.size, stride, strict=True))
    else:
        height, width = map(_outputs, seen.size, kernel, stride, padding, dilation)
    return [found], replace(seen, channels=out, height=height, width=width)


def _axis(draw: Draw, length: int) -> tuple[int, int, int, int]:
    """(kernel, dilation, padding, stride) of one axis, by which something is left."""
    kernel = draw(st.sampled_from([3, 3, 3, 1, 1, 2, 4, 5, 7]))
    dilation = draw(st.sampled_from([1, 1, 1, 2, 3])) if kernel > 1 else 1
    usual = dilation * (kernel - 1) // 2
    padding = draw(st.sampled_from([usual, usual, 0, 1, kernel // 2]))
    if _outputs(length, kernel, 1, padding, dilation) < 1:
        kernel = dilation = 1
    stride = draw(st.sampled_from([1, 1, 1, 2, 3])) if length >= 4 else 1
    return kernel, dilation, padding, stride


def _keeping(draw: Draw, seen: _Map, out: int) -> tuple[Part, ...]:
    """One or two convolutions that keep the size, the last one with `out` channels, and what lies around them."""
    parts: list[Part] = []
    last = draw(st.integers(1, 2))
    for index in range(1, last + 1):
        if draw(st.integers(0, 2)) == 0:
            parts.append(_norm(draw))
        if draw(st.integers(0, 2)) == 0:
            parts.append(_act(draw, seen))
        kernel = draw(st.sampled_from([1, 3, 3, 5]))
        dilation = draw(st.sampled_from([1, 1, 2]))
        channels = out if index == last else draw(st.integers(1, 6))
        common = [count for count in _divisors(seen.channels) if channels % count == 0]
        pad = dilation * (kernel - 1) // 2
        ways = [way for way in CONV_WAYS if way != "keyword"]
        how = draw(_mostly("plain", ways))
        groups = draw(st.sampled_from([1, *common]))
        parts.append(
            Conv(
                channels, (kernel,) * 2, (1, 1), (pad,) * 2, (dilation,) * 2, groups, draw(st.booleans()), "zeros", how
            )
        )
        seen = replace(seen, channels=channels)
        if draw(st.booleans()):
            parts.append(_norm(draw))
        if draw(st.booleans()):
            parts.append(_act(draw, seen))
    return tuple(parts)


def _projected(draw: Draw, seen: _Map) -> tuple[list[Part], _Map]:
    """A residual block of stride 2 with a convolution of its own past it."""
    if min(seen.size) < 4:
        return [Drop()], seen
    out = draw(st.integers(2, 8))
    inner = (Conv(out, (3, 3), (2, 2), (1, 1)), _norm(draw), _act(draw, seen), Conv(out, bias=False), _norm(draw))
    past = Conv(out, (1, 1), (2, 2), (0, 0), bias=draw(st.booleans()))
    height, width = (_outputs(length, 3, 2, 1) for length in seen.size)
    how = draw(st.sampled_from(["plain", "in place"]))
    return [Residual(inner, how, past), _act(draw, seen)], replace(seen, channels=out, height=height, width=width)


def _norm(draw: Draw) -> Norm:
    kind = draw(_mostly("batch", ["group", "layer", "instance"]))
    return Norm(kind, bool(draw(st.integers(0, 3))), draw(_mostly("plain", NORM_WAYS)))


def _act(draw: Draw, seen: _Map) -> Act:
    kind = draw(st.sampled_from(seen.acts))
    return Act(kind, draw(st.sampled_from(["plain", "plain", *MORE_ACT_WAYS.get(kind, ()), *ACT_WAYS])))


def _pool(draw: Draw, seen: _Map) -> tuple[list[Part], _Map]:
    kinds = ["avg", "adaptive"] if seen.acts is SMOOTH else ["max", "max", "avg", "adaptive"]
    kind = draw(st.sampled_from(kinds))
    how = draw(_mostly("plain", POOL_WAYS))
    if kind == "adaptive":
        size = tuple(draw(st.integers(1, min(6, length))) for length in seen.size)
        return [Pool(kind, size, how=how)], replace(seen, height=size[0], width=size[1])
    kernel = tuple(draw(st.integers(1, min(3, length))) for length in seen.size)
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, side // 2)) for side in kernel)
    ceil = draw(st.booleans())
    height, width = (
        _pooled(length, *facts, ceil) for length, *facts in zip(seen.size, kernel, stride, padding, strict=True)
    )
    found = Pool(kind, kernel, stride, padding, ceil, draw(st.booleans()), how)
    return [found], replace(seen, height=height, width=width)


def _pooled(length: int, kernel: int, stride: int, padding: int, ceil: bool) -> int:
    """Where a last window that is not whole counts, unless it would begin in the padding."""
    count = (length + 2 * padding - kernel + (stride - 1 if ceil else 0)) // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= length + padding else count
