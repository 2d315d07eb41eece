"""Norms over an image's own values: one image alone is as right as many, and as near to float64 as eager PyTorch is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode, is_in_torch_dispatch_mode
from torch.utils.checkpoint import checkpoint

from phosphene.attribution.saliency import saliency
from phosphene.runtime import forward
from phosphene.runtime.norms import right_norms
from phosphene.targets import Target
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager
from tests.robustness.strange import SIZE, Body, body, moved
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


class Around(Body):
    """A norm between operations that lay out values in their own ways."""

    def __init__(self, norm: nn.Module, before: str, behind: str) -> None:
        super().__init__(norm=norm, relu=nn.Softplus(), pool=nn.Identity(), last=nn.SiLU())
        self.before, self.behind = before, behind
        self.attention = nn.MultiheadAttention(6, 1, batch_first=True)

    def below(self, x: Tensor) -> Tensor:
        return self.laid(self.norm(self.laid(self.relu(self.first(x)), self.before)), self.behind)

    def laid(self, x: Tensor, how: str) -> Tensor:
        count, channels, height, width = x.shape
        if how == "shuffled":
            return x.view(count, 3, 2, height, width).transpose(1, 2).reshape(x.shape)
        if how == "shuffled by one":
            return x.reshape(count, channels, 1, height, width).transpose(1, 2).reshape(x.shape)
        if how == "attended":
            tokens = x.flatten(2).transpose(1, 2)
            tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return tokens.transpose(1, 2).reshape(x.shape)
        if how == "turned":
            return x.permute(3, 2, 0, 1).contiguous().sigmoid().permute(2, 3, 1, 0)
        if how == "one row":
            return x.mean(2, keepdim=True)
        return x


LAYOUTS = ["", "shuffled", "shuffled by one", "attended", "turned", "one row"]
USUAL = {
    "batch": lambda: nn.BatchNorm2d(6),
    "batch by a function": lambda: FunctionalBatchNorm(),
    **{name: NORMS[name] for name in ("instance", "instance by a function", "groups", "batch without statistics")},
}


class FunctionalBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.variance = nn.Buffer(torch.randn(6) / 3), nn.Buffer(torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance)


@pytest.mark.parametrize("name", USUAL)
def test_a_norm_is_right_whatever_lies_around_it(name: str) -> None:
    """PyTorch's own gradient of batch and instance norms is wrong for some layouts of what comes back."""
    images = pictures()
    for before in LAYOUTS:
        for behind in LAYOUTS:

            def around(before: str = before, behind: str = behind) -> nn.Module:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(3)
                    return Around(moved(USUAL[name]()), before, behind).eval()

            classifier, truth = classifier_of(around(), SIZE), Eager(around().double(), MEAN, STD)
            eager = Eager(around(), MEAN, STD)
            wanted = truth.saliency(images.double(), INDICES)
            allowed = 1e-5 + 3 * map_error(eager.saliency(images, INDICES), wanted)
            alone = saliency(classifier, images[:1], Target.of(INDICES[0])).maps
            assert map_error(alone, wanted[:1]) <= allowed, (before, behind)
            assert map_error(saliency(classifier, images, Target.of(INDICES)).maps, wanted) <= allowed, (before, behind)


class Reentrant(Around):
    """What is run anew on the way back has a graph of its own, which the graph of the scores does not show."""

    def below(self, x: Tensor) -> Tensor:
        return checkpoint(super().below, x, use_reentrant=True)


@pytest.mark.parametrize("name", ["batch", "batch by a function"])
def test_a_norm_inside_a_checkpoint_is_right_for_one_image(name: str) -> None:
    def around(kind: type[Around]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return kind(moved(USUAL[name]()), "attended", "shuffled").eval()

    image = pictures()[:1]
    wanted = Eager(around(Around).double(), MEAN, STD).saliency(image.double(), INDICES[:1])
    found = saliency(classifier_of(around(Reentrant), SIZE), image, Target.of(INDICES[0])).maps
    assert map_error(found, wanted) <= 1e-5


def test_a_norm_that_fails_on_the_way_back_leaves_no_mode() -> None:
    pixels = torch.rand(2, 6, 4, 4, requires_grad=True)
    values = 2 * pixels
    score = F.batch_norm(values, torch.zeros(6), torch.ones(6)).square().sum()
    with torch.no_grad():
        values.add_(1)  # what the norm kept for its way back
    with pytest.raises(RuntimeError, match="modified by an inplace operation"), right_norms(score):
        torch.autograd.grad(score, pixels)
    assert _get_current_dispatch_mode() is None
    assert not is_in_torch_dispatch_mode()
