"""How close to the machine: our share of the measured ceiling of matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.images import photographs
from benchmarks.machine import best_seconds, ceilings
from benchmarks.works.networks import embedded
from phosphene.runtime import forward, input_gradient, prepare
from phosphene.targets import Target


def roofline(images: int = 32) -> dict[str, Any]:
    """Ceilings, FLOPs of the network, and the share of the float32 ceiling that our passes reach."""
    found: dict[str, Any] = {**ceilings(), "network": "efficientnet_lite0", "images": images}
    exact, batch = prepare(embedded()), photographs(images)
    target = Target.of(0)
    forward_flops, both_flops = _flops(gradient=False), _flops(gradient=True)
    for name, flops, seconds in (
        ("forward", forward_flops, best_seconds(lambda: forward(exact, batch), 5)),
        ("forward_and_input_gradient", both_flops, best_seconds(lambda: input_gradient(exact, batch, target), 5)),
    ):
        reached = flops * images / seconds / 1e9
        found[name] = {
            "gflop_per_image": flops / 1e9,
            "ms_per_image": 1e3 * seconds / images,
            "gflops": reached,
            "share_of_gemm": reached / found["gemm_float32_gflops"],
            "share_of_mm": reached / found["gemm_float32_mm_gflops"],
        }
    return _rounded(found)


def _flops(*, gradient: bool) -> float:
    """Floating-point operations of one image on the network as it was loaded, a multiply-add counting as two."""
    image = photographs(1).requires_grad_(gradient)
    for parameter in embedded().module.parameters():
        parameter.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        logits = embedded().logits(image)
        if gradient:
            torch.autograd.grad(logits[:, 0].sum(), image)
    return float(counter.get_total_flops())


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
