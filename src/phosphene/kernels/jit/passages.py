"""Depthwise convolutions of a sequence as compiled kernels, which take what lies before and behind them along."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from phosphene.kernels.convolution import Convolution, Link, Passage
from phosphene.kernels.jit.depthwise import Depthwise, Projection
from phosphene.kernels.jit.elementwise import Elementwise

if TYPE_CHECKING:
    from phosphene.kernels.chain import Chain

# Values of a map that had better not be written and read again: fewer stay in the cache.
_LARGE = 1 << 16


@dataclass(frozen=True)
class Step:
    """A convolution of a sequence, for inputs of one size.

    Args:
        chain: how it runs by itself.
        taken: the followers whose work it does.
        size: of its inputs.
        forward: type of its way forward.
        back: type of its way back; None where there is none.
    """

    chain: Chain
    taken: list[nn.Module]
    size: torch.Size
    forward: torch.dtype
    back: torch.dtype | None

    @property
    def gives_activation(self) -> bool:
        """Whether it ends in an activation, which the next convolution may do when it reads."""
        return self.chain.ends(self.taken)[1] is not None

    def operation(self, count: int) -> Convolution:
        """The convolution with the first followers folded in, for the way back; forward where there is none."""
        return self.chain.operation(self.taken[:count], self.back or self.forward)

    def elementwise(self) -> Elementwise:
        """What is done to each value of the convolution without a bias: bias, norm, activation."""
        convolution = self.chain.convolution
        return Elementwise.of(convolution.out_channels, *self.chain.ends(self.taken), convolution.bias)


@dataclass(frozen=True)
class DepthwisePassage:
    """A depthwise convolution in a sequence; there and back may be of different types.

    Args:
        there: its way forward.
        back: its way back.
        narrowing: the convolution before it, for the way back, if the way forward does its work.
        widening: the linear convolution behind it, the same way.
    """

    there: Depthwise
    back: Depthwise
    narrowing: Convolution | None = None
    widening: Convolution | None = None

    @property
    def is_linear(self) -> bool:
        return self.there.before.activation is None and self.there.behind.activation is None

    def forward(self, inputs: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
        return self.there.forward(inputs, keep=True)

    @property
    def run(self) -> Callable[[Tensor], Tensor]:
        return lambda inputs: self.there.forward(inputs)[0]

    def backward(self, gradient: Tensor, size: torch.Size, kept: Sequence[Tensor | None], *, own: bool) -> Tensor:
        before, behind = kept
        if self.widening is not None:
            between = (*self.there.wide(size)[:2], *self.there.kernel.outputs(size[-2:]))
            gradient = self.widening.input_gradient(gradient, torch.Size(between))
        gradient = self.back.backward(gradient, self.there.wide(size), (before, behind))
        return gradient if self.narrowing is None else self.narrowing.input_gradient(gradient, size)


def depthwise_passages(step: Step, giver: Step | None) -> list[Passage] | None:
    """The passages of a depthwise convolution and of its giver, which leaves it its norm and activation.

    Where it pays the kernel does all the work of the giver. None where the convolution had better run by itself.
    """
    convolution, kernel = step.chain.convolution, step.chain.kernel
    if not Depthwise.takes(convolution, kernel) or not Depthwise.fits(kernel, step.size):
        return None
    if step.back is None and step.forward != torch.float32:
        return None  # oneDNN is as fast in bfloat16 where there are no masks to keep
    if giver is None:
        there = _kernel(step, None, step.forward)
        return [DepthwisePassage(there, _same(there, step, None))]
    if step.forward == torch.float32 and _is_pointwise(giver) and Depthwise.widens(step.size):
        there = _kernel(step, giver, step.forward, widening=True)
        return [
            DepthwisePassage(there, _same(there, step, giver, widening=True), giver.operation(len(giver.taken) - 1))
        ]
    there = _kernel(step, giver, step.forward)
    alone = giver.chain.operation([], giver.forward)
    behind = giver.operation(len(giver.taken) - 1)
    # What the giver handed on is linear for the way back too: its norm is folded there, its activation is the kernel's.
    return [Link(alone.run, behind), DepthwisePassage(there, _same(there, step, giver))]


def projected(before: Passage, step: Step) -> DepthwisePassage | None:
    """A depthwise passage with the 1 x 1 convolution behind it: what is wide stays in the cache. None if no gain."""
    convolution, (_, activation) = step.chain.convolution, step.chain.ends(step.taken)
    if not isinstance(before, DepthwisePassage) or before.there.is_projecting or not _is_pointwise(step):
        return None
    if step.forward != torch.float32 or before.there.dtype != torch.float32 or math.prod(step.size[1:]) < _LARGE:
        return None
    if (step.back is not None and activation is not None) or not Projection.takes(convolution.weight):
        return None  # the way back would want the bits of the activation
    with torch.inference_mode(False), torch.no_grad():
        there = before.there.projecting(convolution.weight.detach(), step.elementwise())
    return replace(before, there=there, widening=step.operation(len(step.taken)))


def _kernel(step: Step, giver: Step | None, dtype: torch.dtype, *, widening: bool = False) -> Depthwise:
    kept = step.chain.compiled
    key = (giver is not None, widening, len(step.taken), dtype)
    if key not in kept:
        convolution = step.chain.convolution
        with torch.inference_mode(False), torch.no_grad():
            before, wide = Elementwise.of(convolution.out_channels, None, None), None
            if giver is not None:
                # (Where the giver runs by itself it adds its own bias.)
                ends, bias = giver.chain.ends(giver.taken), giver.chain.convolution.bias if widening else None
                before = Elementwise.of(convolution.out_channels, *ends, bias)
                wide = giver.chain.convolution.weight.detach() if widening else None
            weight = convolution.weight.detach().contiguous()
            kept[key] = Depthwise(weight, step.chain.kernel, before, step.elementwise(), dtype, wide)
    return kept[key]


def _same(there: Depthwise, step: Step, giver: Step | None, *, widening: bool = False) -> Depthwise:
    """The kernel of the way back: the same one, or one of another type."""
    if step.back is None or step.back == step.forward:
        return there
    return _kernel(step, giver, step.back, widening=widening)


def _is_pointwise(step: Step) -> bool:
    convolution, kernel = step.chain.convolution, step.chain.kernel
    plain = (kernel.size, kernel.stride, kernel.pads((1, 1))) == ((1, 1), (1, 1), ((0, 0), (0, 0)))
    return plain and convolution.groups == 1
