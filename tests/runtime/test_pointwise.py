"""1 x 1 convolutions whose order of sums can be chosen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.classifier import Classifier
from phosphene.graph import Kernel
from phosphene.runtime import input_gradient, jit
from phosphene.runtime.elementwise import Activation, Elementwise
from phosphene.runtime.fusion import _Chain
from phosphene.runtime.pointwise import PointwiseConvolution
from phosphene.runtime.prepare import prepare
from phosphene.types import Target

compiled = pytest.mark.skipif(not jit.available(), reason="kernels are compiled on processors with AVX-512 only")


def _in_blocks(images: Tensor, weight: Tensor, block: int) -> Tensor:
    """Sums of blocks of channels, then their sum; each rounded as a fused multiply-add is."""
    matrix, total = weight[:, :, 0, 0], torch.zeros(len(images), len(weight), *images.shape[2:])
    for start in range(0, images.shape[1], block):
        part = torch.zeros_like(total)
        for channel in range(start, min(start + block, images.shape[1])):
            product = images[:, channel, None].double() * matrix[:, channel, None, None].double()
            part = (part.double() + product).float()
        total = total + part
    return total


@compiled
@pytest.mark.parametrize("outputs", [16, 32, 48, 64, 80, 112, 176])
@pytest.mark.parametrize(("channels", "block"), [(40, 40), (40, 16), (7, 80), (96, 80)])
@pytest.mark.parametrize("places", [(1, 1, 1), (2, 3, 3), (3, 7, 5)])
def test_it_adds_up_as_it_is_told(outputs: int, channels: int, block: int, places: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    images, height, width = places
    given, weight = torch.randn(images, channels, height, width), torch.randn(outputs, channels, 1, 1)
    identity = Elementwise.of(outputs, None, None)
    assert torch.equal(PointwiseConvolution(weight, identity).run(given, block), _in_blocks(given, weight, block))

    behind = Elementwise(torch.rand(outputs), torch.randn(outputs), Activation(0.0, 6.0))
    expected = F.conv2d(given.double(), weight.double()) * behind.scale.double()[:, None, None]
    expected = (expected + behind.shift.double()[:, None, None]).clamp(0, 6)
    found = PointwiseConvolution(weight, behind).run(given, block)
    assert float((found - expected).abs().max()) <= 1e-5


@compiled
def test_it_takes_plain_products_only() -> None:
    def taken(*arguments: int, **options: object) -> bool:
        layer = nn.Conv2d(*arguments, **options)  # type: ignore[arg-type]
        return PointwiseConvolution.takes(layer, Kernel(layer.kernel_size, layer.stride, padding=layer.padding))

    assert taken(8, 32, 1, bias=False)
    assert not any((taken(8, 32, 1), taken(8, 24, 1, bias=False), taken(8, 32, 1, padding=1, bias=False)))
    assert not any((taken(8, 32, 1, 2, bias=False), taken(8, 32, 3, bias=False), taken(8, 32, 1, groups=2, bias=False)))


@compiled
@pytest.mark.parametrize("images", [1, 4])
def test_an_exact_pass_has_the_originals_order(images: int) -> None:
    """Many channels in small images, where the original adds up in blocks."""
    torch.manual_seed(0)
    layers = [part for width in (640, 320, 640) for part in (nn.LazyConv2d(width, 1, bias=False), nn.ReLU())]
    network = nn.Sequential(nn.Conv2d(3, 640, 3, padding=1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    batch = torch.rand(images, 3, 14, 14)
    network(batch)
    classifier = Classifier(network)
    _, found = input_gradient(classifier, batch, Target.of(1))
    batch.requires_grad_()
    (expected,) = torch.autograd.grad(network(batch)[:, 1].sum(), batch)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    chains = [vars(module).get("forward") for module in prepare(classifier).module.modules()]
    many = [chain for chain in chains if isinstance(chain, _Chain) and chain.convolution.in_channels == 640]
    assert len(many) == 2
    for chain in many:
        layer, given = chain.convolution, torch.randn(images, 640, 14, 14)
        expected = layer._conv_forward(given, layer.weight, None).clamp(min=0)
        assert torch.equal(chain.as_written([chain.activation])(given), expected)
