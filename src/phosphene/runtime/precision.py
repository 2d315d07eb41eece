"""What "exact" and "fast" mean on a device, and for which passes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, Literal

import torch

from phosphene.kernels import Arithmetic

Precision = Literal["exact", "fast"]
Purpose = Literal["maps", "steps", "windows"]
"""What a variant of a network is made for: maps of images, steps of a synthesis, nodes of its graph one by one."""


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """float32 for "exact"; for "fast" bfloat16 where the processor or GPU multiplies it in hardware, else float32."""
    if precision == "exact":
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if _processor_has_bfloat16() else torch.float32
    return torch.float32


def arithmetic(precision: Precision, purpose: Purpose, device: torch.device) -> Arithmetic:
    """The types of a variant's passes.

    An exact gradient is as near to float64 as PyTorch's own: norms are not folded on its way forward. Of `fast` the
    way forward stays in float32 where a gradient follows, since bfloat16 moves too many values over the kinks of
    ReLUs. The steps of a synthesis mind neither: nobody asks there on which side of a kink a last bit fell.
    """
    dtype = compute_dtype(precision, device)
    if purpose == "windows":
        return Arithmetic(dtype, dtype, dtype, joined=False)
    if purpose == "steps":
        return Arithmetic(dtype, dtype, dtype, folds_recorded=True)
    return Arithmetic(dtype, torch.float32, dtype, folds_recorded=precision == "fast")


def _processor_has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def whole_float32(precision: Precision) -> AbstractContextManager[None]:
    """Inside, if "exact", float32 is multiplied as float32: no TF32 on a GPU, no bfloat16 on the CPU in its place.

    PyTorch has one such setting for the process, of which cuDNN's allows TF32 unless told otherwise. While any thread
    is inside the setting is ours; with the last to leave it is again what the user made it.
    """
    return _STRICTLY if precision == "exact" else nullcontext()


def uncompiled() -> AbstractContextManager[None]:
    """Inside, functions and methods under `torch.compile` run as they were written.

    Compiling them anew with our hooks inside takes seconds, and what is compiled hides ReLUs and layers.
    """
    # (Where it is not loaded nothing is compiled, and to load the compiler takes seconds.)
    return _EAGERLY if "torch._dynamo" in sys.modules else nullcontext()


# The older names first: each also sets the newer ones, and PyTorch refuses to multiply where the two disagree.
_BACKENDS: Any = torch.backends
_OWNERS = (
    getattr(backend, part, None)
    for backend in (_BACKENDS.cuda, _BACKENDS.cudnn, _BACKENDS.mkldnn)
    for part in ("matmul", "conv", "rnn")
)
_NAMES = [
    (_BACKENDS.cudnn, "allow_tf32", False),
    *((owner, "fp32_precision", "ieee") for owner in _OWNERS if hasattr(owner, "fp32_precision")),  # PyTorch 2.9 on
]
# (how it is read, how it is set, what is strict) of each.
_SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], None], Any]] = [
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
    *((partial(getattr, owner, name), partial(setattr, owner, name), strict) for owner, name, strict in _NAMES),
]


class _Setting(AbstractContextManager[None]):
    """A setting of the process, changed by the first that comes and put back by the last that goes.

    Args:
        change: changes it, and gives what puts it back.
    """

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change = change
        self._back: Callable[[], object] = lambda: None
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._back = self._change()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._back()


def _make_strict() -> Callable[[], object]:
    before = []
    for read, write, _ in _SETTINGS:
        with suppress(RuntimeError):  # an older name that a newer one contradicts is not read
            before.append((write, read()))
    for _, write, strict in _SETTINGS:
        write(strict)
    return lambda: [write(value) for write, value in before]


def _stop_compiling() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)


_STRICTLY, _EAGERLY = _Setting(_make_strict), _Setting(_stop_compiling)
