"""Where memory runs out a pass goes on in smaller batches with the same results, and says so where one is too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phosphene.attribution.ablation_cam import ablated_scores
from phosphene.attribution.relu_rules import rule_gradient
from phosphene.classifier import Classifier
from phosphene.errors import ResourceError
from phosphene.runtime import (
    activations,
    blended_scores,
    forward,
    head_features,
    input_gradient,
    layer_gradients,
    masked_scores,
    prepare,
)
from phosphene.targets import Target
from phosphene.tasks.attributions import explain

TARGET = Target.of([0, 1, 2, 0, 1, 2, 0])
ONE = Target.of(1)
BOXES = [(y, x, y + 4, x + 4) for y in (0, 4, 8) for x in (0, 4, 8)]
MASKS = torch.rand(9, 12, 12, generator=torch.Generator().manual_seed(0))


class Machine:
    """Has room for so many images at once; beyond that it raises what PyTorch raises."""

    room = 1000
    error: type[Exception] = RuntimeError


@torch.fx.wrap
def allocate(x: Tensor) -> Tensor:
    if len(x) > Machine.room:
        raise Machine.error("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried")
    return x


class Tight(nn.Module):
    """Asks for memory."""

    def forward(self, x: Tensor) -> Tensor:
        return allocate(x)


@pytest.fixture
def tight() -> Classifier:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), Tight(), nn.Conv2d(4, 5, 3), nn.ReLU())
    return Classifier(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)))


def _shared(classifier: Classifier, images: Tensor) -> Any:
    prepared = prepare(classifier).remembering(images)
    return layer_gradients(prepared, images, TARGET, ["4"]).gradients["4"], forward(prepared, images)


PASSES: dict[str, Callable[[Classifier, Tensor], Any]] = {
    "forward": forward,
    "activations": lambda net, images: activations(net, images, ["1"])[1]["1"],
    "head_features": lambda net, images: head_features(net, images)[:2],
    "input_gradient": lambda net, images: input_gradient(net, images, TARGET),
    "rule_gradient": lambda net, images: rule_gradient(net, images, TARGET, lambda g, through: through(g)),
    "layer_gradients": lambda net, images: layer_gradients(net, images, TARGET, ["1"]).gradients["1"],
    "shared": _shared,
    "windowed": lambda net, images: masked_scores(net, images[:2], ONE, BOXES, net.mean_image).covered,
    "whole": lambda net, images: masked_scores(net, images[:2], ONE, BOXES, net.mean_image, windowed=False).covered,
    "blended": lambda net, images: blended_scores(net, images[:2], ONE, MASKS, net.mean_image),
    "ablated": lambda net, images: ablated_scores(net, images[:2], ONE, "1"),
}


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
@pytest.mark.parametrize("name", PASSES)
def test_smaller_batches_give_the_same(
    name: str, error: type[Exception], tight: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(7, 3, 12, 12)
    wanted = PASSES[name](tight, images)
    monkeypatch.setattr(Machine, "error", error)
    for room in (3, 1):
        monkeypatch.setattr(Machine, "room", room)
        torch.testing.assert_close(PASSES[name](tight, images), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PASSES)
def test_a_single_image_that_does_not_fit_is_one_clear_line(
    name: str, tight: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "room", 0)
    with pytest.raises(ResourceError, match=r"out of memory on cpu: a batch of 1 of 3 x 12 x 12 \(number 1 of \d+\)"):
        PASSES[name](tight, torch.rand(7, 3, 12, 12))


def test_other_errors_are_not_taken_for_want_of_memory(tight: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "error", ZeroDivisionError)
    monkeypatch.setattr(Machine, "room", 2)
    with pytest.raises(ZeroDivisionError):
        forward(tight, torch.rand(7, 3, 12, 12))


def test_progress_reaches_its_end_all_the_same(tight: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "room", 3)
    seen: list[tuple[int, int]] = []
    explain(tight, torch.rand(1, 3, 12, 12), "occlusion:window=4,stride=4", progress=lambda *step: seen.append(step))
    assert seen[-1] == (9, 9)
    assert seen == sorted(seen)
