"""The contract of the methods on a device that is not the CPU, tested without one (tests/pretend_device.py)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from phosphene.attribution.saliency import saliency
from phosphene.classifier import Classifier
from phosphene.devices import CPU
from phosphene.targets import Target
from phosphene.types import Attribution
from tests.contract import checks
from tests.networks import class_convolution, classifier_of, functional_relu, pooled, vgg_f
from tests.pretend_device import PretendDevice

NETWORKS = {made.__name__: made for made in (pooled, vgg_f, functional_relu, class_convolution)}
TARGET = Target.of([3, 1, 2])
# captum itself draws its noise where the pictures are.
DRAWS_THERE = {"captum:gradient_shap"}


def images_of(count: int = 3, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(4))


def moved(classifier: Classifier, device: PretendDevice) -> Classifier:
    return classifier.with_module(classifier.module.to(device.place))


@contextmanager
def default_device(place: torch.device) -> Iterator[None]:
    torch.set_default_device(place)
    try:
        yield
    finally:
        torch.set_default_device(None)


def same(got: Attribution, expected: Attribution, tolerance: float) -> None:
    for name in ("maps", "heat", "score"):
        value, other = getattr(got, name).cpu(), getattr(expected, name)
        assert float((value - other).abs().max()) <= tolerance * float(other.abs().max()) + 1e-7, name


@functools.cache
def shared(make: Callable[[], nn.Module], place: torch.device) -> Classifier:
    """One for all methods: its first call is as long as ten others."""
    return classifier_of(make().to(place))


@functools.cache
def on_the_cpu(method: str, make: Callable[[], nn.Module]) -> Attribution | None:
    """What a method says there, once for all devices; None if it is not for this network."""
    spec, here, images = checks.quick_spec(method), shared(make, CPU), images_of()
    applies = checks.applies(spec, here, images, TARGET)
    return checks.explain(spec, here, images, TARGET) if applies else None


ON_THE_DEVICE = [
    pytest.param(method, check, id=f"{method}-{check.__name__}")
    for method in checks.method_names()
    for check in checks.CHECKS
    if check is not checks.spec_survives_its_spelling
    # What adapters hand to captum is captum's: one check sees that it comes and goes.
    and (check is checks.shape_and_device or not method.startswith("captum:"))
]
# Of the adapters, again, and of the device that has float64, one network says it all.
ON_NETWORKS = [
    (method, network)
    for method in checks.method_names()
    for network in NETWORKS
    if network != "pooled" and not method.startswith("captum:")
]


# What a method has to leave as it was is a network of its own.
ON_A_NEW_ONE = (checks.leaves_no_trace, checks.leaves_no_trace_when_thrown)


@pytest.mark.strictest
@pytest.mark.parametrize(("method", "check"), ON_THE_DEVICE)
def test_contract_on_the_device(method, check, device):
    make = checks.home(method)
    classifier = moved(classifier_of(make()), device) if check in ON_A_NEW_ONE else shared(make, device.place)
    check(checks.quick_spec(method), classifier, images_of().to(device.place), TARGET)


@pytest.mark.parametrize("method", checks.method_names())
def test_the_device_gives_the_numbers_of_the_cpu(method, device):
    gives_the_numbers_of_the_cpu(method, checks.home(method), device)


@pytest.mark.strictest
@pytest.mark.parametrize(("method", "network"), ON_NETWORKS)
def test_the_device_gives_the_numbers_of_other_networks(method, network, device):
    if on_the_cpu(method, NETWORKS[network]) is None:
        pytest.skip("not for this network")
    gives_the_numbers_of_the_cpu(method, NETWORKS[network], device)


def gives_the_numbers_of_the_cpu(method: str, make: Callable[[], nn.Module], device: PretendDevice) -> None:
    """The same seed, the same map; pictures may come from the CPU."""
    spec, images, expected = checks.quick_spec(method), images_of(), on_the_cpu(method, make)
    assert expected is not None
    for given in (images.to(device.place), images):
        got = checks.explain(spec, shared(make, device.place), given, TARGET)
        assert got.maps.device == got.heat.device == got.score.device == device.place
        if method not in (*DRAWS_THERE, *checks.ADAPTIVE):
            same(got, expected, device.tolerance)
            assert device.draws == 0


def test_ten_crops_of_pictures_from_the_cpu(device):
    images = images_of(2, 24)
    expected = saliency(classifier_of(pooled()), images, Target.of(1), crops=10)
    got = saliency(moved(classifier_of(pooled()), device), images, Target.of(1), crops=10)
    assert got.maps.device == device.place
    same(got, expected, device.tolerance)


def test_maps_of_several_layers_are_fused_on_the_device(device):
    spec = checks.quick_spec("grad_cam", layer=("2", "4"))
    expected = checks.explain(spec, classifier_of(pooled()), images_of(), TARGET)
    same(checks.explain(spec, moved(classifier_of(pooled()), device), images_of(), TARGET), expected, device.tolerance)


@pytest.mark.strictest
@pytest.mark.parametrize("where", ["cpu", "device"])
@pytest.mark.parametrize("method", [name for name in checks.method_names() if not name.startswith("captum:")])
def test_a_default_device_of_the_user_changes_nothing(method, where, device):
    """Neither for a classifier on the CPU nor for one on the device itself."""
    spec, images = checks.quick_spec(method), images_of()
    make = checks.home(method)
    expected = on_the_cpu(method, make)
    assert expected is not None
    classifier = classifier_of(make()) if where == "cpu" else moved(classifier_of(make()), device)
    with default_device(device.place):
        got = checks.explain(spec, classifier, images, TARGET)
    assert got.maps.device == classifier.device
    if method not in checks.ADAPTIVE:
        same(got, expected, device.tolerance)


# What grows with the work, and by how much of it a GPU may be asked for: once for each noisy copy's own map.
LOOPS = {
    "integrated_gradients": (("steps", 8, 64), 0),
    "occlusion": (("stride", (4, 4), (1, 1)), 0),
    "rise": (("masks", 8, 64), 0),
    "smoothgrad": (("samples", 4, 12), 1),
    "score_cam": (("channels", 2, 8), 0),
}


@pytest.mark.parametrize("method", LOOPS)
def test_loops_do_not_wait_for_the_device(method, pretended):
    (option, few, many), each = LOOPS[method]
    classifier, images = moved(classifier_of(pooled()), pretended), images_of(1).to(pretended.place)

    def waits(value: object) -> int:
        spec = checks.quick_spec(method, **{option: value})
        checks.explain(spec, classifier, images, Target.of(1), batch_size=4)
        return counted(pretended, lambda: checks.explain(spec, classifier, images, Target.of(1), batch_size=4))

    allowed = each * (many - few) if each else 0
    assert waits(many) <= waits(few) + allowed


def counted(device: PretendDevice, run: Callable[[], object]) -> int:
    """How often the CPU waits for the device in a run."""
    device.counts.clear()
    run()
    return device.counts["sync"] + device.counts["down"]


def test_the_fast_ways_of_the_cpu_are_not_taken(pretended, monkeypatch):
    """oneDNN's operators would compute on memory that is not there."""
    classifier, images = moved(classifier_of(pooled()), pretended), images_of().to(pretended.place)
    asked = []
    run = PretendDevice.run
    monkeypatch.setattr(
        PretendDevice, "run", lambda self, func, *rest: asked.append(str(func)) or run(self, func, *rest)
    )
    for method in ("saliency", "grad_cam", "occlusion", "deconvnet"):
        checks.explain(checks.quick_spec(method), classifier, images, TARGET)
    assert asked
    assert not [name for name in asked if "mkldnn" in name or "onednn" in name or "phosphene" in name]
