"""Convolutions that add up sixteen channels at a time, as oneDNN does for contiguous images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.classifier import Classifier
from phosphene.graph import Kernel, convolution_kernel
from phosphene.runtime import input_gradient, jit
from phosphene.runtime.dense import DenseConvolution
from phosphene.runtime.elementwise import Activation, Elementwise
from phosphene.runtime.fusion import _Chain
from phosphene.runtime.prepare import prepare
from phosphene.types import Target

compiled = pytest.mark.skipif(not jit.available(), reason="kernels are compiled on processors with AVX-512 only")


def _kernel(layer: nn.Conv2d) -> Kernel:
    kernel = convolution_kernel(layer)
    assert kernel is not None
    return kernel


def _by_sixteen(images: Tensor, layer: nn.Conv2d) -> Tensor:
    """The sums of 16 channels, tap by tap and channel by channel, each rounded as a fused multiply-add is; added up."""
    weight, (rows, columns), (down, right) = layer.weight, layer.kernel_size, layer.stride
    top, left = (int(side) for side in layer.padding)
    padded = F.pad(images, (left, left, top, top))
    size = F.conv2d(images, weight, None, layer.stride, (top, left)).shape
    total = torch.zeros(size) if layer.bias is None else layer.bias[:, None, None].expand(size)
    for start in range(0, images.shape[1], 16):
        part = torch.zeros(size)
        for y in range(rows):
            for x in range(columns):
                seen = padded[:, :, y::down, x::right][:, :, : size[2], : size[3]]
                for channel in range(start, start + 16):
                    product = seen[:, channel, None].double() * weight[:, channel, y, x, None, None].double()
                    part = (part.double() + product).float()
        total = total + part
    return total


@compiled
@torch.no_grad()
@pytest.mark.parametrize(("outputs", "taps", "stride", "padding"), [
    (16, 3, 1, 1), (32, 3, 1, 0), (48, (1, 3), 1, (0, 1)), (64, 3, 2, 1), (80, 5, (1, 2), 2), (32, 2, 2, 0),
])  # fmt: skip
@pytest.mark.parametrize("size", [(1, 16, 5, 6), (3, 48, 7, 7), (2, 32, 9, 30)])
def test_it_adds_up_by_sixteen(
    outputs: int, taps: int, stride: int, padding: int, size: tuple[int, int, int, int]
) -> None:
    torch.manual_seed(0)
    for bias in (False, True):
        layer, given = nn.Conv2d(size[1], outputs, taps, stride, padding, bias=bias), torch.randn(size)
        behind = Elementwise.of(outputs, None, None)
        found = DenseConvolution.of(layer, _kernel(layer), behind).run(given)
        assert torch.equal(found, _by_sixteen(given, layer))


@compiled
@torch.no_grad()
def test_strips_and_groups_of_them_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, given = nn.Conv2d(32, 64, 3, padding=1), torch.randn(5, 32, 11, 13)
    behind = Elementwise(torch.rand(64), torch.randn(64), Activation(0.0, 6.0))
    expected = F.conv2d(given.double(), layer.weight.double(), layer.bias.double(), padding=1)  # type: ignore[union-attr]
    expected = (expected * behind.scale.double()[:, None, None] + behind.shift.double()[:, None, None]).clamp(0, 6)
    first = DenseConvolution.of(layer, _kernel(layer), behind).run(given)
    assert float((first - expected).abs().max()) <= 1e-5
    for cached in (1, 4000, 1 << 20):
        for near in (1, 30_000, 1 << 30):
            monkeypatch.setattr("phosphene.runtime.dense._CACHED", cached)
            monkeypatch.setattr("phosphene.runtime.dense._NEAR", near)
            assert torch.equal(DenseConvolution.of(layer, _kernel(layer), behind).run(given), first)


@compiled
def test_it_takes_whole_groups_of_channels_only() -> None:
    def taken(*arguments: int, **options: int) -> bool:
        layer = nn.Conv2d(*arguments, **options)  # type: ignore[arg-type]
        return DenseConvolution.takes(layer, _kernel(layer))

    assert taken(16, 32, 3)
    assert not any((taken(3, 32, 3), taken(16, 24, 3), taken(16, 32, 1), taken(16, 32, 3, dilation=2)))
    assert not taken(32, 32, 3, groups=2)
    layer = nn.Conv2d(16, 16, 3)
    dense = DenseConvolution.of(layer, _kernel(layer), Elementwise.of(16, None, None))
    with pytest.raises(ValueError, match="16 channels was given 32"):
        dense.run(torch.zeros(1, 32, 8, 8))


@compiled
@pytest.mark.parametrize("images", [1, 4])
def test_an_exact_pass_has_the_originals_order(images: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 96, 3, 2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 4),
    ).eval()  # fmt: skip
    batch = torch.rand(images, 3, 20, 24)
    classifier = Classifier(network)
    _, found = input_gradient(classifier, batch, Target.of(1))
    leaf = batch.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(leaf)[:, 1].sum(), leaf)
    assert float((found - expected).abs().max()) <= 2e-6 * float(expected.abs().max())
    chains = [vars(module).get("forward") for module in prepare(classifier).module.modules()]
    dense = [chain for chain in chains if isinstance(chain, _Chain) and chain.convolution.in_channels >= 64]
    assert len(dense) == 2
    for chain in dense:
        size = (20, 24)
        given, taken = torch.randn(images, chain.convolution.in_channels, *size), chain.swallowed()
        with torch.no_grad():
            expected = chain.convolution._conv_forward(given, chain.convolution.weight, chain.convolution.bias)
            for module in taken:
                expected = type(module).forward(module, expected)
            assert torch.equal(chain.as_written(taken)(given), expected)
