"""3 x 3 convolutions in tiles of 4 x 4 inputs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from phosphene.classifier import Classifier
from phosphene.graph import Kernel
from phosphene.kernels.convolution import Convolution
from phosphene.kernels.elementwise import Activation
from phosphene.kernels.jit import writer
from phosphene.kernels.jit.elementwise import Elementwise
from phosphene.kernels.jit.winograd import Winograd
from phosphene.runtime import forward, input_gradient
from phosphene.runtime.prepare import prepare
from phosphene.types import Target

compiled = pytest.mark.skipif(not writer.available(), reason="kernels are compiled on processors with AVX-512 only")
CLOSE = {torch.float32: 1e-6, torch.bfloat16: 2e-2}
PADDED = Kernel((3, 3), (1, 1), padding=(1, 1))


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("images", "height", "width", "padding"), [
    (1, 4, 4, 1), (2, 5, 9, 1), (3, 8, 7, 0), (1, 6, 3, 2), (1, 1, 1, 1), (2, 33, 2, 1),
])  # fmt: skip
def test_it_is_the_convolution(
    dtype: torch.dtype, turned: bool, images: int, height: int, width: int, padding: int
) -> None:
    torch.manual_seed(0)
    weight, shift = torch.randn(32, 48, 3, 3).to(dtype), torch.randn(48 if turned else 32)
    given = torch.randn(images, 32 if turned else 48, height, width).to(dtype)
    behind = Elementwise(torch.ones_like(shift), shift, Activation(0.0, 6.0))
    found = Winograd(weight, behind, turned=turned).run(given, [padding, padding])
    kernel = weight.transpose(0, 1).flip(2, 3) if turned else weight
    sums = F.conv2d(given.double(), kernel.double(), shift.double(), padding=padding)
    assert found.dtype == dtype
    assert found.shape == sums.shape
    assert float((found - sums.clamp(0, 6)).abs().max()) <= CLOSE[dtype] * float(sums.abs().max())


@compiled
def test_many_tiles_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last part is smaller, and after another size has been seen."""
    torch.manual_seed(0)
    weight = torch.randn(16, 16, 3, 3)
    tiled = Winograd(weight, Elementwise.of(16, None, None))
    for images, side in ((3, 14), (2, 15), (3, 14), (5, 6)):
        given = torch.randn(images, 16, side, side)
        expected = F.conv2d(given.double(), weight.double(), padding=1)
        for cached in (1, 16 * 32 * 8 * 4, 1 << 30):
            monkeypatch.setattr("phosphene.kernels.jit.winograd._CACHED", cached)
            found = tiled.run(given, [1, 1])
            assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


@compiled
def test_what_is_no_number_stays_where_it_is_seen() -> None:
    given = torch.randn(1, 64, 12, 12)
    given[0, 3, 0, 0] = torch.nan
    found = Winograd(torch.randn(64, 64, 3, 3), Elementwise.of(64, None, None)).run(given, [1, 1])
    assert found[0, :, :2, :2].isnan().all()
    assert not found[0, :, 4:, 4:].isnan().any()


@compiled
def test_it_takes_what_it_is_faster_at() -> None:
    def taken(*size: int, groups: int = 1, **options: tuple[int, int]) -> bool:
        kernel = Kernel(size[2:], options.pop("stride", (1, 1)), padding=(1, 1), **options)  # type: ignore[arg-type]
        return Winograd.takes(torch.zeros(size), kernel, groups)

    assert taken(64, 128, 3, 3)
    assert not any((taken(64, 72, 3, 3), taken(64, 48, 3, 3), taken(64, 64, 1, 1), taken(64, 64, 3, 5)))
    assert not any((taken(64, 64, 3, 3, stride=(2, 1)), taken(64, 64, 3, 3, dilation=(2, 2))))
    assert not taken(64, 64, 3, 3, groups=2)
    assert Winograd.fits(torch.Size([1, 64, 4, 4]), [1, 1])
    assert not Winograd.fits(torch.Size([8, 64, 9, 3]), [1, 1])


@compiled
def test_wrong_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="64 channels was given 32"):
        Winograd(torch.zeros(64, 64, 3, 3), Elementwise.of(64, None, None)).run(torch.zeros(1, 32, 8, 8), [1, 1])


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_convolution_runs_in_tiles_unless_the_definition_is_asked_for(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    convolution = Convolution(torch.randn(64, 64, 3, 3), torch.randn(64), PADDED, 1, Activation(), dtype)
    given = torch.randn(2, 64, 10, 11)
    tiled, defined = convolution.run(given), convolution.run(given, direct=True)
    assert not torch.equal(tiled, defined)
    assert float((tiled - defined).abs().max()) <= CLOSE[dtype] * float(defined.abs().max())
    padded = convolution.run(F.pad(given, (1, 1, 1, 1)), padded=True)
    assert float((padded - defined).abs().max()) <= CLOSE[dtype] * float(defined.abs().max())


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for stride in (1, 2, 1):
        layers += [nn.Conv2d(64, 64, 3, stride, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    return network.eval()


@pytest.mark.parametrize("images", [1, 3])
def test_a_network_gives_what_it_gave_there_and_back(images: int) -> None:
    network, batch = _network(), torch.rand(images, 3, 18, 21)
    classifier = Classifier(network)
    leaf = batch.clone().requires_grad_()
    expected = network(leaf)
    (gradient,) = torch.autograd.grad(expected[:, 2].sum(), leaf)
    for _ in range(2):
        torch.testing.assert_close(forward(classifier, batch), expected.detach(), rtol=1e-5, atol=1e-5)
        _, found = input_gradient(classifier, batch, Target.of(2))
        assert float((found - gradient).abs().max()) <= 2e-6 * float(gradient.abs().max())
    twin = copy.deepcopy(prepare(classifier).module)
    torch.testing.assert_close(twin(batch), expected.detach(), rtol=1e-5, atol=1e-5)
