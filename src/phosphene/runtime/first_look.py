"""What one image of noise shows of a network before it is explained: its memory layout, its head, what it draws."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from phosphene.autograd_graph import graph_nodes, node_kind, nodes_below
from phosphene.axes import Operations, tensors_in
from phosphene.classifier import HeadKind
from phosphene.errors import ModelError
from phosphene.hooks import ValueHooks
from phosphene.runtime.trials import trial, within

Run = Callable[[Tensor], Tensor]

_SUM_ERROR, _OUTSIDE, _LAYOUT_ERROR = 1e-5, 1e-3, 1e-3
# The places of a picture of noise in [0, 1], normalized or not, differ by .5 and more in what a convolution takes; by
# less than this where it was scaled down twice.
_LEAST_SPREAD = 0.05
# Passes more of a network that moves a generator without drawing from PyTorch's.
_COINS = 4
# What makes probabilities of scores (an exponential of logarithms of them), or their logarithms, and what mixes values
# by weights: behind that they are scores.
_BOUNDED = {"Softmax", "Sigmoid", "Hardsigmoid", "Exp"}
_LOGARITHMS = {"LogSoftmax", "LogSigmoid"}
_LOGS = {"Log", "Log1P"}
_WEIGHING = ("Convolution", "Addmm", "Mm", "Bmm", "Addbmm", "Baddbmm", "Mv", "Linear")


@dataclass(frozen=True)
class FirstLook:
    """What was seen.

    Args:
        memory_format: that images are laid out in: channels last, which is faster, unless the network wants otherwise.
        head: as it was told, or "probabilities" for a network that returns them already.
        notes: what is worth a warning, one line each.
        differentiable: whether a gradient comes back to the image.
        reentrant: whether a part is checkpointed in the way that `torch.autograd.grad` refuses.
        integers: the first layer that computes in integers, past which no gradient comes.
        draws: whether it draws random numbers.
        seeds: whether it moves a generator of the process, of PyTorch, NumPy or Python: it may set one at each pass.
        hooks: whether it lays hooks on values of its own.
        recorded: whether its scores are others where a gradient is recorded.
        last_alone: whether it takes images in channels last and in no other layout.
        reads: whether its code reads values, such as a confidence that it stops at: those of a whole batch at once.
        asks: whether its code asks which weights have a gradient, as one does that leaves out what is frozen.
    """

    memory_format: torch.memory_format = torch.channels_last
    head: HeadKind = "softmax"
    notes: tuple[str, ...] = ()
    differentiable: bool = True
    reentrant: bool = False
    integers: str | None = None
    draws: bool = False
    seeds: bool = False
    hooks: bool = False
    recorded: bool = False
    last_alone: bool = False
    reads: bool = False
    asks: bool = False

    @property
    def whole(self) -> bool:
        """Whether gradients have to be recorded from the image on, wherever they are asked for."""
        return self.hooks or self.recorded


def first_look(run: Run, image: Tensor, name: str, head: HeadKind) -> FirstLook | None:
    """Run a network as it was written on one image, in both layouts; None where it does not run on it.

    Args:
        run: images (1, C, H, W) in [0, 1] -> (1, K) what the network returns, whatever its head.
        image: (1, C, H, W) of noise.
        name: of the network.
        head: as it was told.

    Raises:
        ModelError: if it was told to return probabilities, and does not.

    Example:
        >>> def run(images):
        ...     return images.mean((2, 3)).softmax(1)
        >>> look = first_look(run, torch.rand(1, 3, 8, 8), "Net", "softmax")
        >>> look.head, look.notes[0][:54]
        ('probabilities', 'Net returns probabilities: each row of scores sums to ')
    """
    image, device = image.contiguous(), image.device
    recorded = False
    with trial(device, gradients=True):
        before = _generators(device)
        with _Watch(image.shape[2:]) as watch, _Calls(watch) as hooks:
            plain = _tried(run, watch.follow(image.requires_grad_()))
            if plain is None:  # some take channels last alone
                image = image.detach().contiguous(memory_format=torch.channels_last)
                plain = _tried(run, watch.follow(image.requires_grad_()))
        after = _generators(device)
        with torch.no_grad(), ValueHooks() if hooks.seen else nullcontext():
            last = _tried(run, image.detach().clone(memory_format=torch.channels_last))
            if plain is None:
                return None
            seen, seeds = plain.detach(), before != after
            # What sets a generator at each pass draws the same numbers every time.
            moving = last is None or after[0] != _generators(device)[0]
            drawn = watch.draws and before[0] != after[0] and moving
            alike = last is not None and _alike(last, seen)
            if last is not None and not alike and not drawn:  # by random numbers of its own, gradients or the layout
                again = _tried(run, image.detach())
                if again is None or not _alike(again, seen):
                    with torch.enable_grad():
                        once_more = _tried(run, image)
                    recorded = again is not None and once_more is not None and _alike(once_more, seen)
                    drawn, alike = not recorded, recorded and again is not None and _alike(last, again)
            if seeds and not drawn:  # (a coin that chooses among layers may fall alike several times)
                with torch.enable_grad():
                    more = [_tried(run, image) for _ in range(_COINS)]
                drawn = any(found is None or not _alike(found, seen) for found in more)
    nodes = set(map(node_kind, graph_nodes(plain)))
    last_alone = not image.is_contiguous()
    last_ones = (alike or (drawn and last is not None)) and not any(map(_takes_statistics, graph_nodes(plain)))
    found, why = _head(head, seen, _last_steps(plain.grad_fn), name)
    dark = (
        f"{name} scales pictures down that were scaled down before: places of a picture of noise differ by no more "
        f"than {watch.spread:.1g} at its first convolution; if it takes bytes and divides by 255 itself, say "
        "scale=255, with mean 0 and std 1 (Preprocess or JSON card)"
    )
    others = "passes may give other scores, though two had the same" if alike else "each pass gives other scores"
    noise = (
        f"{name} draws random numbers in its forward, also in eval mode (dropout or noise that stays on): {others}, "
        "and a map is that of one draw; switch it off, or pass several and average them"
    )
    return FirstLook(
        memory_format=torch.channels_last if last_ones or last_alone else torch.contiguous_format,
        head=found,
        notes=(*([why] if why else []), *([noise] if drawn else []), *([dark] if watch.spread < _LEAST_SPREAD else [])),
        differentiable=plain.requires_grad,
        reentrant="CheckpointFunction" in nodes,
        draws=drawn,
        seeds=seeds,
        hooks=hooks.seen,
        recorded=recorded,
        last_alone=last_alone,
        reads=watch.reads,
        asks=hooks.asks,
    )


def _generators(device: torch.device) -> tuple[bytes, bytes, object]:
    """What the generators of PyTorch, NumPy and Python stand at."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    _, keys, *places = np.random.get_state()
    own = b"".join(state.numpy().tobytes() for state in states)
    return own, np.asarray(keys).tobytes() + repr(places).encode(), random.getstate()


class _Watch(Operations):  # type: ignore[no-untyped-call]
    """Notes what this thread runs: what may draw random numbers, for the generators are moved by all threads.

    And what hands to Python a value that came of an image, by which it may go on in another way.
    """

    draws = reads = False
    spread = inf
    """How far the places of the image differ in what the first convolution takes, if that has the image's size."""

    def __init__(self, size: torch.Size) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._size, self._convolved = size, False
        self._of_images: Any = WeakTensorKeyDictionary()

    def follow(self, image: Tensor) -> Tensor:
        """The image itself, from which on values are followed."""
        self._of_images[image] = True
        return image

    def follows(self, values: Sequence[Any]) -> bool:
        """Whether any of these came of the image."""
        return any(value in self._of_images for value in tensors_in(values))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        followed = self.follows((*args, *(kwargs or {}).values()))
        self.draws = self.draws or torch.Tag.nondeterministic_seeded in _tags(func)
        self.reads = self.reads or (followed and _shows_values(func, args))
        if followed and func is torch.ops.aten.convolution.default and not self._convolved:
            spread = inf
            if args[0].shape[2:] == self._size and self._size.numel() > 1:
                least, most = args[0].detach().flatten(2).aminmax(dim=2)
                spread = float((most - least).max())
            self._convolved = spread > 0  # (a mask of ones in its size is no image)
            self.spread = spread if self._convolved else inf
        output = func(*args, **(kwargs or {}))
        for value in tensors_in((output,)) if followed else ():
            self.follow(value)
        return output


def _shows_values(func: Any, args: Any) -> bool:
    """Whether an operation hands values to Python: as numbers, or in the shape of what it gives."""
    if func is torch.ops.aten.index.Tensor:
        return any(index.dtype in (torch.bool, torch.uint8) for index in tensors_in(args[1]))
    return not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}.isdisjoint(_tags(func))


def _tags(func: Any) -> Collection[torch.Tag]:
    """What PyTorch says of an operation; nothing of those that are made of functions (flex attention)."""
    return getattr(func, "tags", ())


class _Calls(ValueHooks):
    """Notes as well what hands values to Python or NumPy past PyTorch's operations, and who asks about weights."""

    asks = False

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = super().__torch_function__(func, types, args, kwargs)
        if func in _PAST_OPERATIONS and self.watch.follows(args[:1]):
            if isinstance(output, Tensor):  # (the same values, which are no longer known to come of the image)
                self.watch.follow(output)
            else:
                self.watch.reads = True
        elif func == Tensor.requires_grad.__get__ and isinstance(args[0], nn.Parameter):  # type: ignore[attr-defined]
            # (PyTorch's own layers ask whether they may take a shorter way.)
            self.asks = self.asks or not sys._getframe(1).f_globals.get("__name__", "").startswith("torch.")
        return output


_PAST_OPERATIONS = {
    *(Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.untyped_storage),
    Tensor.data.__get__,  # type: ignore[attr-defined]
}


def _tried(run: Run, image: Tensor) -> Tensor | None:
    try:
        return run(image)
    except ModelError:
        return None


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and within(one.detach(), other, _LAYOUT_ERROR)


def _head(told: HeadKind, rows: Tensor, steps: set[str], name: str) -> tuple[HeadKind, str | None]:
    """The head that the scores are read by, and why it is another than was told."""
    low, high = float(rows.min()), float(rows.max())
    between = low >= -_OUTSIDE and high <= 1 + _OUTSIDE
    if told == "probabilities" and (low < -_OUTSIDE or high > 1 + _OUTSIDE):
        raise ModelError(
            f"{name} was given head='probabilities', but returned {low:.4g} to {high:.4g}, not numbers "
            "between 0 and 1; use head='softmax' or 'sigmoid' for scores before them"
        )
    if told == "sigmoid" and steps and steps <= _LOGARITHMS and high <= 0:
        raise ModelError(
            f"{name} returns logarithms of probabilities, of which a sigmoid makes none; pass the network without its "
            "last step, or say head='softmax' if it is a log_softmax"
        )
    if told not in ("softmax", "sigmoid", "maps") or not between:
        return told, None
    one_sum = rows.shape[1] > 1 and bool(((rows.sum(dim=1) - 1).abs() < _SUM_ERROR).all())
    if not (one_sum or (steps and steps <= _BOUNDED)):
        return told, None
    what = "each row of scores sums to one" if one_sum else "they are made of what a sigmoid or softmax returns"
    if told == "maps":  # (of a part of a picture the mean is the score, which has no other head)
        return told, (
            f"{name} returns probabilities in its maps: {what}; as scores they are taken as they are, but a "
            "probability made of them once more is nearly flat: pass the network without its last step"
        )
    return "probabilities", (
        f"{name} returns probabilities: {what}; they are taken as such and not put through head='{told}' once more; "
        "say head='probabilities', or pass the network without its last step"
    )


def _takes_statistics(node: Any) -> bool:
    """Whether a node of the graph norms by the values' own mean and variance.

    In channels last PyTorch takes the variance from a difference of large sums: far from zero it is fifty times less
    exact than in plain layout.
    """
    kind = node_kind(node)
    return kind == "NativeGroupNorm" or (kind == "NativeBatchNorm" and bool(getattr(node, "_saved_training", False)))


def norms_by_batch(node: Any) -> bool:
    """Whether a node of the graph norms by mean and variance of several images (instance norm folds them into one)."""
    return (
        node_kind(node) in ("NativeBatchNorm", "CudnnBatchNorm")
        and bool(getattr(node, "_saved_training", False))
        and len(node._saved_input) > 1
    )


def _last_steps(end: Any) -> set[str]:
    """What the scores were made of: on each way back to the image the first step that bounds them, or weighs them.

    A mean, a part, a maximum, a product or a change of type of several probabilities are probabilities as well, and
    their logarithm is one however it is written.

    Args:
        end: the node of the graph that made the scores.
    """
    found, waiting, seen = set(), [end], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        kind = "" if node is None else node_kind(node)
        below = [] if node is None else nodes_below(node)
        open_exponential = kind == "Exp" and not {node_kind(one) for one in below} <= _LOGARITHMS
        if (kind in _BOUNDED | _LOGARITHMS and not open_exponential) or kind.startswith(_WEIGHING) or not below:
            found.add(kind)
        elif kind in _LOGS and "Exp" not in map(node_kind, filter(None, seen)) and _last_steps(below[0]) <= _BOUNDED:
            found.add("LogSigmoid")
        else:
            waiting += below
    return found


def integer_layer(module: nn.Module) -> str | None:
    """The first layer that computes in integers, by name."""
    for name, child in module.named_modules():
        if ".quantized" in type(child).__module__:
            return f"layer '{name}', a quantized {type(child).__name__}"
    return None
