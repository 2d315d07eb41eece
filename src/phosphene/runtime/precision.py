"""What "exact" and "fast" mean on a device, and for which passes."""

from __future__ import annotations

from typing import Literal

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
