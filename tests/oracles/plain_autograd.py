"""What the methods give, by plain autograd on a module as it was written: each image alone, no code of the package.

Run on a module in float64 this is the truth; run on the same module in float32 it is what eager PyTorch makes of it.
Images are (N, C, H, W) in [0, 1], of the module's type; the head is a softmax.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Rule = Literal["deconvnet", "guided_backprop"]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Eager:
    """A module with the normalization in front of it.

    Args:
        module: in eval mode; its type is that of all that is computed.
        mean: per channel.
        std: per channel.
    """

    module: nn.Module
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def scores(self, image: Tensor) -> Tensor:
        """(K,) of one image (C, H, W), the first of what the module returns."""
        shape = (-1, 1, 1)
        normal = (image - image.new_tensor(self.mean).view(shape)) / image.new_tensor(self.std).view(shape)
        with _literal(), _Viewing():
            found = self.module(normal[None])
        return (found if isinstance(found, Tensor) else found[0]).flatten()

    def logits(self, images: Tensor) -> Tensor:
        """(N, K); recorded, as some networks lay hooks on their own values, which then have to ask for a gradient."""
        return torch.stack([self.scores(image.clone().requires_grad_()).detach() for image in images])

    def gradient(self, images: Tensor, classes: Sequence[int]) -> Tensor:
        """(N, C, H, W): d score of the class / d image."""
        return torch.stack([self._gradient(image, index) for image, index in zip(images, classes, strict=True)])

    def _gradient(self, image: Tensor, index: int) -> Tensor:
        leaf = image.clone().requires_grad_()
        with _literal():  # (on the way back too, where what is checkpointed runs again)
            (found,) = torch.autograd.grad(self.scores(leaf)[index], leaf, allow_unused=True)
        return torch.zeros_like(leaf) if found is None else found

    def saliency(self, images: Tensor, classes: Sequence[int]) -> Tensor:
        return self.gradient(images, classes).abs().amax(1)

    def input_x_gradient(self, images: Tensor, classes: Sequence[int]) -> Tensor:
        return (images * self.gradient(images, classes)).sum(1)

    def integrated_gradients(self, images: Tensor, classes: Sequence[int], steps: int) -> Tensor:
        """From black, by Gauss-Legendre quadrature."""
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        total = torch.zeros_like(images)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            total += weight / 2 * self.gradient(images * (node + 1) / 2, classes)
        return (images * total).sum(1)

    def layer(self, images: Tensor, classes: Sequence[int], name: str) -> tuple[Tensor, Tensor]:
        """(outputs, gradients there) of a layer that runs once; what follows in place does not reach the outputs.

        Hooks that others laid on the output, or on the way to it, are run.
        """
        rows = [self._layer(image, index, name) for image, index in zip(images, classes, strict=True)]
        return torch.stack([output for output, _ in rows]), torch.stack([gradient for _, gradient in rows])

    def _layer(self, image: Tensor, index: int, name: str) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []

        def hook(_module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
            kept.append(output)
            return output.clone()

        handle = self.module.get_submodule(name).register_forward_hook(hook)
        try:
            score = self.scores(image.clone().requires_grad_())[index]
        finally:
            handle.remove()
        with _literal():
            (gradient,) = torch.autograd.grad(score, kept[-1], allow_unused=True)
        output = kept[-1].detach()[0]
        return output, torch.zeros_like(output) if gradient is None else gradient[0]

    def grad_cam(self, images: Tensor, classes: Sequence[int], name: str) -> Tensor:
        outputs, gradients = self.layer(images, classes, name)
        return (gradients.mean((2, 3), keepdim=True) * outputs).sum(1)

    def hires_cam(self, images: Tensor, classes: Sequence[int], name: str) -> Tensor:
        outputs, gradients = self.layer(images, classes, name)
        return (gradients * outputs).sum(1)

    def cam(self, images: Tensor, classes: Sequence[int], pool: str, head: str) -> Tensor:
        """Of a network that ends in a pool and a linear layer of these names."""
        features: list[Tensor] = []
        layer = self.module.get_submodule(pool)
        handle = layer.register_forward_pre_hook(lambda _module, given: features.append(given[0].detach()[0]))
        try:
            self.logits(images)
        finally:
            handle.remove()
        weight = self.module.get_submodule(head).weight.detach()[list(classes)]
        return torch.einsum("nk,nkhw->nhw", weight, torch.stack(features))

    def occlusion(self, images: Tensor, classes: Sequence[int], boxes: Sequence[Box], fill: float = 0.0) -> Tensor:
        """(N, boxes): the probability with each box covered."""
        rows = []
        for image, index in zip(images, classes, strict=True):
            copies = image.repeat(len(boxes), 1, 1, 1)
            for copied, (y0, x0, y1, x1) in zip(copies, boxes, strict=True):
                copied[:, y0:y1, x0:x1] = fill
            rows.append(self.logits(copies).softmax(1)[:, index])
        return torch.stack(rows)

    def reconstruction(self, images: Tensor, classes: Sequence[int], rule: Rule) -> Tensor:
        """(N, C, H, W): what a rule for ReLUs brings back."""
        with rectified(rule):
            return self.gradient(images, classes)


def boxes(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> list[Box]:
    """(y0, x0, y1, x1) of windows at every stride up to the edge, cut off there."""
    return [
        (y, x, min(y + window[0], size[0]), min(x + window[1], size[1]))
        for y in range(0, size[0], stride[0])
        for x in range(0, size[1], stride[1])
    ]


@contextmanager
def _literal() -> Iterator[None]:
    """Batch and instance normalization by their formulas.

    PyTorch's own have a wrong gradient where strides of axes of length 1 are not what the layout makes them, as those
    of one image alone behind a transposition (2.13, in float64 too; finite differences agree with the formulas).
    """
    with patch.object(F, "batch_norm", _batch_norm), patch.object(F, "instance_norm", _instance_norm):
        yield


class _Viewing(TorchFunctionMode):
    """As the formulas lay values out in their own way, a view may have to be a copy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_view = func is Tensor.view and not any(isinstance(item, torch.dtype) for item in args[1:])
        return (Tensor.reshape if is_view else func)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    given = None if training else (running_mean, running_var)
    return _normed(x, (0, *range(2, x.ndim)), given, weight, bias, eps)


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    given = None if use_input_stats else (running_mean, running_var)
    return _normed(x, tuple(range(2, x.ndim)), given, weight, bias, eps)


def _normed(
    x: Tensor, dims: tuple[int, ...], given: Any, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    def shaped(values: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * (x.ndim - 2))

    if given is None:
        if x[:, 0].numel() == 1 and 0 in dims:
            raise ValueError(f"a batch norm of one value for each channel: {tuple(x.shape)}")
        mean = x.mean(dims, keepdim=True)
        variance = (x - mean).square().mean(dims, keepdim=True)
    else:
        mean, variance = map(shaped, given)
    found = (x - mean) / (variance + eps).sqrt()
    found = found if weight is None else found * shaped(weight)
    return found if bias is None else found + shaped(bias)


@contextmanager
def rectified(rule: Rule) -> Iterator[None]:
    """ReLUs and ReLU6s, whatever they are called by, pass back by a rule."""
    with _Rectified(rule):
        yield


class _Rectified(TorchFunctionMode):
    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        upper = _upper(name.strip("_"), args, kwargs)
        if upper is None:
            return func(*args, **kwargs)
        values = args[0] if args else kwargs["input"]
        found = _Rule.apply(values, upper, self.rule)
        in_place = name.endswith("_") or kwargs.get("inplace") or any(item is True for item in args[1:])
        return values.copy_(found) if in_place else found


def _upper(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """Where a call saturates if it is a rectifier, else None."""
    if name in ("relu", "relu6"):
        return 6.0 if name == "relu6" else float("inf")
    if name == "clamp" and (kwargs.get("min"), kwargs.get("max"), args[1:]) == (0, None, ()):
        return float("inf")
    if name == "hardtanh" and (*args[1:3], kwargs.get("min_val"), kwargs.get("max_val"))[:2] == (0.0, 6.0):
        return 6.0
    return None


class _Rule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, upper: float, rule: Rule) -> Tensor:
        ctx.save_for_backward(values.clone())
        ctx.upper, ctx.rule = upper, rule
        return values.clamp(0, upper)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (values,) = ctx.saved_tensors
        passed = gradient > 0
        if ctx.rule == "guided_backprop":
            passed &= (values > 0) & (values < ctx.upper)
        return gradient * passed, None, None
