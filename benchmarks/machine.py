"""The machine: what it is, and what it can do at most."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F


def describe() -> dict[str, Any]:
    """Processor, cores, threads and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(memory, 1),
        "bfloat16": [name for name in ("avx512_bf16", "amx_tile") if getattr(torch.cpu, f"_is_{name}_supported")()],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def ceilings() -> dict[str, float]:
    """What the machine reaches at best: GFLOP/s of matrix products, GB/s of a copy.

    The float32 ceiling is the better of PyTorch's matrix product and of oneDNN's, which differ by processor.
    """
    return {
        "gemm_float32_gflops": max(_gemm(torch.float32), _pointwise()),
        "gemm_float32_mm_gflops": _gemm(torch.float32),
        "gemm_bfloat16_gflops": _gemm(torch.bfloat16),
        "copy_gb_s": _copy(),
    }


def best_seconds(work: Callable[[], Any], repeats: int = 7) -> float:
    """The fastest of several runs after a warm-up: a ceiling is what was reached once."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _gemm(dtype: torch.dtype) -> float:
    found = []
    for side in (512, 1024, 2048):
        first, second = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
        out = torch.empty_like(first)
        seconds = best_seconds(lambda first=first, second=second, out=out: torch.mm(first, second, out=out))
        found.append(2 * side**3 / seconds / 1e9)
    return max(found)


def _pointwise() -> float:
    """A 1 x 1 convolution is a matrix product too; in channels last oneDNN does it."""
    found = []
    with torch.no_grad():
        for channels, side in ((512, 28), (1024, 32), (1024, 64)):
            images = torch.randn(2, channels, side, side).contiguous(memory_format=torch.channels_last)
            weight = torch.randn(channels, channels, 1, 1).contiguous(memory_format=torch.channels_last)
            operation = torch.ops.mkldnn._convolution_pointwise if torch._C._has_mkldnn else None

            def run(images: Any = images, weight: Any = weight, operation: Any = operation) -> Any:
                if operation is None:
                    return F.conv2d(images, weight)
                return operation(images, weight, None, [0, 0], [1, 1], [1, 1], 1, "none", [], "")

            found.append(2 * 2 * side**2 * channels**2 / best_seconds(run) / 1e9)
    return max(found)


def _copy() -> float:
    source = torch.empty(64 << 20).fill_(1.0)
    target = torch.empty_like(source)
    seconds = best_seconds(lambda: target.copy_(source))
    return 2 * source.numel() * 4 / seconds / 1e9


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
