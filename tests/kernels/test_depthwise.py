"""Depthwise convolutions with norm and activation before and behind: what they make, there and back."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier
from phosphene.graph import Kernel
from phosphene.kernels.chain import Chain, Passage
from phosphene.kernels.elementwise import Activation, Elementwise
from phosphene.kernels.jit import depthwise, depthwise_kernel, writer
from phosphene.kernels.jit.depthwise import Depthwise, Projection, available
from phosphene.kernels.jit.passages import DepthwisePassage
from phosphene.runtime import forward, input_gradient
from phosphene.runtime.prepare import prepare
from phosphene.targets import Target
from phosphene.tasks.impressions import impress
from phosphene.zoo import load_classifier

compiled = pytest.mark.skipif(not available(), reason="kernels are compiled for AVX2 and AVX-512 alone")

_RELU6 = Activation(0.0, 6.0)


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-3).eval().requires_grad_(False)
    norm.running_mean, norm.running_var = torch.randn(channels), torch.rand(channels) + 0.5
    norm.weight.normal_()
    norm.bias.normal_()
    return norm


def _expected(
    images: Tensor, weight: Tensor, kernel: Kernel, norms: tuple[nn.BatchNorm2d, nn.BatchNorm2d], gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """(output, gradient behind the first norm) one operation after the other, in float64."""
    (above, below), (left, right) = kernel.pads(images.shape[-2:])
    before, behind = (nn.BatchNorm2d(len(weight), eps=1e-3).eval().double() for _ in norms)
    before.load_state_dict(norms[0].state_dict())
    behind.load_state_dict(norms[1].state_dict())
    normed = before(images.double()).detach().requires_grad_()
    padded = F.pad(normed.clamp(0, 6), (left, right, above, below))
    filtered = F.conv2d(padded, weight.double(), None, kernel.stride, 0, 1, len(weight))
    output = behind(filtered).clamp(min=0)
    (found,) = torch.autograd.grad(output, normed, gradient.double())
    return output.detach(), found


@compiled
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1), (3, 1)])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("padding", [None, (0, 0), (1, 1), (3, 2)])
@pytest.mark.parametrize("size", [(16, 8, 13), (48, 15, 9), (112, 7, 16)])
def test_there_and_back_by_the_formula(
    size: tuple[int, int, int], padding: tuple[int, int] | None, side: int, stride: tuple[int, int], images: int
) -> None:
    torch.manual_seed(0)
    kernel, shape = Kernel((side, side), stride, padding=padding), torch.Size((images, *size))
    if not Depthwise.fits(kernel, shape):
        kernel = Kernel((side, side), (1, 1), padding=(side // 2, side // 2))
    given, weight, norms = 3 * torch.randn(shape), torch.randn(size[0], 1, side, side), (_norm(size[0]), _norm(size[0]))
    gradient = torch.randn(images, size[0], *kernel.outputs(size[1:]))
    expected, expected_back = _expected(given, weight, kernel, norms, gradient)

    before, behind = Elementwise.of(size[0], norms[0], _RELU6), Elementwise.of(size[0], norms[1], Activation())
    for dtype, error in ((torch.float32, 2e-6), (torch.bfloat16, 3e-2)):
        filter_ = Depthwise(weight, kernel, shape, before, behind, dtype)
        # The bits of float32: rounded inputs lie on the other side of a kink here and there.
        _, bits = Depthwise(weight, kernel, shape, before, behind).forward(given, keep=True)
        assert torch.equal(filter_.forward(given)[0], filter_.forward(given, keep=True)[0])
        found = filter_.backward(gradient, bits)
        assert found.dtype == dtype
        assert float((filter_.forward(given)[0] - expected).abs().max()) <= error * float(expected.abs().max())
        assert float((found - expected_back).abs().max()) <= error * float(expected_back.abs().max())


@compiled
@pytest.mark.parametrize(
    ("channels", "narrow", "side"), [(96, 16, 30), (240, 40, 28), (80, 3, 11), (32, 24, 9), (112, 20, 8)]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_it_makes_what_it_filters(channels: int, narrow: int, side: int, stride: int) -> None:
    torch.manual_seed(0)
    weight, widening = torch.randn(channels, 1, 5, 5), torch.randn(channels, narrow, 1, 1)
    kernel, norm, given = (
        Kernel((5, 5), (stride, stride), padding=None),
        _norm(channels),
        torch.randn(3, narrow, side, side),
    )
    before, behind = Elementwise.of(channels, norm, _RELU6), Elementwise.of(channels, activation=Activation())
    wide = Depthwise(weight, kernel, given.shape, before, behind, widening=widening)
    plain = F.conv2d(given, widening)
    assert Depthwise.widens(given.shape) == depthwise.is_wide()
    assert wide.wide == plain.shape
    output, bits = wide.forward(given, keep=True)
    expected, expected_bits = Depthwise(weight, kernel, plain.shape, before, behind).forward(plain, keep=True)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(wide.forward(given)[0], output)
    assert sum(int((a != b).sum()) for a, b in zip(bits, expected_bits, strict=True)) <= 3  # (values at a kink)


@compiled
@pytest.mark.parametrize("outputs", [8, 16, 24, 40, 50, 56, 63, 80, 100, 192])
@pytest.mark.parametrize(("channels", "narrow"), [(32, None), (96, 16), (48, 3)])
@pytest.mark.parametrize(("side", "stride", "images"), [(9, 1, 3), (13, 2, 1), (30, 1, 2)])
def test_it_makes_less_of_what_it_filtered(
    outputs: int, channels: int, narrow: int | None, side: int, stride: int, images: int
) -> None:
    torch.manual_seed(0)
    weight, projection = torch.randn(channels, 1, 3, 3), torch.randn(outputs, channels, 1, 1) / 30
    widening = None if narrow is None else torch.randn(channels, narrow, 1, 1)
    kernel, norm = Kernel((3, 3), (stride, stride), padding=None), _norm(channels)
    before, behind = Elementwise.of(channels, norm, _RELU6), Elementwise.of(channels, activation=Activation())
    given = torch.randn(images, narrow or channels, side, side)
    filter_ = Depthwise(weight, kernel, given.shape, before, behind, widening=widening)
    filtered, bits = filter_.forward(given, keep=True)
    assert Projection.takes(projection) == depthwise.is_wide()
    last = Elementwise(torch.rand(outputs), torch.randn(outputs), Activation(-1.0, 2.0))
    projecting = replace(filter_, projection=Projection.of(projection, last))
    found, found_bits = projecting.forward(given, keep=True)
    expected = F.conv2d(filtered.double(), projection.double()) * last.scale.double()[:, None, None]
    expected = (expected + last.shift.double()[:, None, None]).clamp(-1, 2)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 2e-5
    assert torch.equal(projecting.forward(given)[0], found)
    assert all(torch.equal(a, b) for a, b in zip(found_bits, bits, strict=True) if a is not None and b is not None)
    assert torch.equal(filter_.forward(given)[0], filtered)


@compiled
def test_no_number_stays_none_and_is_let_through() -> None:
    given = torch.ones(1, 16, 8, 8)
    given[0, 3, 4, 4] = torch.nan
    identity, cut = Elementwise.of(16), Elementwise.of(16, activation=Activation())
    filter_ = Depthwise(torch.ones(16, 1, 3, 3), Kernel((3, 3), padding=(1, 1)), given.shape, cut, identity)
    output, bits = filter_.forward(given, keep=True)
    assert int(output.isnan().sum()) == 9
    back = filter_.backward(torch.ones_like(output), bits)
    assert back[0, 3, 4, 4] == torch.ops.aten.threshold_backward(torch.tensor(9.0), torch.tensor(torch.nan), 0.0) == 9


@compiled
def test_what_is_infinite_is_let_through_a_relu() -> None:
    given = torch.full((1, 16, 4, 4), torch.inf)
    cut, identity = Elementwise.of(16, activation=Activation()), Elementwise.of(16)
    filter_ = Depthwise(torch.ones(16, 1, 1, 1), Kernel((1, 1)), given.shape, cut, identity)
    output, bits = filter_.forward(given, keep=True)
    assert (output == torch.inf).all()
    assert (filter_.backward(torch.ones_like(output), bits) == 1).all()


@compiled
def test_other_numbers_of_channels_are_refused() -> None:
    identity = Elementwise.of(48)
    filter_ = Depthwise(torch.ones(48, 1, 3, 3), Kernel((3, 3)), torch.Size((1, 48, 9, 9)), identity, identity)
    with pytest.raises(ValueError, match=r"\(1, 48, 9, 9\) was given \(1, 16, 9, 9\)"):
        filter_.forward(torch.ones(1, 16, 9, 9))
    network = prepare(Classifier(nn.Sequential(nn.Conv2d(48, 48, 3, groups=48), nn.ReLU()))).module
    with torch.no_grad(), pytest.raises(RuntimeError, match="channels"):
        network(torch.rand(1, 16, 20, 20))


def test_a_copy_makes_its_own_operations() -> None:
    prepared, batch = prepare(Classifier(_mobile(side=1))), torch.rand(2, 3, 40, 44)
    expected = prepared.logits(batch).detach()
    copied, loaded = copy.deepcopy(prepared.module), pickle.loads(pickle.dumps(prepared.module))
    for module in (copied, loaded):
        chains = [chain for chain in map(_chain, module.modules()) if chain is not None]
        assert len(chains) == 6
        assert not any(chain._operations or chain._passages for chain in chains)
    normed = prepared.preprocess.normalize(batch)
    with torch.no_grad():
        assert torch.equal(copied(normed), loaded(normed))
        assert float((copied(normed) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_the_default_type_of_tensors_does_not_matter() -> None:
    classifier, batch = Classifier(_mobile(side=1)), torch.rand(2, 3, 40, 44)
    expected = _gradient(_mobile(side=1), batch)
    torch.set_default_dtype(torch.float64)
    try:
        _, found = input_gradient(classifier, batch, Target.of(1))
    finally:
        torch.set_default_dtype(torch.float32)
    assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def test_hooks_of_all_modules_see_each_layer() -> None:
    network, batch, seen = _mobile(side=1), torch.rand(1, 3, 40, 44), []
    with torch.nn.modules.module.register_module_forward_hook(
        lambda _module, _inputs, output: seen.append(output.shape)
    ):
        network(batch)
        expected = list(seen)
        seen.clear()
        prepare(Classifier(network)).logits(batch)
    assert seen[-len(expected) :] == expected


@compiled
def test_filters_run_side_by_side() -> None:
    torch.manual_seed(0)
    part = Elementwise.of(32, activation=_RELU6)
    size = torch.Size((4, 32, 20, 20))
    filter_ = Depthwise(torch.randn(32, 1, 5, 5), Kernel((5, 5), padding=(2, 2)), size, part, part)
    batches = [torch.randn(4, 32, 20, 20) for _ in range(16)]
    expected = [filter_.forward(batch)[0].clone() for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: filter_.forward(batch)[0], batches * 4))
    assert all(map(torch.equal, found, expected * 4))


def _mobile(side: int = 3) -> nn.Module:
    """A few inverted residuals' worth of layers: dense ones and depthwise ones in turn, some with a bias, two at once.

    Args:
        side: of the dense kernels; those of one place are widened by the filter behind them.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    widths = [(3, 16, 1, 2), (16, 48, 1, 1), (48, 48, 48, 2), (48, 32, 1, 1), (32, 32, 32, 1), (32, 32, 32, 1)]
    for inputs, outputs, groups, stride in widths:
        size = 3 if groups > 1 or inputs == 3 else side
        layers.append(nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=outputs == 32))
        layers += [_norm(outputs), nn.ReLU6(), nn.Identity()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)).eval()


def _chain(module: nn.Module) -> Chain | None:
    found = vars(module).get("forward")
    return found if isinstance(found, Chain) else None


def _gradient(network: nn.Module, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(images)[:, 1].sum(), images)
    return gradient


@pytest.mark.parametrize("compiles", [True, False])
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("images", [1, 5])
def test_passes_with_and_without_kernels(
    monkeypatch: pytest.MonkeyPatch, images: int, side: int, compiles: bool
) -> None:
    if not compiles:
        monkeypatch.setattr(depthwise, "available", lambda: False)
    network, batch = _mobile(side), torch.rand(images, 3, 40, 44)
    classifier = Classifier(network)
    logits = network(batch).detach()
    assert float((forward(classifier, batch) - logits).abs().max()) <= 1e-5 * float(logits.abs().max())
    fast = forward(prepare(classifier, precision="fast"), batch)
    assert float((fast - logits).abs().max()) <= 3e-2 * float(logits.abs().max())
    _, found = input_gradient(classifier, batch, Target.of(1))
    expected = _gradient(network, batch)
    assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
    _, fast = input_gradient(prepare(classifier, precision="fast"), batch, Target.of(1))
    assert float(torch.corrcoef(torch.stack([fast.flatten(), expected.flatten()]))[0, 1]) > 0.98


def _passages(module: nn.Module, size: tuple[int, ...], *, recorded: bool) -> list[Passage]:
    chain = next(found for found in map(_chain, module.modules()) if found is not None)
    return chain._remembered(chain._steps(), torch.Size(size), recorded=recorded)


@compiled
def test_a_sequence_hands_its_activations_to_the_filters() -> None:
    exact = prepare(Classifier(_mobile()))
    for prepared in (exact, prepare(exact, precision="fast")):
        passages = _passages(prepared.module, (2, 3, 40, 44), recorded=True)
        assert [isinstance(passage, DepthwisePassage) for passage in passages] == [
            False,
            False,
            True,
            False,
            True,
            True,
        ]
        assert [passage.is_linear for passage in passages] == [False, True, False, True, False, False]


@compiled
def test_a_filter_does_the_work_of_the_convolution_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise, "is_wide", lambda: True)  # (it pays there alone, and is right elsewhere)
    network = _mobile(side=1)
    prepared = prepare(Classifier(network))
    for recorded in (True, False):
        passages = _passages(prepared.module, (2, 3, 40, 44), recorded=recorded)
        assert [isinstance(passage, DepthwisePassage) for passage in passages][:2] == [False, True]
        assert isinstance(passages[1], DepthwisePassage)
        assert passages[1].narrowing is not None
    # As many channels before as behind, as in MobileNet.
    layers = [
        nn.Conv2d(48, 48, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False),
        nn.ReLU(),
    ]
    alike = prepare(Classifier(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())))
    (passage,) = _passages(alike.module, (2, 48, 20, 20), recorded=True)
    assert isinstance(passage, DepthwisePassage)
    # Where the nodes of a graph run one by one each gives its own output.
    with torch.no_grad():
        first = prepared.variant("windows").module[0](torch.rand(2, 3, 40, 44))
    assert first.shape[1] == 16


@compiled
@pytest.mark.parametrize("cuts", [False, True])
@pytest.mark.parametrize("images", [2, 5])
def test_a_filter_does_the_work_of_the_convolution_behind_it(
    cuts: bool, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large maps, there and back; not back where the convolution cuts its values, as their bits are not kept."""
    monkeypatch.setattr(depthwise, "is_wide", lambda: True)  # (it pays there alone, and is right elsewhere)
    torch.manual_seed(0)
    ends: list[nn.Module] = [nn.BatchNorm2d(24), *([nn.ReLU()] if cuts else [])]
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU6(),
        nn.Conv2d(32, 24, 1, bias=False), *ends, nn.Conv2d(24, 48, 1, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5),
    ).eval()  # fmt: skip
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.load_state_dict(_norm(module.num_features).state_dict())
    batch = torch.rand(images, 3, 48, 56)
    classifier = Classifier(network)
    expected = network(batch).detach()
    torch.testing.assert_close(forward(classifier, batch), expected, rtol=1e-5, atol=1e-5)
    found, expected = input_gradient(classifier, batch, Target.of(1))[1], _gradient(network, batch)
    assert float((found - expected).abs().max()) <= 2e-6 * float(expected.abs().max())

    for back in (False, True):
        passages = _passages(prepare(classifier).module, (images, 3, 48, 56), recorded=back)
        filters = [passage for passage in passages if isinstance(passage, DepthwisePassage)]
        assert [passage.widening is not None for passage in filters] == [not (back and cuts)]
        assert len(passages) == (4 if back and cuts else 3)


@compiled
@pytest.mark.parametrize("side", [1, 3])
def test_what_is_watched_is_what_the_network_gives(side: int) -> None:
    network = _mobile(side)
    prepared = prepare(Classifier(network))
    batch = torch.rand(2, 3, 40, 44)
    for name, module in network.named_modules():
        if name in ("", "25", "26"):
            continue
        seen: list[Tensor] = []
        theirs = module.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output.detach()))
        ours = prepared.module.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, seen=seen: seen.append(output.detach().clone())
        )
        expected, found = _gradient(network, batch), _gradient(prepared.module, batch)
        theirs.remove()
        ours.remove()
        assert float((seen[0] - seen[1]).abs().max()) <= 1e-6 * float(seen[0].abs().max()), name
        assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max()), name


def test_the_same_call_gives_the_same_bits_however_often() -> None:
    """One image alone: no kernel comes in after some passes."""
    classifier = prepare(load_classifier("embedded"))
    image, target = torch.rand(1, 3, 224, 224), Target.of(301)
    maps = [saliency(classifier, image, target).maps for _ in range(6)]
    assert all(torch.equal(maps[0], again) for again in maps[1:])
    drawn = [impress(classifier, 301, "class_model:preset=paper", steps=3)[0].image for _ in range(2)]
    assert torch.equal(*drawn)


@compiled
def test_a_kernel_is_compiled_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PHOSPHENE_CACHE", str(tmp_path))
    spec = depthwise.Spec((3, 1), 1, back=False, half=False, bits=(False, False))
    name, texts = "a test", []

    def text() -> str:
        texts.append(depthwise_kernel._Filter(spec).text())
        return texts[-1]

    assert writer.compiled(name, text)
    assert writer.compiled(name, text)
    assert len(texts) == 1
    (kept,) = (tmp_path / "kernels").iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[:100], whole[:40] + b"x" + whole[41:], b""):
        kept.write_bytes(damaged)
        assert writer.compiled(name, text)
        assert kept.read_bytes() == whole
    assert len(texts) == 4
    monkeypatch.setenv("PHOSPHENE_CACHE", str(kept))  # a file, where nothing can be written
    assert writer.compiled(name, text)
    assert len(texts) == 5
