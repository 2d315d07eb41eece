"""Networks that change themselves as they run: every pass is the first one of the network as it was given."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import FakeQuantize, MovingAverageMinMaxObserver
from torch.nn import functional as F

from phosphene.errors import PhospheneWarning
from phosphene.runtime import prepare
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager, boxes
from tests.robustness.everything import changed, everything
from tests.robustness.networks import in_double
from tests.robustness.strange import SIZE, Body, Case
from tests.robustness.test_as_written import INDICES, WAYS, pictures
from tests.robustness.test_never_stale_further import made

MOST = 1e-4


class Counted(Body):
    """A count of calls that scales what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.known, self.space, self.turns = 0, {"calls": 0}, types.SimpleNamespace(calls=0), []
        self.register_buffer("count", torch.zeros(()))

    def times(self) -> Any:
        self.calls += 1
        return self.calls

    def below(self, x: Tensor) -> Tensor:
        return super().below(x) * self.times()


class CountedInABuffer(Counted):
    def times(self) -> Any:
        return self.count.add_(1)


class CountedInADict(Counted):
    def times(self) -> Any:
        self.known["calls"] += 1
        return self.known["calls"]


class CountedInAnObject(Counted):
    def times(self) -> Any:
        self.space.calls += 1
        return self.space.calls


class CountedByAList(Counted):
    def times(self) -> Any:
        self.turns.append(None)
        return len(self.turns)


class CountedForLater(Counted):
    """Nothing is to be seen of it at the first passes."""

    def times(self) -> Any:
        return 1 if super().times() < 12 else 3


class Averaged(Body):
    """Divides by a running mean that also runs in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean_seen", torch.ones(6))

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        with torch.no_grad():
            self.mean_seen.mul_(0.9).add_(x.mean((0, 2, 3)), alpha=0.1)
        return x / (self.mean_seen.abs() + 0.5)[:, None, None]


class AveragedAnew(Averaged):
    def below(self, x: Tensor) -> Tensor:
        x = Body.below(self, x)
        self.mean_seen = 0.9 * self.mean_seen + 0.1 * x.detach().mean((0, 2, 3))
        return x * self.mean_seen[:, None, None]


class Remembering(Body):
    """Adds what it saw last, as networks of frames do."""

    previous: Tensor | None = None

    def below(self, x: Tensor) -> Tensor:
        x = super().below(x)
        found = x if self.previous is None else x + self.previous.mean(0, keepdim=True)
        self.previous = x.detach()
        return found


class Answering(Body):
    """Keeps its first answer for all that come after."""

    answer: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.answer is None:
            self.answer = super().forward(x)
        return self.answer


class Iterating(Body):
    """The spectral norm of before PyTorch had one: each pass takes a step of the power iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(self.second.weight.detach().clone())
        del self.second.weight
        self.left = nn.Parameter(F.normalize(torch.randn(8), dim=0), requires_grad=False)

    def below(self, x: Tensor) -> Tensor:
        rows = self.weight.flatten(1)
        right = F.normalize(rows.T.data @ self.left.data, dim=0)
        self.left.data = F.normalize(rows.data @ right, dim=0)
        self.second.weight = self.weight / (self.left @ rows @ right)
        return super().below(x)


class Observed(Body):
    """Prepared for training with rounding, its observers still on."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds = FakeQuantize(MovingAverageMinMaxObserver, 0, 255)

    def below(self, x: Tensor) -> Tensor:
        return self.rounds(super().below(x))


MOVING: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: lambda kind=kind: made(kind)
    for kind in (
        *(Counted, CountedInABuffer, CountedInADict, CountedInAnObject, CountedByAList, CountedForLater),
        *(Averaged, AveragedAnew, Remembering, Answering, Iterating, Observed),
    )
}


def of_first_passes(way: str, make: Callable[[], nn.Module], images: Tensor, case: Case) -> Tensor:
    """By plain autograd, each picture and each covered copy through a network that never ran before."""

    def fresh() -> Eager:
        return Eager(in_double(make()), MEAN, STD)

    rows = []
    for image, index in zip(images, INDICES, strict=True):
        if way == "occlusion":
            places = boxes(SIZE, (5, 3), (4, 4))
            rows.append(torch.cat([fresh().occlusion(image[None], [index], [place]) for place in places]).view(1, 4, 4))
        elif way == "scores":
            rows.append(fresh().logits(image[None]))
        elif way == "grad_cam":
            rows.append(fresh().grad_cam(image[None], [index], "second"))
        else:
            rows.append(fresh().saliency(image[None], [index]))
    return torch.cat(rows)


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("name", MOVING)
def test_every_pass_is_the_first(name: str) -> None:
    network, images, case = MOVING[name](), pictures(), Case(MOVING[name])
    classifier, before = classifier_of(network, SIZE), everything(network)
    errors = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PhospheneWarning)
        for way in ("scores", "saliency", "grad_cam", "occlusion", "saliency"):
            found = WAYS[way][0](classifier, images, case)
            errors[way] = map_error(found, of_first_passes(way, MOVING[name], images.double(), case))
    assert all(error <= MOST for error in errors.values()), errors
    assert changed(before, everything(network)) == []


class Keeping(Body):
    """Keeps its features for whoever wants to see them, and a grid that is made at the first pass."""

    grid: Tensor | None = None

    def below(self, x: Tensor) -> Tensor:
        self.features = super().below(x)
        if self.grid is None:
            self.grid = torch.linspace(0.5, 1.5, self.features.shape[-1])
        return self.features * self.grid


def test_what_is_merely_kept_is_no_state() -> None:
    classifier = classifier_of(made(Keeping), SIZE)
    found = WAYS["saliency"][0](classifier, pictures(), Case(lambda: made(Keeping)))
    wanted = Eager(in_double(made(Keeping)), MEAN, STD).saliency(pictures().double(), INDICES)
    assert map_error(found, wanted) <= MOST
    assert not prepare(classifier).network.moves
