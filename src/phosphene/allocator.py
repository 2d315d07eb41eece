"""Keeping freed memory: glibc gives large activations back to the system and faults them in anew at each step."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import sys
from functools import cache

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_KEEP_BELOW = 1 << 30


_KEPT: list[bool] = []


def keeps_freed_memory() -> bool:
    """Whether `keep_freed_memory` was asked for in this process, and could be had."""
    return bool(_KEPT and _KEPT[-1])


@cache
def keep_freed_memory() -> bool:
    """Ask glibc, once, to reuse blocks below 1 GiB, of one arena for all threads; elsewhere nothing happens.

    Whether it was set.

    It counts for the whole process, so the library does not do it by itself; the command does. Passes over several
    images take a tenth to a fifth less time, and the process keeps the memory of its largest pass. With an arena for
    each thread what one thread frees is no use to another, and over thousands of pictures memory grows by a fourth.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = _libc().mallopt
    except (OSError, AttributeError):  # another C library
        return False
    wanted = ((_M_MMAP_THRESHOLD, _KEEP_BELOW), (_M_TRIM_THRESHOLD, _KEEP_BELOW), (_M_ARENA_MAX, 1))
    _KEPT.append(all(bool(mallopt(name, value)) for name, value in wanted))
    return _KEPT[-1]


def give_back_freed_memory() -> None:
    """Give the system what is free, where `keep_freed_memory` keeps it: once a shard of pictures, not at each pass.

    Pictures and maps of many sizes leave holes between what lives longer: without it a process that goes through
    thousands of pictures grows by 8 MB a hundred.
    """
    if keeps_freed_memory():
        gc.collect()
        _libc().malloc_trim(0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6")
