"""Norms over an image's own values: one image alone is as right as many, and as near to float64 as eager PyTorch is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phosphene.attribution.saliency import saliency
from phosphene.runtime import forward
from phosphene.types import Target
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager
from tests.robustness.strange import SIZE, body, moved
from tests.robustness.test_as_written import INDICES, pictures


class FunctionalInstanceNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, eps=1e-3)


class FunctionalGroupNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 3)


class OneGroup(nn.GroupNorm):
    """As MetaFormers have it."""

    def __init__(self) -> None:
        super().__init__(1, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "instance": lambda: nn.InstanceNorm2d(6),
    "instance with weights": lambda: nn.InstanceNorm2d(6, affine=True),
    "instance with statistics": lambda: nn.InstanceNorm2d(6, track_running_stats=True),
    "instance by a function": FunctionalInstanceNorm,
    "group of one": lambda: nn.GroupNorm(1, 6),
    "groups": lambda: nn.GroupNorm(3, 6),
    "groups of one channel": lambda: nn.GroupNorm(6, 6),
    "groups by a function": FunctionalGroupNorm,
    "groups in a class of its own": OneGroup,
    "layer": lambda: nn.LayerNorm([6, *SIZE]),
    "batch without statistics": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "local response": lambda: nn.LocalResponseNorm(3, 0.5),
}


def made(name: str, shift: float) -> nn.Module:
    """A smooth network, whose norm gets values that lie around `shift`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = body(norm=moved(NORMS[name]()), relu=nn.SiLU(), pool=nn.Identity(), last=nn.Tanh())
        nn.init.constant_(network.first.bias, shift)
        return network.eval()


@pytest.mark.parametrize("shift", [0, 4, 20])
@pytest.mark.parametrize("name", NORMS)
def test_one_image_alone_is_as_right_as_many(name: str, shift: float) -> None:
    images, classifier = pictures(), classifier_of(made(name, shift), SIZE)
    truth, eager = (Eager(module, MEAN, STD) for module in (made(name, shift).double(), made(name, shift)))
    wanted = truth.saliency(images.double(), INDICES)
    allowed = 1e-5 + 2 * map_error(eager.saliency(images, INDICES), wanted)
    together = saliency(classifier, images, Target.of(INDICES)).maps
    alone = [
        saliency(classifier, image[None], Target.of(index)).maps for image, index in zip(images, INDICES, strict=True)
    ]
    assert map_error(together, wanted) <= allowed
    assert map_error(torch.cat(alone), wanted) <= allowed
    assert map_error(forward(classifier, images), truth.logits(images.double())) <= 1e-5
