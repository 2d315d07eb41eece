"""Convolution, norm and activation run as one, unless somebody watches what lies between them.

The modules stay where they are under their names; only how they run is exchanged. A convolution looks at each call
whether the norm or the activation behind it is being watched (has a hook, or a rule for ReLUs is in force), and does
the work of both if not; they then hand on what they get. So what is captured is what the original network gives.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import pairwise
from typing import Any, TypeAlias, TypeGuard, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from phosphene.graph import Kernel, convolution_kernel, pooling_kernel
from phosphene.runtime.convolution import Convolution, Link, Passage, differentiable, folded
from phosphene.runtime.dense import DenseConvolution
from phosphene.runtime.depthwise import Depthwise, Filtered
from phosphene.runtime.elementwise import Activation, Elementwise
from phosphene.runtime.pointwise import PointwiseConvolution

_MANY_TAPS = 256
# The part of the convolutions, counted from the end, that few ReLUs follow.
_LATE = 1 / 3
# Channels that PyTorch's kernels add up at once, those that were met first.
_BLOCKS = (80, 256, *(16 * n for n in range(1, 33) if n not in (5, 16)))
# Sizes of inputs that a convolution remembers its sequence for.
_KNOWN = 8
# Images of a probe: one runs on other kernels than several.
_PROBED = 2


class _State(threading.local):
    """What passes of this thread may do.

    Args:
        loose: whether gradients may be taken at a network folded forward too.
        ahead: whether a convolution may do the work of those behind it, without a gradient too.
        gated: whether a rule for ReLUs, if there is one, lets through no more than the gradient does.
    """

    loose = False
    ahead = False
    gated = False


_STATE = _State()


@contextmanager
def _set(name: str) -> Iterator[None]:
    before = getattr(_STATE, name)
    setattr(_STATE, name, True)
    try:
        yield
    finally:
        setattr(_STATE, name, before)


def loose_kinks() -> AbstractContextManager[None]:
    """Gradients inside are those of the folded network: the same but where a value lies at the kink of a ReLU.

    For loops that step along the gradient: nobody asks there on which side of a kink the last bit fell.
    """
    return _set("loose")


def run_ahead() -> AbstractContextManager[None]:
    """Inside, what nobody watches may run before its turn: for those who want the output of the network alone."""
    return _set("ahead")


def gated_rule() -> AbstractContextManager[None]:
    """Inside, a rule for ReLUs passes back no more than the gradient: what the ReLU closed stays closed."""
    return _set("gated")


# Set on a tensor: the modules whose work is done in it already.
_DONE = "_phosphene_done"


@dataclass
class _Behind:
    """A module that is the only reader of the one before it.

    Args:
        module: itself.
        walls: the modules that one of the two lies in and the other does not. What these take or give lies between.
    """

    module: nn.Module
    walls: list[nn.Module]

    @property
    def joined(self) -> bool:
        """Whether nobody looks at what lies between."""
        return not any(map(_watched, self.walls))


_Sequence: TypeAlias = "list[tuple[_Chain, list[nn.Module]]]"
Way: TypeAlias = Callable[[Tensor], Tensor]
_Exact = TypeVar("_Exact", PointwiseConvolution, DenseConvolution)


@dataclass
class _Made:
    """What a chain has made for its passes.

    Args:
        operations: by the number of followers folded in, and the type.
        filters: by what they do.
        exacts: kernels whose order of sums is known.
        ways: to run as written, by the case.
        alike: whether a filter has the original's bits.
        known: the passages of the last sizes.
        whole: the sequence while nobody watches it, and the modules that this is asked of.
    """

    operations: dict[tuple[int, torch.dtype], Convolution] = field(default_factory=dict)
    filters: dict[tuple[object, ...], Depthwise] = field(default_factory=dict)
    exacts: dict[tuple[type, int], PointwiseConvolution | DenseConvolution] = field(default_factory=dict)
    ways: dict[tuple[object, ...], Way] = field(default_factory=dict)
    alike: dict[tuple[object, ...], bool] = field(default_factory=dict)
    known: dict[tuple[object, ...], list[Passage]] = field(default_factory=dict)
    whole: tuple[_Sequence, list[nn.Module]] | None = None


@dataclass
class _Chain:
    """A convolution and what follows it, each the only reader of the one before; then maybe another chain."""

    convolution: nn.Conv2d
    kernel: Kernel
    norm: nn.BatchNorm2d | None = None
    activation: nn.Module | None = None
    followers: list[_Behind] = field(default_factory=list)
    then: tuple[_Behind, _Chain] | None = None
    made: _Made = field(default_factory=lambda: _Made())
    late: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """What a copy gets: it makes its own operations, whose addresses are of one place and one process."""
        return {**vars(self), "made": _Made()}

    def swallowed(self) -> list[nn.Module]:
        """The followers whose work can be done at once: up to the first that is being watched, or ruled."""
        taken: list[nn.Module] = []
        if _watched(self.convolution) or _all_watched():
            return taken
        # A function mode, such as a rule for ReLUs, has to see every activation run.
        ruled = _ruled()
        for behind in self.followers:
            module = behind.module
            entered = _watched(module, output=False)
            if not behind.joined or entered or module.training or (ruled and module is self.activation):
                break
            taken.append(module)
            if _watched(module):  # what it returns is its own, but nothing behind it may be in it yet
                break
        return taken

    def sequence(self) -> _Sequence:
        """This chain and those behind it that a gradient can pass in one go, each with the followers it swallows."""
        whole, modules = self._unwatched()
        if not (_ruled() or _all_watched() or any(module.training or _watched(module) for module in modules)):
            return whole
        taken = self.swallowed()
        if (
            self.then is None
            or _all_watched()
            or len(taken) < len(self.followers)
            or any(map(_watched, (self.convolution, *taken)))
        ):
            return [(self, taken)]
        behind, chain = self.then
        if not behind.joined or _watched(behind.module):
            return [(self, taken)]
        return [(self, taken), *chain.sequence()]

    def _unwatched(self) -> tuple[_Sequence, list[nn.Module]]:
        """The sequence as it is while nobody watches it, and the modules that this is asked of."""
        if self.made.whole is None:
            own = [behind.module for behind in self.followers]
            modules = [self.convolution, *own, *(wall for behind in self.followers for wall in behind.walls)]
            sequence: _Sequence = []
            if self.then is not None:
                behind, chain = self.then
                sequence, more = chain._unwatched()
                modules += [*behind.walls, *more]
            self.made.whole = [(self, own), *sequence], modules
        return self.made.whole

    def operation(self, taken: list[nn.Module], dtype: torch.dtype) -> Convolution:
        """The convolution with the first followers folded in."""
        found = self.made.operations.get((len(taken), dtype))
        if found is None:
            norm, activation = self.ends(taken)
            with torch.inference_mode(False), torch.no_grad():
                weight, bias = folded(self.convolution, norm)
                found = Convolution(weight, bias, self.kernel, self.convolution.groups, activation, dtype)
            self.made.operations[len(taken), dtype] = found
        return found

    def __call__(self, inputs: Tensor) -> Tensor:
        if is_done(self.convolution, inputs):
            return inputs
        dtype = _compute_dtype()
        if not _plain(inputs, dtype) or inputs.shape[1] != self.convolution.in_channels:
            return _as_written(self.convolution, inputs)  # (which says what is wrong with it)
        back = inputs.requires_grad and torch.is_grad_enabled()
        if back and _is_exact(dtype) and _ruled() and not _STATE.gated:
            # Such a rule lets through far more than a gradient: its longer sums show the order they are made in.
            return _as_written(self.convolution, inputs.contiguous())
        sequence = self.sequence() if back or _STATE.ahead else [(self, self.swallowed())]
        done = [module for chain, taken in sequence for module in (chain.convolution, *taken)]
        passages = self.passages(sequence, inputs.shape, dtype, back=back)
        if back:
            return _done(done[1:], differentiable(inputs, passages))
        for passage in passages:
            inputs = passage.run(inputs)
        return _done(done[1:], inputs)

    def passages(self, sequence: _Sequence, size: torch.Size, dtype: torch.dtype, *, back: bool) -> list[Passage]:
        """The passages of the sequence that begins here, for inputs of `size`; those of the last sizes are kept."""
        taken = (len(modules) for _, modules in sequence)
        key = (size, dtype, back, _STATE.loose, _STATE.gated, torch.get_num_threads(), *taken)
        found = self.made.known.get(key)
        if found is None:
            if len(self.made.known) >= _KNOWN:
                self.made.known.clear()
            found = self.made.known[key] = _passages(sequence, size, dtype, back=back)
        return found

    def link(self, taken: list[nn.Module], dtype: torch.dtype, *, back: bool, handed: bool = False) -> Link:
        """The passage; what it `handed` on is left to the filter behind it: the activation, and an exact norm."""
        left = taken[:-1] if handed else taken
        if back and _is_exact(dtype):
            run = self.as_written([] if handed else taken)
        else:
            # Tiles in bfloat16 close and open a few more ReLUs: not where a gradient asks for each of them.
            strict = back and not (_STATE.loose or _STATE.gated)
            forward = self.operation(left, self.forward_dtype(dtype) if back else dtype)
            run = partial(forward.run, as_defined=strict)
        return Link(run, self.operation(left, dtype))

    def forward_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What it computes in on the way forward of a pass that comes back in `dtype`."""
        # bfloat16 forward closes and opens so many ReLUs that the map is no longer that of the network, so it is
        # kept for the large kernels, where it saves most, and for the end of the network, where fewest follow.
        return dtype if _STATE.loose or self._is_large or self.late else torch.float32

    def cuts(self, taken: list[nn.Module]) -> bool:
        """Whether what it swallowed ends in its activation."""
        return bool(taken) and taken[-1] is self.activation

    def ends(self, taken: list[nn.Module]) -> tuple[nn.BatchNorm2d | None, Activation | None]:
        """The norm and the activation among what it swallowed."""
        return self.norm if self.norm in taken else None, Activation.of(taken[-1]) if self.cuts(taken) else None

    def filtered(
        self, taken: list[nn.Module], giver: _Step | None, size: torch.Size, dtype: torch.dtype, *, back: bool
    ) -> Filtered | None:
        """A filter of inputs of `size` that does the activation of its giver too; None if it is better left as it is.

        Where it pays it does all the work of its giver.
        """
        if not _pays(size) or not Depthwise.takes(self.convolution, self.kernel):
            return None
        if not Depthwise.fits(self.kernel, size):
            return None
        if not back and dtype != torch.float32:
            return None  # oneDNN is as fast in bfloat16 where there are no masks to keep
        exact, forward = back and _is_exact(dtype), self.forward_dtype(dtype) if back else dtype
        if giver is not None and forward == torch.float32 and giver.chain.widens(size):
            there = self._filter(taken, giver, forward, exact=exact, widening=True)
            if not exact or self.filters_alike(there, taken, [giver.chain.convolution, *giver.taken], giver.size):
                narrowing = giver.chain.operation(giver.taken[:-1], dtype)
                return Filtered(there, self._filter(taken, giver, dtype, exact=exact), narrowing)
        there = self._filter(taken, giver, forward, exact=exact)
        if exact and not self.filters_alike(there, taken, [] if giver is None else giver.taken, size):
            return None
        return Filtered(there, self._filter(taken, giver, dtype, exact=exact))

    def widens(self, size: torch.Size) -> bool:
        """Whether a filter of inputs of `size` had better make them itself."""
        return PointwiseConvolution.takes(self.convolution, self.kernel) and Depthwise.widens(size)

    def _filter(
        self, taken: list[nn.Module], giver: _Step | None, dtype: torch.dtype, *, exact: bool, widening: bool = False
    ) -> Depthwise:
        key = (exact, giver is not None, widening, len(taken), dtype)
        if key not in self.made.filters:
            channels, bias = self.convolution.out_channels, self.convolution.bias
            with torch.inference_mode(False), torch.no_grad():
                before, wide = Elementwise.of(channels, None, None), None
                if giver is not None and giver.chain.activation is not None:
                    norm = giver.chain.norm if exact or widening else None
                    before = Elementwise.of(channels, norm, Activation.of(giver.chain.activation))
                    wide = giver.chain.convolution.weight.detach() if widening else None
                behind = Elementwise.of(channels, *self.ends(taken), bias)
                weight = self.convolution.weight.detach().contiguous()
                self.made.filters[key] = Depthwise(weight, self.kernel, before, behind, dtype, wide)
        return self.made.filters[key]

    def filters_alike(
        self, filter_: Depthwise, taken: list[nn.Module], before: list[nn.Module], size: torch.Size
    ) -> bool:
        """Whether the filter gives the last bits of the modules `before`, the convolution and those behind it.

        Asked as in `_fastest_alike`, for inputs of `size`.
        """
        case = (len(before), len(taken), *_case(size))
        if case not in self.made.alike:
            probe = _probe(size)
            expected = reduce(_passed, (*before, self.convolution, *taken), probe)
            found, _ = filter_.forward(probe, keep=True)  # as it will run: every way of running is compiled anew
            self.made.alike[case] = torch.equal(found, expected)
        return self.made.alike[case]

    @property
    def _is_large(self) -> bool:
        taps = self.convolution.weight[0].numel()
        return self.kernel.size != (1, 1) and taps >= _MANY_TAPS

    def as_written(self, taken: list[nn.Module]) -> Callable[[Tensor], Tensor]:
        """Convolution and followers one after the other, with the same last bits as in the original network."""

        def run(inputs: Tensor) -> Tensor:
            case = (len(taken), _pays(inputs.shape), *_case(inputs.shape))
            if case not in self.made.ways:
                self.made.ways[case] = self._fastest_alike(taken, inputs.shape)
            return self.made.ways[case](inputs)

        return run

    def _fastest_alike(self, taken: list[nn.Module], size: torch.Size) -> Way:
        """The first way that adds up in the original's order: a value at a kink has to stay on its side.

        Which of PyTorch's kernels the original runs on hangs on the layout, the size, the threads and whether there is
        one image; so it is asked of a probe, once for each of these, and not derived.
        """
        probe = _probe(size)
        expected = reduce(_passed, (self.convolution, *taken), probe)
        ways = self._ways(taken, compiled=_pays(size))
        return next((way for way in ways if torch.equal(way(probe), expected)), self._followed(self._original, taken))

    def _ways(self, taken: list[nn.Module], *, compiled: bool) -> Iterator[Way]:
        """Ways to run as written that may have the original's last bits, the fastest first."""
        yield self._followed(partial(self.operation([], torch.float32).run, as_defined=True), taken)
        if compiled and PointwiseConvolution.takes(self.convolution, self.kernel):
            for block in _BLOCKS:
                yield partial(self.exact(PointwiseConvolution, taken).run, block=block)
        if compiled and DenseConvolution.takes(self.convolution, self.kernel):
            yield self.exact(DenseConvolution, taken).run

    def exact(self, kind: type[_Exact], taken: list[nn.Module]) -> _Exact:
        """The convolution and the first followers by a kernel whose order of sums is known."""
        key = (kind, len(taken))
        if key not in self.made.exacts:
            with torch.inference_mode(False), torch.no_grad():
                behind = Elementwise.of(self.convolution.out_channels, *self.ends(taken))
                self.made.exacts[key] = kind.of(self.convolution, self.kernel, behind)
        found = self.made.exacts[key]
        assert isinstance(found, kind)
        return found

    def _followed(self, convolve: Way, taken: list[nn.Module]) -> Way:
        """A convolution and then the modules behind it, in place."""

        def run(inputs: Tensor) -> Tensor:
            output = convolve(inputs)
            for module in taken:
                activation = Activation.of(module)
                output = _normed_(module, output) if activation is None else activation.cut_(output)
            return output

        return run

    def _original(self, inputs: Tensor) -> Tensor:
        # Peers and users run the network on contiguous images, where sums run in another order than in channels last.
        return _as_written(self.convolution, inputs.contiguous()).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class _Step:
    """A convolution of a sequence, which may leave its activation, or all of its work, to the filter behind it.

    Args:
        chain: itself.
        taken: the followers that it swallowed.
        size: of its inputs.
        giver: the one before it, that left it some of its work.
    """

    chain: _Chain
    taken: list[nn.Module]
    size: torch.Size
    giver: _Step | None = None


def _passages(sequence: _Sequence, size: torch.Size, dtype: torch.dtype, *, back: bool) -> list[Passage]:
    """The passages of a sequence: depthwise convolutions are filters, which do what lies before and behind them too."""
    passages: list[Passage] = []
    giver: _Step | None = None
    last: _Step | None = None  # of the filter that was made last
    for chain, taken in sequence:
        own, before = _Step(chain, taken, size), passages[-1] if passages else None
        projecting = None
        if isinstance(before, Filtered) and last is not None:
            projecting = _projecting(before, last, own, dtype, back=back)
        if projecting is not None:
            passages[-1], giver = projecting, None
        else:
            found = chain.filtered(taken, giver, size, dtype, back=back)
            if found is not None and giver is not None:
                passages.pop()
                if found.narrowing is None:
                    passages.append(giver.chain.link(giver.taken, dtype, back=back, handed=True))
            passages.append(found or chain.link(taken, dtype, back=back))
            last = None if found is None else _Step(chain, taken, size, giver)
            giver = own if found is None and chain.cuts(taken) else None
        size = torch.Size((size[0], chain.convolution.out_channels, *chain.kernel.outputs(size[-2:])))
    return passages


def _projecting(filter_: Filtered, of: _Step, behind: _Step, dtype: torch.dtype, *, back: bool) -> Filtered | None:
    """The filter with the 1 x 1 convolution behind it, as what is wide stays in the cache; None if that is no gain."""
    chain, taken = behind.chain, behind.taken
    norm, activation = chain.ends(taken)
    forward = chain.forward_dtype(dtype) if back else dtype
    if forward != torch.float32 or (back and activation is not None):
        return None  # the way back would want the bits of the activation
    if _STATE.loose:
        return None  # (pictures that were judged are to stay, see `_Linear`)
    if not filter_.projects(chain.convolution, chain.kernel, behind.size):
        return None
    with torch.inference_mode(False), torch.no_grad():
        elementwise = Elementwise.of(chain.convolution.out_channels, norm, activation, chain.convolution.bias)
        found = filter_.projecting(chain.convolution.weight.detach(), elementwise, chain.operation(taken, dtype))
    if not (back and _is_exact(dtype)):
        return found
    all_taken = [*of.taken, chain.convolution, *taken]
    before, size = ([], of.size) if of.giver is None else (of.giver.taken, of.size)
    if of.giver is not None and filter_.narrowing is not None:
        before, size = [of.giver.chain.convolution, *before], of.giver.size
    return found if of.chain.filters_alike(found.there, all_taken, before, size) else None


def _pays(size: torch.Size) -> bool:
    """Whether kernels are worth compiling: one image is done before they are, unless it takes many steps."""
    return size[0] > 1 or _STATE.loose


def _is_exact(dtype: torch.dtype) -> bool:
    """Whether this pass has to be on the original's side of every kink."""
    return dtype == torch.float32 and not _STATE.loose


def _case(size: torch.Size) -> tuple[object, ...]:
    """What a kernel of PyTorch's is chosen by."""
    return (tuple(size[1:]), min(size[0], _PROBED), torch.get_num_threads())


def _probe(size: torch.Size) -> Tensor:
    """A few images of random numbers of that size."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(min(size[0], _PROBED), *size[1:], generator=generator, dtype=torch.float32, device="cpu")


@dataclass
class _Follower:
    """A norm or activation that hands on what has had its work done, and does it otherwise."""

    module: nn.Module

    def __call__(self, inputs: Tensor) -> Tensor:
        if is_done(self.module, inputs):
            return inputs
        return _as_written(self.module, inputs)


@dataclass
class _Linear:
    """A linear layer that stays in float32 where it takes vectors, also under autocast.

    Scores of 8 bits are too coarse to rank what a small window changes, and casting the weights costs more than the
    product of a few vectors. Loops over the gradient keep PyTorch's product: two hundred steps of other last bits end
    in another picture, and the ones that were judged are to stay.
    """

    module: nn.Linear

    def __call__(self, inputs: Tensor) -> Tensor:
        autocast = torch.is_autocast_enabled("cpu")
        if autocast and inputs.ndim > 2:
            return _as_written(self.module, inputs)
        with torch.autocast("cpu", enabled=False):
            inputs = inputs.float() if autocast else inputs
            if not self._takes(inputs):
                return _as_written(self.module, inputs)
            if inputs.requires_grad and torch.is_grad_enabled():
                return _Linearly.apply(inputs, self, not autocast)  # type: ignore[no-any-return, no-untyped-call]
            return self.run(inputs)

    def _takes(self, inputs: Tensor) -> bool:
        if _STATE.loose or (_ruled() and not _STATE.gated):  # (the long sums of such a rule show their order here too)
            return False
        fits = inputs.ndim > 1 and inputs.shape[-1] == self.module.in_features and inputs.dtype == torch.float32
        # (Weights that somebody put in its place may want gradients of their own.)
        frozen = not any(parameter.requires_grad for parameter in self.module.parameters())
        return fits and frozen and _plain_values(inputs, torch.float32)

    def run(self, inputs: Tensor) -> Tensor:
        """By oneDNN, whose product is twice as fast on many processors."""
        return torch.ops.mkldnn._linear_pointwise(  # type: ignore[no-any-return]
            inputs.contiguous(), self.module.weight, self.module.bias, "none", [], ""
        )


class _Linearly(torch.autograd.Function):
    """A linear layer of frozen weights, and its way back."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, layer: _Linear, as_written: bool) -> Tensor:
        # A ReLU may follow: on its own side of the kink a value is only as written.
        ctx.layer, ctx.linear = layer, True
        return _as_written(layer.module, inputs) if as_written else layer.run(inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        with torch.autocast("cpu", enabled=False):
            weight = ctx.layer.module.weight.T
            found = torch.ops.mkldnn._linear_pointwise(gradient.contiguous(), weight, None, "none", [], "")
        return found, None, None


@dataclass
class _GlobalPool:
    """The mean over all places: PyTorch's own takes that of bfloat16 by way of a float32 copy of the map."""

    module: nn.AdaptiveAvgPool2d

    def __call__(self, inputs: Tensor) -> Tensor:
        pays = inputs.dtype == torch.bfloat16 and inputs.ndim == 4 and not inputs.requires_grad
        return F.avg_pool2d(inputs, inputs.shape[-2:]) if pays else _as_written(self.module, inputs)


def fuse(module: nn.Module, traced: fx.GraphModule | None) -> None:
    """Make the convolutions of a frozen network run by oneDNN, with what follows them folded in.

    They compute in float32, or under autocast in bfloat16, where global pooling has a way of its own. Linear layers of
    vectors stay in float32.

    Args:
        module: a frozen network of one's own, in eval mode; the way its modules run is exchanged.
        traced: its graph, which tells what follows what; None folds nothing.
    """
    if not _supported(module):
        return
    following = {} if traced is None else _following(module, traced)
    names = {child: name for name, child in module.named_modules()}
    late = _late(names, traced)
    chains: dict[nn.Module, _Chain] = {}
    for child, name in names.items():
        if type(child) is nn.Linear and child.weight.dtype == torch.float32:
            _replace(child, _Linear(child))
        if type(child) is nn.AdaptiveAvgPool2d and child.output_size in (1, (1, 1)):
            _replace(child, _GlobalPool(child))
        if not isinstance(child, nn.Conv2d) or _watched(child):
            continue
        kernel = convolution_kernel(child)
        if kernel is not None and child.weight.dtype == torch.float32:
            chains[child] = _Chain(child, kernel, late=name in late)
            _attach(chains[child], following.get(name, ()))
    for chain in chains.values():
        behind = following.get(names[chain.convolution], [])[len(chain.followers) :]
        if behind and behind[0].module in chains:
            chain.then = (behind[0], chains[behind[0].module])
        _replace(chain.convolution, chain)
        for follower in chain.followers:
            _replace(follower.module, _Follower(follower.module))


def _late(names: dict[nn.Module, str], traced: fx.GraphModule | None) -> set[str]:
    """The names of the last convolutions, in the order in which they run where that is known."""
    ordered = [name for module, name in names.items() if isinstance(module, nn.Conv2d)]
    if traced is not None:
        turn = {str(node.target): place for place, node in enumerate(traced.graph.nodes)}
        ordered.sort(key=lambda name: turn.get(name, -1))
    return set(ordered[len(ordered) - int(_LATE * len(ordered)) :])


def _attach(chain: _Chain, behind: Sequence[_Behind]) -> None:
    """The norm and the activation right behind a convolution become its followers."""
    for follower in behind:
        module = follower.module
        if chain.norm is None and chain.activation is None and _foldable(module, chain.convolution):
            chain.norm = module
        elif chain.activation is None and Activation.of(module) is not None:
            chain.activation = module
        else:
            return
        chain.followers.append(follower)


def is_done(module: nn.Module, value: Tensor) -> bool:
    """Whether the work of a norm or activation is done already in what it is given."""
    return id(module) in getattr(value, _DONE, ())


def kernel_of(module: nn.Module) -> Kernel | None:
    """The geometry of a convolution or pooling layer of a fused network; None for any other module."""
    run = vars(module).get("forward")
    if isinstance(run, _Chain):
        return run.kernel
    return convolution_kernel(module) if isinstance(module, nn.Conv2d) else pooling_kernel(module)


def run_valid(module: nn.Module, patches: Tensor) -> Tensor:
    """A convolution or pooling layer on patches that hold their padding already."""
    run = vars(module).get("forward")
    if isinstance(run, _Chain) and _plain(patches, dtype := _compute_dtype()):
        taken = run.swallowed()
        return _done(taken, run.operation(taken, dtype).run(patches, padded=True))
    if isinstance(module, nn.Conv2d):
        return F.conv2d(patches, module.weight, module.bias, module.stride, 0, module.dilation, module.groups)
    if isinstance(module, nn.MaxPool2d):
        return F.max_pool2d(patches, module.kernel_size, module.stride, 0, module.dilation)
    return F.avg_pool2d(patches, module.kernel_size, module.stride)  # type: ignore[arg-type]


def _done(taken: list[nn.Module], output: Tensor) -> Tensor:
    if taken:
        setattr(output, _DONE, tuple(map(id, taken)))
    return output


def _following(module: nn.Module, traced: fx.GraphModule) -> dict[str, list[_Behind]]:
    """Per module the modules behind it, as long as each runs once and nobody else reads what lies between."""
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    found = {}
    for node in traced.graph.nodes:
        if node.op != "call_module" or calls[str(node.target)] != 1:
            continue
        behind: list[_Behind] = []
        before: list[str] = []
        last = node
        while len(last.users) == 1:
            (user,) = last.users
            if user.op != "call_module" or calls[str(user.target)] != 1 or user.args != (last,) or user.kwargs:
                break
            before, last = [*before, str(last.target)], user
            # What hands on as it is was given is no more than another wall.
            if type(module.get_submodule(str(user.target))) is not nn.Identity:
                behind.append(_behind(module, before, str(user.target)))
                before = []
        found[str(node.target)] = behind
    return found


def _behind(module: nn.Module, before: Sequence[str], name: str) -> _Behind:
    """A module behind another one, the first of `before`, and modules that hand on what they are given."""
    # Of the module itself: its graph has the same layers, but containers of its own, which nobody watches.
    path = [*before, name]
    walls = set(before[1:]).union(*(_containers(a) ^ _containers(b) for a, b in pairwise(path)))
    return _Behind(module.get_submodule(name), [module.get_submodule(wall) for wall in sorted(walls)])


def _containers(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:depth]) for depth in range(1, len(parts))}


def _foldable(norm: nn.Module, convolution: nn.Conv2d) -> TypeGuard[nn.BatchNorm2d]:
    return (
        type(norm) is nn.BatchNorm2d and norm.running_mean is not None and norm.num_features == convolution.out_channels
    )


def _normed_(norm: nn.Module, values: Tensor) -> Tensor:
    """The values themselves, normed in place: the same operation that the norm runs, without a second copy."""
    assert isinstance(norm, nn.BatchNorm2d)
    unused = values.new_empty(0)
    torch.native_batch_norm(
        values, norm.weight, norm.bias, norm.running_mean, norm.running_var, False, 0.0, norm.eps,
        out=(values, unused, unused.clone()),
    )  # fmt: skip
    return values


def _supported(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    operation = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return operation and all(tensor.device.type == "cpu" for tensor in tensors)


def _plain(inputs: Tensor, dtype: torch.dtype) -> bool:
    """Whether an input is an ordinary batch of maps on the processor."""
    return inputs.ndim == 4 and _plain_values(inputs, dtype)


def _plain_values(inputs: Tensor, dtype: torch.dtype) -> bool:
    return bool(
        type(inputs) in (Tensor, nn.Parameter)
        and not torch._C._functorch.is_functorch_wrapped_tensor(inputs)
        and inputs.numel() > 0
        and inputs.device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and inputs.dtype in (torch.float32, dtype)
        and torch.backends.mkldnn.enabled
    )


def _compute_dtype() -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _watched(module: nn.Module, *, output: bool = True) -> bool:
    """Whether somebody sees what a module is given, or with `output` also what it returns."""
    given = module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return bool(given or (output and module._forward_hooks))


def _all_watched() -> bool:
    """Whether somebody sees what every module is given or returns."""
    return bool(_has_any_global_hook())  # type: ignore[no-untyped-call]


def _ruled() -> bool:
    """Whether a function mode of this thread, such as a rule for ReLUs, sees every call."""
    return bool(torch.overrides._len_torch_function_stack())  # type: ignore[attr-defined]


def _as_written(module: nn.Module, inputs: Tensor) -> Tensor:
    output: Tensor = type(module).forward(module, inputs)
    return output


def _passed(values: Tensor, module: nn.Module) -> Tensor:
    return _as_written(module, values)


def _replace(module: nn.Module, run: Callable[[Tensor], Tensor]) -> None:
    # On the instance: the class, the name and the weights of the module stay what they are.
    object.__setattr__(module, "forward", run)
