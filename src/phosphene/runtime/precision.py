"""What "exact" and "fast" mean on a device."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["exact", "fast"]


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """float32 for "exact"; for "fast" bfloat16 where the processor or GPU multiplies it in hardware, else float32."""
    if precision == "exact":
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if _processor_has_bfloat16() else torch.float32
    return torch.float32


def _processor_has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
