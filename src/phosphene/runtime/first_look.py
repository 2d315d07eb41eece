"""What one image of noise shows of a network before it is explained: its memory layout, its head, what it draws."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phosphene.axes import Operations
from phosphene.classifier import HeadKind
from phosphene.devices import own_random_state
from phosphene.errors import ModelError, PhospheneWarning
from phosphene.hooks import ValueHooks, graph_nodes, node_kind, nodes_below

Run = Callable[[Tensor], Tensor]

_SUM_ERROR, _OUTSIDE, _LAYOUT_ERROR = 1e-5, 1e-3, 1e-3
# What hands on values in another shape or part of them.
_PASSIVE = {
    "View",
    "UnsafeView",
    "Reshape",
    "ReshapeAlias",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Select",
    "Alias",
    "Clone",
}


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
        hooks: whether it lays hooks on values of its own.
    """

    memory_format: torch.memory_format = torch.channels_last
    head: HeadKind = "softmax"
    notes: tuple[str, ...] = ()
    differentiable: bool = True
    reentrant: bool = False
    integers: str | None = None
    draws: bool = False
    hooks: bool = False

    def say(self) -> None:
        """Warn of what the user should know about the network."""
        for note in self.notes:
            warnings.warn(note, PhospheneWarning, stacklevel=4)


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
    with _apart(device), torch.enable_grad():
        before = _random_state(device)
        with _Draws() as draws, ValueHooks() as hooks:  # type: ignore[no-untyped-call]
            plain = _tried(run, image.requires_grad_())
        drawn = draws.may and not torch.equal(before, _random_state(device))
        with torch.no_grad(), ValueHooks() if hooks.seen else nullcontext():
            last = _tried(run, image.clone(memory_format=torch.channels_last))
            if plain is None:
                return None
            seen = plain.detach()
            alike = last is not None and _alike(last, seen)
            if last is not None and not alike and not drawn:  # of random numbers of its own, or of the layout
                again = _tried(run, image)
                drawn = again is None or not _alike(again, seen)
    nodes = set(map(node_kind, graph_nodes(plain)))
    last_ones = (alike or (drawn and last is not None)) and not any(map(_takes_statistics, graph_nodes(plain)))
    found, why = _head(head, seen, _ends_in_sigmoid(plain), name)
    noise = (
        f"{name} draws random numbers in its forward, also in eval mode (dropout or noise that stays on): each pass "
        "gives other scores, and a map is that of one draw; switch it off, or pass several and average them"
    )
    return FirstLook(
        memory_format=torch.channels_last if last_ones else torch.contiguous_format,
        head=found,
        notes=(*([why] if why else []), *([noise] if drawn else [])),
        differentiable=plain.requires_grad,
        reentrant="CheckpointFunction" in nodes,
        draws=drawn,
        hooks=hooks.seen,
    )


@contextmanager
def _apart(device: torch.device) -> Iterator[None]:
    """Whatever context the caller is in; its random numbers stay as they were."""
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False), own_random_state():
        yield


def _random_state(device: torch.device) -> Tensor:
    own = torch.get_rng_state()
    return torch.cat([own, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else own


class _Draws(Operations):  # type: ignore[no-untyped-call]
    """Notes whether this thread runs what may draw random numbers: the generators are moved by all threads."""

    may = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.may = self.may or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _tried(run: Run, image: Tensor) -> Tensor | None:
    try:
        return run(image)
    except ModelError:
        return None


def _alike(one: Tensor, other: Tensor) -> bool:
    room = _LAYOUT_ERROR * max(float(other.abs().nan_to_num().max()), 1e-6)
    return one.shape == other.shape and torch.allclose(one.detach(), other, rtol=0, atol=room, equal_nan=True)


def _head(told: HeadKind, rows: Tensor, ends_in_sigmoid: bool, name: str) -> tuple[HeadKind, str | None]:
    """The head that the scores are read by, and why it is another than was told."""
    low, high = float(rows.min()), float(rows.max())
    between = low >= -_OUTSIDE and high <= 1 + _OUTSIDE
    if told == "probabilities" and (low < -_OUTSIDE or high > 1 + _OUTSIDE):
        raise ModelError(
            f"{name} was given head='probabilities', but returned {low:.4g} to {high:.4g}, not numbers "
            "between 0 and 1; use head='softmax' or 'sigmoid' for scores before them"
        )
    if told not in ("softmax", "sigmoid") or not between:
        return told, None
    one_sum = rows.shape[1] > 1 and bool(((rows.sum(dim=1) - 1).abs() < _SUM_ERROR).all())
    if not (one_sum or ends_in_sigmoid):
        return told, None
    what = "each row of scores sums to one" if one_sum else "it ends in a sigmoid"
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


def _ends_in_sigmoid(rows: Tensor) -> bool:
    node: Any = rows.grad_fn
    while node is not None and node_kind(node) in _PASSIVE:
        node = next(iter(nodes_below(node)), None)
    return node is not None and node_kind(node) == "Sigmoid"


def integer_layer(module: nn.Module) -> str | None:
    """The first layer that computes in integers, by name."""
    for name, child in module.named_modules():
        if ".quantized" in type(child).__module__:
            return f"layer '{name}', a quantized {type(child).__name__}"
    return None
