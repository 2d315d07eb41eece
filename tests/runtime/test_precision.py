"""exact multiplies float32 as float32, whatever the process allows, and leaves the setting as the user made it."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier
from phosphene.runtime import forward, input_gradient, prepare
from phosphene.runtime.precision import whole_float32
from phosphene.targets import Target

Setting = tuple[object, ...]


# The older names, and the newer ones that PyTorch has had since 2.9.
OLDER = [("float32_matmul_precision", ""), ("cuda.matmul", "allow_tf32"), ("cudnn", "allow_tf32")]
NEWER = [(owner, "fp32_precision") for owner in ("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv")]
HAS_NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")


def setting() -> Setting:
    """All of them; PyTorch does not read an older name that a newer one has overruled."""

    def value(owner: str, name: str) -> object:
        try:
            return operator.attrgetter(f"{owner}.{name}")(torch.backends) if name else getattr(torch, f"get_{owner}")()
        except RuntimeError:
            return "overruled"

    return tuple(value(*names) for names in (OLDER + NEWER if HAS_NEWER else OLDER))


class Notes(list[Setting]):
    """No plain list, whose growth would count as a change of the network."""


class Looks(nn.Module):
    """A network that notes the setting each time it runs, forward and back."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.found = Notes()

    def __deepcopy__(self, memo: object) -> Looks:
        copied = Looks()
        copied.load_state_dict(self.state_dict())
        copied.found = self.found
        return copied

    def forward(self, x: Tensor) -> Tensor:
        self.found.append(setting())
        if x.requires_grad:
            x.register_hook(lambda _: self.found.append(setting()))
        return self.body(x)


STRICT: Setting = ("highest", False, False, *(["ieee"] * len(NEWER) if HAS_NEWER else []))


@pytest.fixture(params=["high", "medium", "newer"])
def loose(request: pytest.FixtureRequest) -> Iterator[Setting]:
    """A process in which the user traded precision for speed."""
    before = setting()
    torch.backends.cudnn.allow_tf32 = True
    if request.param == "newer":
        if not HAS_NEWER:
            pytest.skip("PyTorch 2.9 brought these names")
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    else:
        torch.set_float32_matmul_precision(request.param)
    yield setting()
    torch.set_float32_matmul_precision(str(before[0]))
    torch.backends.cudnn.allow_tf32 = bool(before[2])
    for (owner, name), value in zip(NEWER, before[len(OLDER) :], strict=False):
        setattr(operator.attrgetter(owner)(torch.backends), name, value)
    assert setting() == before


def test_exact_passes_are_whole_float32(loose: Setting) -> None:
    module = Looks()
    images = torch.rand(2, 3, 8, 8)
    classifier = Classifier(module)
    prepare(classifier)
    module.found.clear()
    forward(classifier, images)
    input_gradient(classifier, images, Target.of(1))
    assert len(module.found) >= 3
    assert set(module.found) == {STRICT}
    assert setting() == loose


def test_the_setting_is_back_after_an_error(loose: Setting) -> None:
    with pytest.raises(ValueError, match="boom"), whole_float32("exact"):
        raise ValueError("boom")
    assert setting() == loose


def test_fast_leaves_the_setting_alone(loose: Setting) -> None:
    with whole_float32("fast"):
        assert setting() == loose


def test_threads_that_leave_in_the_order_they_came_lose_nothing(loose: Setting) -> None:
    """The first to come is the first to go: the second is exact to its end, and then all is as it was."""
    came, gone = threading.Event(), threading.Event()

    def first() -> None:
        with whole_float32("exact"):
            came.set()
            inside.wait(10)
        gone.set()

    inside = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    came.wait(10)
    with whole_float32("exact"):
        inside.set()
        gone.wait(10)
        assert setting() == STRICT
    thread.join()
    assert setting() == loose
