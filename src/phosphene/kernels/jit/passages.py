"""Depthwise convolutions of a sequence as compiled kernels, which take what lies before and behind them along."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from phosphene.graph import Kernel
from phosphene.kernels.convolution import Convolution, Kept, Link
from phosphene.kernels.elementwise import Elementwise
from phosphene.kernels.jit.depthwise import Depthwise, Projection

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

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a 1 x 1 convolution."""
        return self.chain.kernel == Kernel((1, 1)) and self.chain.convolution.groups == 1

    @property
    def weight(self) -> Tensor:
        """Of the convolution."""
        return self.chain.convolution.weight.detach().contiguous()

    def operation(self, count: int) -> Convolution:
        """The convolution with the first followers folded in, for the way back; forward where there is none."""
        return self.chain.operation(self.taken[:count], self.back or self.forward)

    def elementwise(self, *, bias: bool = True) -> Elementwise:
        """What is done to each value of the convolution without a bias: bias, norm, activation."""
        convolution = self.chain.convolution
        ends = self.chain.ends(self.taken)
        return Elementwise.of(convolution.out_channels, *ends, convolution.bias if bias else None)


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
        """Whether it cuts nothing."""
        return self.there.before.activation is None and self.there.behind.activation is None

    def forward(self, inputs: Tensor, *, keep: bool) -> tuple[Tensor, Kept]:
        """The output, and if asked for where activations let values through."""
        return self.there.forward(inputs, keep=keep)

    def backward(self, gradient: Tensor, kept: Kept, *, own: bool) -> Tensor:
        """The gradient for the inputs from the one for the output."""
        if self.widening is not None:
            gradient = self.widening.input_gradient(gradient, self.there.filtered)
        gradient = self.back.backward(gradient, kept)
        return gradient if self.narrowing is None else self.narrowing.input_gradient(gradient, self.there.size)


def depthwise_passages(step: Step, giver: Step | None) -> list[Link | DepthwisePassage] | None:
    """The passages of a depthwise convolution and of its giver, which leaves it its norm and activation.

    Where it pays the kernel does all the work of the giver. None where the convolution had better run by itself.
    """
    if not Depthwise.takes(step.chain.convolution, step.chain.kernel, step.size):
        return None
    if step.back is None and step.forward != torch.float32:
        return None  # oneDNN is as fast in bfloat16 where there are no masks to keep
    widens = giver is not None and step.forward == torch.float32 and giver.is_pointwise and Depthwise.widens(step.size)
    # (Where the giver runs by itself it adds its own bias.)
    before = Elementwise.of(step.size[1]) if giver is None else giver.elementwise(bias=widens)
    there = Depthwise(step.weight, step.chain.kernel, step.size, before, step.elementwise(), step.forward)
    back = there if step.back in (None, step.forward) else replace(there, dtype=step.back)
    if giver is None:
        return [DepthwisePassage(there, back)]
    # What the giver handed on is linear for the way back too: its norm is folded there, its activation is the kernel's.
    linear = giver.operation(len(giver.taken) - 1)
    if widens:
        return [DepthwisePassage(replace(there, size=giver.size, widening=giver.weight), back, narrowing=linear)]
    return [Link(giver.chain.operation([], giver.forward).run, linear, giver.size), DepthwisePassage(there, back)]


def projected(before: Link | DepthwisePassage, step: Step) -> DepthwisePassage | None:
    """A depthwise passage with the 1 x 1 convolution behind it: what is wide stays in the cache. None if no gain."""
    if not isinstance(before, DepthwisePassage) or before.there.projection is not None or not step.is_pointwise:
        return None
    if step.forward != torch.float32 or before.there.dtype != torch.float32 or math.prod(step.size[1:]) < _LARGE:
        return None
    if (step.back is not None and step.gives_activation) or not Projection.takes(step.weight):
        return None  # the way back would want the bits of the activation
    there = replace(before.there, projection=Projection.of(step.weight, step.elementwise()))
    return replace(before, there=there, widening=step.operation(len(step.taken)))
