from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch

from phosphene.devices import has_float64
from tests.pretend_device import PretendDevice, pretend


@dataclass
class RealDevice:
    """A device that is there, with what the tests ask of a pretend one; nothing is counted on it."""

    place: torch.device
    tolerance: float = 1e-3  # its own kernels round otherwise, and a ReLU may fall on its other side
    draws: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def float64(self) -> bool:
        return has_float64(self.place)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--on", default="pretend", help="where the device tests run: pretend, gpu, or a device's name")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On pretend devices like CUDA (wide) and like Apple's GPUs, which have no float64 (narrow); or on a real one.

    Tests marked `strictest` run on the narrow one alone, which refuses all that the wide one does.
    """
    if "device" in metafunc.fixturenames:
        on = metafunc.config.getoption("--on", default="pretend")
        pretended = ["narrow"] if metafunc.definition.get_closest_marker("strictest") else ["wide", "narrow"]
        metafunc.parametrize("device", pretended if on == "pretend" else [on], indirect=True)


@functools.cache
def _pretended(kind: str) -> PretendDevice:
    """One for all tests, so that what one of them has moved there the next can use."""
    return PretendDevice() if kind == "wide" else PretendDevice("mps:0", float64=False)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[PretendDevice | RealDevice]:
    if request.param in ("wide", "narrow"):
        with pretend(_pretended(request.param)) as device:
            device.counts.clear()
            device.draws = 0
            yield device
    else:
        # cuDNN may else choose another algorithm at each call, whose last bits are others.
        with torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=True):
            yield RealDevice(torch.empty(0, device=_real(request.param)).device)


def _real(name: str) -> str:
    if name != "gpu":
        return name
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    pytest.skip("no GPU: PyTorch sees neither CUDA nor MPS here")


@pytest.fixture
def pretended(device: PretendDevice | RealDevice) -> PretendDevice:
    """The device, where it counts what is asked of it."""
    if not isinstance(device, PretendDevice):
        pytest.skip("only the pretend device counts")
    return device
