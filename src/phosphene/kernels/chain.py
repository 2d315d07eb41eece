"""A convolution, the norm and the activation behind it, and the convolutions behind these, as one step.

The modules stay where they are under their names; only how they run is exchanged. A convolution looks at each call
whether somebody observes what lies between it and what follows it (a hook), and does the work of what nobody observes.
The modules behind it then hand on what they get. So what is captured is what the network as written gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from phosphene.graph import Kernel, any_global_hook, is_hooked, is_swapped
from phosphene.kernels.convolution import Convolution, Link, folded, is_ordinary, normed_, refuse_second_derivatives
from phosphene.kernels.elementwise import Activation
from phosphene.kernels.jit.depthwise import is_wide
from phosphene.kernels.jit.passages import DepthwisePassage, Step, depthwise_passages, projected

Passage = Link | DepthwisePassage

# Taps of a kernel from which on a recorded way forward is in the type of the way back: there that saves most.
_MANY_TAPS = 256
# Sizes of inputs that a convolution remembers its passages for.
_REMEMBERED = 8

# Set on a tensor: the modules whose work is done in it already.
_DONE = "_phosphene_done"


@dataclass(frozen=True)
class Arithmetic:
    """Types of the passes of one variant of a network, and what may be joined.

    Args:
        forward: of a pass without a gradient.
        recorded: of the way forward of a pass with one.
        backward: of its way back. What is large, and the end of the network, goes forward in this type as well.
        folds_recorded: whether norms are folded into weights on a recorded way forward. Rounded weights are a fifth
            further from float64 than a norm of its own, and at the kinks of ReLUs that is seen (decision 0007).
        joined: whether a convolution may do the work of the convolutions behind it. Where the nodes of a graph run
            one by one, each has to return its own values.
    """

    forward: torch.dtype = torch.float32
    recorded: torch.dtype = torch.float32
    backward: torch.dtype = torch.float32
    folds_recorded: bool = False
    joined: bool = True


@dataclass
class Follower:
    """A norm or activation behind a convolution: it hands on what has had its work done, and does it otherwise.

    Args:
        module: itself.
        boundaries: modules whose input or output lies between it and what is before it.
    """

    module: nn.Module
    boundaries: list[nn.Module]

    @property
    def is_observed(self) -> bool:
        """Whether a hook sees what lies before it, or somebody switched it to training or gave it other weights."""
        return self.module.training or is_swapped(self.module) or any(map(is_hooked, self.boundaries))

    def __call__(self, input: Tensor) -> Tensor:
        return input if is_done(self.module, input) else as_written(self.module, input)


@dataclass
class Chain:
    """How a convolution of a network runs: with what follows it, as far as nobody observes what lies between.

    Args:
        convolution: the module.
        kernel: its geometry.
        arithmetic: of the network's variant.
        late: whether it is one of the last convolutions, which few activations follow.
        followers: the norm and the activation behind it, as far as there are any.
        then: the convolution behind these, and the modules whose input or output lies before it.
    """

    convolution: nn.Conv2d
    kernel: Kernel
    arithmetic: Arithmetic
    late: bool = False
    followers: list[Follower] = field(default_factory=list)
    then: tuple[Chain, list[nn.Module]] | None = None
    _operations: dict[tuple[object, ...], Convolution] = field(default_factory=dict)
    _passages: dict[tuple[object, ...], list[Passage]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: it makes its own operations, whose addresses are of one place and one process."""
        return {**vars(self), "_operations": {}, "_passages": {}}

    def __call__(self, input: Tensor) -> Tensor:
        inputs = input  # (the name that callers may use)
        if is_done(self.convolution, inputs):
            return inputs
        if not self._takes(inputs):
            return as_written(self.convolution, inputs)
        recorded = inputs.requires_grad and torch.is_grad_enabled()
        steps = self._steps()
        passages = self._remembered(steps, inputs.shape, recorded=recorded)
        done = [module for chain, taken in steps for module in (chain.convolution, *taken)]
        if recorded:
            return _done(done[1:], _Differentiable.apply(inputs, passages))  # type: ignore[no-untyped-call]
        for passage in passages:
            inputs, _ = passage.forward(inputs, keep=False)
        return _done(done[1:], inputs)

    def _takes(self, inputs: Tensor) -> bool:
        ordinary = inputs.ndim == 4 and inputs.shape[1] == self.convolution.in_channels
        ordinary = ordinary and not is_swapped(self.convolution)
        return ordinary and is_ordinary(inputs, self.arithmetic.forward)

    def _steps(self) -> list[tuple[Chain, list[nn.Module]]]:
        """The convolutions that run as one from here on, each with the followers whose work it does."""
        taken: list[nn.Module] = []
        if any_global_hook() or is_hooked(self.convolution):
            return [(self, taken)]
        # A function mode, such as a rule for ReLUs, has to see every activation run.
        sees_activations = torch.overrides._len_torch_function_stack() > 0  # type: ignore[attr-defined]
        for follower in self.followers:
            if follower.is_observed or (sees_activations and Activation.of(follower.module)):
                return [(self, taken)]
            taken.append(follower.module)
        if self.then is None or not self.arithmetic.joined:
            return [(self, taken)]
        following, between = self.then
        if is_swapped(following.convolution) or any(map(is_hooked, between)):
            return [(self, taken)]
        return [(self, taken), *following._steps()]

    def _remembered(
        self, steps: list[tuple[Chain, list[nn.Module]]], size: torch.Size, *, recorded: bool
    ) -> list[Passage]:
        """The passages of the steps for inputs of `size`; those of the last sizes are kept."""
        key = (size, recorded, torch.get_num_threads(), *(len(taken) for _, taken in steps))
        found = self._passages.get(key)
        if found is None:
            if len(self._passages) >= _REMEMBERED:
                self._passages.clear()
            compiles = size[0] > 1 or is_wide()
            found = self._passages[key] = _passages(steps, size, recorded=recorded, compiles=compiles)
        return found

    def link(self, step: Step) -> Link:
        """The passage of a step of its own by itself."""
        accurate = step.back is not None and step.forward == torch.float32 and not self.arithmetic.folds_recorded
        run = self._accurate(step.taken) if accurate else self.operation(step.taken, step.forward).run
        return Link(run, step.operation(len(step.taken)), step.size)

    def _accurate(self, taken: list[nn.Module]) -> Callable[[Tensor], Tensor]:
        """Convolution, norm and activation one after the other where that is nearer to float64, the last two in place.

        That is so for a norm, which folded would round the weights, and for a sum of many channels.
        """
        alone, (norm, activation) = self.operation([], torch.float32), self.ends(taken)
        if norm is None and not alone.sums_in_blocks:
            return self.operation(taken, torch.float32).run

        def run(inputs: Tensor) -> Tensor:
            values = alone.run_in_blocks(inputs) if alone.sums_in_blocks else alone.run(inputs)
            values = values if norm is None else normed_(norm, values)
            return values if activation is None else activation.cut_(values)

        return run

    @property
    def recorded_dtype(self) -> torch.dtype:
        """What it computes in on a recorded way forward."""
        # bfloat16 forward closes and opens so many ReLUs that the map is no longer that of the network, so it is
        # kept for the large kernels, where it saves most, and for the end of the network, where fewest follow.
        taps = self.convolution.weight[0].numel()
        large = self.kernel.size != (1, 1) and taps >= _MANY_TAPS
        return self.arithmetic.backward if large or self.late else self.arithmetic.recorded

    def operation(self, taken: list[nn.Module], dtype: torch.dtype) -> Convolution:
        """The convolution with the first followers folded in."""
        key = (len(taken), dtype)
        if key not in self._operations:
            norm, activation = self.ends(taken)
            with torch.inference_mode(False), torch.no_grad():
                weight, bias = folded(self.convolution, norm)
                self._operations[key] = Convolution(
                    weight, bias, self.kernel, self.convolution.groups, activation, dtype
                )
        return self._operations[key]

    def ends(self, taken: list[nn.Module]) -> tuple[nn.BatchNorm2d | None, Activation | None]:
        """The norm and the activation among the followers whose work it does."""
        norm = taken[0] if taken and isinstance(taken[0], nn.BatchNorm2d) else None
        return norm, Activation.of(taken[-1]) if taken else None

    def valid(self, patches: Tensor) -> Tensor:
        """The convolution, and what follows it, on patches that hold their padding already, without a gradient."""
        _, taken = self._steps()[0]
        return _done(taken, self.operation(taken, self.arithmetic.forward).run(patches, padded=True))


def _passages(
    steps: list[tuple[Chain, list[nn.Module]]], size: torch.Size, *, recorded: bool, compiles: bool
) -> list[Passage]:
    """The passages of some steps; depthwise convolutions take what lies before and behind them along where they can."""
    passages: list[Passage] = []
    giver: Step | None = None  # the step just before, if it ends in an activation and its passage is the last one
    for chain, taken in steps:
        arithmetic = chain.arithmetic
        forward, back = (chain.recorded_dtype, arithmetic.backward) if recorded else (arithmetic.forward, None)
        step = Step(chain, taken, size, forward, back)
        size = torch.Size((size[0], chain.convolution.out_channels, *chain.kernel.outputs(size[-2:])))
        joined = projected(passages[-1], step) if compiles and passages else None
        if joined is not None:
            passages[-1], giver = joined, None
            continue
        found = depthwise_passages(step, giver) if compiles else None
        if found is None:
            passages.append(chain.link(step))
            giver = step if step.gives_activation else None
        else:
            passages[len(passages) - (giver is not None) :] = found
            giver = None
    return passages


def is_done(module: nn.Module, value: Tensor) -> bool:
    """Whether the work of a module is done already in what it is given."""
    return id(module) in getattr(value, _DONE, ())


def _done(taken: list[nn.Module], output: Tensor) -> Tensor:
    if taken:
        setattr(output, _DONE, tuple(map(id, taken)))
    return output


def as_written(module: nn.Module, inputs: Tensor) -> Tensor:
    """What the module's class makes of inputs."""
    output: Any = type(module).forward(module, inputs)
    return output  # type: ignore[no-any-return]


class _Differentiable(torch.autograd.Function):
    """A sequence is one node of the graph: between its passages gradients keep their type and are overwritten."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, passages: list[Passage]) -> Tensor:
        kept: list[Tensor | None] = []
        ctx.passages, ctx.linear = passages, all(passage.is_linear for passage in passages)
        for passage in passages:
            inputs, found = passage.forward(inputs, keep=True)
            kept += found
        ctx.save_for_backward(*kept)
        return inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivatives()
        own, kept = False, ctx.saved_tensors  # (two of each passage)
        for place, passage in reversed(list(enumerate(ctx.passages))):
            gradient, own = passage.backward(gradient, kept[2 * place : 2 * place + 2], own=own), True
        return gradient, None
