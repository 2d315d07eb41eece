"""What code that runs on any device has to ask of it: numbers of 64 bits, their bytes, the time when it is done."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from torch import Tensor

CPU = torch.device("cpu")


@cache
def has_float64(device: torch.device) -> bool:
    """Whether a device has numbers of 64 bits; Apple's GPUs and some of Intel's have none.

    Example:
        >>> has_float64(CPU)
        True
    """
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return False
    return True


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no more: for sums that stay on the device."""
    return torch.float64 if has_float64(device) else torch.float32


def wide(values: Tensor) -> Tensor:
    """The values in float64: where they are, or on the CPU if their own device has none.

    Example:
        >>> wide(torch.ones(2)).dtype
        torch.float64
    """
    return values.double() if has_float64(values.device) else values.cpu().double()


def stored_bytes(tensor: Tensor) -> bytes:
    """The values of a tensor of any kind: a sparse one's as if it were dense, a quantized one's whole numbers.

    Example:
        >>> stored_bytes(torch.eye(2).to_sparse()) == stored_bytes(torch.eye(2))
        True
    """
    values = tensor.detach()
    if values.is_nested:
        values = torch.cat([one.flatten() for one in values.unbind()])
    if values.is_quantized:
        values = values.int_repr()
    values = values if values.layout == torch.strided else values.to_dense()
    values = values.resolve_conj().resolve_neg().cpu().contiguous()
    return bytes(values.flatten().view(torch.uint8).numpy().tobytes())


def in_fake_mode() -> bool:
    """Whether PyTorch computes shapes alone here: inside of FakeTensorMode.

    Example:
        >>> in_fake_mode()
        False
    """
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


@contextmanager
def own_random_state() -> Iterator[None]:
    """The global generators of PyTorch, NumPy and Python are afterwards as they were."""
    state = np.random.get_state(), random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            np.random.set_state(state[0])
            random.setstate(state[1])


def seed_all(device: torch.device) -> None:
    """Begin the global generators anew: those of Python, of NumPy, of PyTorch on the CPU and on the device.

    Example:
        >>> with own_random_state():
        ...     seed_all(torch.device("cpu"))
        ...     first = torch.rand(1)
        ...     seed_all(torch.device("cpu"))
        ...     torch.equal(first, torch.rand(1))
        True
    """
    random.seed(0)
    np.random.seed(0)
    if device.type == "cpu":  # (torch.manual_seed also formats the stack, for devices that are not there yet)
        torch.default_generator.manual_seed(0)
    else:
        torch.manual_seed(0)


def clock(device: torch.device) -> float:
    """Seconds, read when the device has done all that was asked of it; a GPU answers before it has done anything."""
    if device.type in ("cuda", "xpu"):  # of several the one that is meant
        torch.get_device_module(device).synchronize(device)
    elif device.type not in ("cpu", "meta"):
        torch.get_device_module(device).synchronize()
    return time.perf_counter()
