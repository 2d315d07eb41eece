"""What holds for every attribution method on every classifier: each check takes (spec, classifier, images, target).

The options that make a method quick are found by their names, so a method added later is picked up as it is. A method
that cannot explain a network refuses it with one clear line; `applies` says so.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.errors import ModelError
from phosphene.registry import Spec, entries, entry, format_spec, make_spec, parse_spec
from phosphene.targets import Target
from phosphene.types import Attribution
from tests.networks import pooled
from tests.transformers import VisionTransformer

# A way that goes where the gradient is smallest turns elsewhere for the last bit of a gradient.
ADAPTIVE = frozenset({"guided_ig"})

# Small values of the options that decide how long a method takes.
_QUICK: dict[str, Any] = {
    "masks": 6,
    "samples": 3,
    "steps": 4,
    "iterations": 2,
    "window": (4, 4),
    "stride": (4, 4),
    "components": 2,
    "segments": 4,
    "cells": 3,
    "scales": (5000.0,),
}

Explain = Callable[..., Attribution]


def method_names() -> list[str]:
    """Every registered attribution method."""
    return list(entries("attribution"))


def home(method: str) -> Callable[[], nn.Module]:
    """Makes a network that a method has to work on: plain and convolutional, or with attention where it needs that."""
    needs = entry("attribution", method).traits.get("needs")
    return VisionTransformer if needs == "attention" else pooled


def quick_spec(name: str, **options: Any) -> Spec:
    """A method with options that make it quick."""
    known = entry("attribution", name).options
    return make_spec(name, **({key: value for key, value in _QUICK.items() if key in known} | options))


def explain(
    spec: Spec, classifier: Classifier, images: Tensor, target: Target, *, seed: int | None = 0, **arguments: Any
) -> Attribution:
    """One call of a method, seeded where it draws random numbers."""
    found = entry("attribution", spec.name)
    if found.accepts("generator") and seed is not None:
        arguments["generator"] = torch.Generator().manual_seed(seed)
    return found.function(classifier, images, target, **spec.keywords, **arguments)  # type: ignore[no-any-return]


def applies(spec: Spec, classifier: Classifier, images: Tensor, target: Target) -> bool:
    """Whether a method can explain a network; a refusal is a ModelError of one line."""
    try:
        explain(spec, classifier, images[:1], replace(target, classes=target.classes[:1]))
    except ModelError as error:
        message = str(error)
    else:
        return True
    assert "\n" not in message
    assert len(message) > 20
    return False


def shape_and_device(spec: Spec, classifier: Classifier, images: Tensor, target: Target) -> None:
    """float32 maps (N, h, w) on the model's device with all that is needed for laying them on the picture."""
    got = explain(spec, classifier, images, target)
    count, size = len(images), tuple(images.shape[-2:])
    assert got.maps.ndim == 3
    assert len(got) == got.maps.shape[0] == count
    assert got.maps.dtype == torch.float32
    assert got.maps.device == classifier.device
    assert not got.maps.requires_grad
    assert got.score.shape == (count,)
    assert got.score.dtype == torch.float32
    assert got.size == size
    assert got.heat.ndim == 3
    assert got.evidence is None or tuple(got.evidence.shape) == (count, *size)
    assert min(*got.offset, *got.stride) > 0
    assert got.target == got.target.expand(count)
    assert len(got.problems) == count
    assert all(len(values) == count for values in got.checks.values())
    assert bool(torch.isfinite(got.maps).all())
    assert bool(got.maps.any())
    if not entry("attribution", spec.name).signed:
        assert bool((got.maps >= 0).all())
    assert got[0].maps.shape[0] == 1


def batch_equals_singles(
    spec: Spec, classifier: Classifier, images: Tensor, target: Target, tolerance: float = 1e-4
) -> None:
    """A batch of N gives what N calls give, whatever the size of the micro-batches; to rounding."""
    target = target.expand(len(images))
    together = explain(spec, classifier, images, target)
    parts = explain(spec, classifier, images, target, batch_size=2)
    singles = [explain(spec, classifier, images[i : i + 1], target.rows(i, i + 1)) for i in range(len(images))]
    for index, single in enumerate(singles):
        scale = float(single.heat.abs().max())
        for batch in (together, parts):
            assert float((batch.heat[index] - single.heat[0]).abs().max()) <= tolerance * scale
            assert float((batch.maps[index] - single.maps[0]).abs().max()) <= tolerance * float(single.maps.abs().max())
            assert float(batch.score[index]) == pytest.approx(float(single.score[0]), rel=1e-4, abs=1e-5)


def same_seed_same_map(spec: Spec, classifier: Classifier, images: Tensor, target: Target) -> None:
    """The same seed gives the same map to the last bit, and so does no seed at all, whatever torch's own state."""
    assert torch.equal(
        explain(spec, classifier, images, target, seed=3).maps, explain(spec, classifier, images, target, seed=3).maps
    )
    torch.manual_seed(1)
    first = explain(spec, classifier, images, target, seed=None).maps
    torch.manual_seed(2)
    assert torch.equal(first, explain(spec, classifier, images, target, seed=None).maps)


def any_context(spec: Spec, classifier: Classifier, images: Tensor, target: Target) -> None:
    """no_grad, inference_mode, autocast and images with a history change nothing, and the maps are plain tensors."""
    expected = explain(spec, classifier, images, target)
    contexts = [torch.no_grad(), torch.inference_mode(), torch.autocast(images.device.type, dtype=torch.bfloat16)]
    for context in contexts:
        with context:
            own = images.clone()
            got = explain(spec, classifier, own, target)
        for name in ("maps", "heat", "score"):
            value = getattr(got, name)
            assert value.dtype == torch.float32, f"{name} in {type(context).__name__}"
            assert not value.is_inference(), f"{name} in {type(context).__name__}"
            assert torch.equal(value, getattr(expected, name)), f"{name} in {type(context).__name__}"
        assert torch.equal(own, images)
    history = images.clone().requires_grad_()
    got = explain(spec, classifier, history * 1.0, target)
    assert torch.equal(got.maps, expected.maps)
    assert not got.maps.requires_grad
    assert history.grad is None


def leaves_no_trace(spec: Spec, classifier: Classifier, images: Tensor, target: Target) -> None:
    """The model in train mode with gradients, hooks and statistics of its own is as it was, and so is torch."""
    module = classifier.module
    module.train()
    for index, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(index % 2 == 0)
        parameter.grad = torch.full_like(parameter, 0.5) if index % 3 == 0 else None
    copy = images.clone()
    try:
        with unchanged(module):
            explain(spec, classifier, images, target)
            explain(spec, classifier, images, target, seed=None)
    finally:
        module.eval()
    assert torch.equal(images, copy)


def leaves_no_trace_when_thrown(spec: Spec, classifier: Classifier, images: Tensor, target: Target) -> None:
    """The same when the network, its backward pass or the progress callback throws; and it works afterwards."""
    images, target = images[:1], target.expand(len(images)).rows(0, 1)
    for when in ("forward", "backward"):
        bomb = Bomb(classifier.module, when)
        armed = classifier.with_module(bomb)
        expected = explain(spec, armed, images, target)
        with unchanged(bomb):
            for passes in range(1, 4):
                bomb.arm(passes)
                try:
                    explain(spec, armed, images, target)
                except Exception as error:
                    assert "boom" in str(error) or isinstance(error, ModelError)
                else:  # with fewer passes it never goes off, nor where a gradient ends before it
                    assert (when, passes) != ("forward", 1)
        bomb.arm(0)
        assert torch.allclose(explain(spec, armed, images, target).maps, expected.maps, atol=1e-6)
    if entry("attribution", spec.name).accepts("progress"):

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        with unchanged(classifier.module), pytest.raises(KeyboardInterrupt):
            explain(spec, classifier, images, target, progress=stop)


def spec_survives_its_spelling(spec: Spec, _classifier: Classifier, _images: Tensor, _target: Target) -> None:
    """parse(format(x)) == x."""
    assert parse_spec(format_spec(spec)) == spec
    assert parse_spec(spec.name) == Spec(spec.name) or parse_spec(spec.name).name == spec.name


CHECKS = (
    shape_and_device,
    batch_equals_singles,
    same_seed_same_map,
    any_context,
    leaves_no_trace,
    leaves_no_trace_when_thrown,
    spec_survives_its_spelling,
)


class Bomb(nn.Sequential):
    """A network behind a layer that throws in its n-th forward or backward pass, once armed."""

    def __init__(self, module: nn.Module, when: str) -> None:
        super().__init__(Fuse(when), module)

    def arm(self, passes: int) -> None:
        self[0].passes.value = passes  # type: ignore[union-attr]


class Fuse(nn.Identity):
    """The layer that throws; being of torch.nn, it stays whole in a graph.

    It counts where nothing that compares the attributes of modules looks: to be armed is no change of the network.
    """

    def __init__(self, when: str, passes: ctypes.c_int | None = None) -> None:
        super().__init__()
        self.when = when
        self.passes = ctypes.c_int(0) if passes is None else passes

    def __deepcopy__(self, memo: dict[int, Any]) -> Fuse:
        return Fuse(self.when, self.passes)  # the count is shared, so that a copy made earlier goes off as well

    def forward(self, x: Tensor) -> Tensor:
        if self.when == "forward":
            self.tick()
        x = x.clone()
        if self.when == "backward" and x.requires_grad:
            x.register_hook(lambda _gradient: self.tick())
        return x

    def tick(self) -> None:
        if self.passes.value > 0:
            self.passes.value -= 1
            if self.passes.value == 0:
                raise RuntimeError("boom")


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Fails unless the module and the state of torch, numpy and random are after as they were before."""
    before = _state(module)
    yield
    after = _state(module)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value == after[name], name


def _state(module: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {
        "torch random state": torch.get_rng_state().numpy().tobytes(),
        "numpy random state": repr(np.random.get_state()),
        "random state": random.getstate(),
        "gradients enabled": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default type": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    for name, child in module.named_modules():
        state[f"{name}: mode"] = child.training
        state[f"{name}: class"] = type(child)
        state[f"{name}: forward"] = child.__dict__.get("forward")
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            state[f"{name}: {kind}"] = dict(getattr(child, kind))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        state[f"{name}: identity"] = (id(tensor), tensor.data_ptr(), tensor._version)
        state[f"{name}: requires_grad"] = tensor.requires_grad
        state[f"{name}: value"] = tensor.detach().numpy(force=True).tobytes()
        grad = tensor.grad
        state[f"{name}: grad"] = None if grad is None else (id(grad), grad.numpy(force=True).tobytes())
        state[f"{name}: hooks"] = dict(tensor._backward_hooks or {})
    return state
