"""What "exact" and "fast" mean on a device, and for which passes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        return Arithmetic(dtype, dtype, dtype, folds_recorded=True, repeated=True)
    return Arithmetic(dtype, torch.float32, dtype, folds_recorded=precision == "fast")


def _processor_has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextmanager
def whole_float32(precision: Precision) -> Iterator[None]:
    """Inside, if "exact", float32 is multiplied as float32: no TF32 on a GPU, no bfloat16 on the CPU in its place.

    PyTorch has one such setting for the process, of which cuDNN's allows TF32 unless told otherwise. While any thread
    is inside the setting is ours; with the last to leave it is again what the user made it.
    """
    if precision != "exact":
        yield
        return
    _SETTING.enter()
    try:
        yield
    finally:
        _SETTING.leave()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, functions and methods under `torch.compile` run as they were written.

    Compiling them anew with our hooks inside takes seconds, and what is compiled hides ReLUs and layers.
    """
    if "torch._dynamo" not in sys.modules:  # (nothing is, and to load the compiler takes seconds)
        yield
        return
    _STANCE.enter()
    try:
        yield
    finally:
        _STANCE.leave()


class _Setting:
    """A setting of the process, changed by the first that comes and put back by the last that goes."""

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change = change  # (and what puts it back)
        self._lock = threading.Lock()
        self._inside = 0
        self._back: Callable[[], object] = lambda: None

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._back = self._change()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._back()


def _stop_compiling() -> Callable[[], object]:
    stance = torch.compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)


class _Products:
    """PyTorch's older setting of the precision of products, as an attribute like the newer ones."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)


# The older names first: each also sets the newer ones, and PyTorch refuses to multiply where the two disagree.
_BACKENDS: Any = torch.backends
_STRICT: tuple[tuple[Any, str, Any], ...] = (
    (_Products(), "precision", "highest"),
    (_BACKENDS.cudnn, "allow_tf32", False),
    *(
        (owner, "fp32_precision", "ieee")
        for backend in (_BACKENDS.cuda, _BACKENDS.cudnn, _BACKENDS.mkldnn)
        for owner in (getattr(backend, part, None) for part in ("matmul", "conv", "rnn"))
        if hasattr(owner, "fp32_precision")  # not before PyTorch 2.9
    ),
)


def _make_strict() -> Callable[[], object]:
    before = _read()
    for owner, name, strict in _STRICT:
        setattr(owner, name, strict)

    def back() -> None:
        for owner, name, value in before:
            setattr(owner, name, value)

    return back


def _read() -> list[tuple[Any, str, Any]]:
    """The value of each setting; left out is an older name that a newer one contradicts."""
    found = []
    for owner, name, _ in _STRICT:
        try:
            found.append((owner, name, getattr(owner, name)))
        except RuntimeError:
            continue
    return found


_SETTING, _STANCE = _Setting(_make_strict), _Setting(_stop_compiling)
