"""NaN and infinity come out where the network as written gives them, and rule out no comparison elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from phosphene import attribute
from phosphene.classifier import Classifier, Preprocess
from phosphene.kernels.accelerate import _may_make_nan
from phosphene.runtime import forward, prepare
from phosphene.runtime.trials import finite_pairs, near

SIZE = 16
METHODS = ["saliency", "grad_cam", "cam", "layer_cam", "eigen_cam", "ablation_cam", "occlusion:window=8,stride=8"]


class Net(nn.Sequential):
    def __init__(self, act=nn.ReLU) -> None:
        super().__init__(
            *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), act(), nn.Conv2d(8, 8, 3, 1, 1), act()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
        )
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(2))


def images() -> Tensor:
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))


def classifier(network: nn.Module) -> Classifier:
    return Classifier(network.eval(), Preprocess((SIZE, SIZE)))


DAMAGES = {
    "a kernel": lambda net: net[0].weight.data[2, 1, 1].fill_(torch.nan),
    "a bias": lambda net: net[3].bias.data[1].fill_(torch.nan),
    "a variance below zero": lambda net: net[1].running_var[3].fill_(-1),
    "an infinite weight": lambda net: net[1].weight.data[3].fill_(torch.inf),
}


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_network_has_no_scores(damage, act):
    network = Net(act)
    DAMAGES[damage](network)
    expected = network.eval()(images())
    assert expected.isnan().all() or (act is nn.ReLU6 and "infinite" in damage)
    torch.testing.assert_close(forward(classifier(network), images()), expected, equal_nan=True)
    for method in METHODS if expected.isnan().all() else ():
        found = attribute(classifier(network), images(), 1, method)
        assert found.score.isnan().all(), method
        assert all(problem is not None and "NaN" in problem for problem in found.problems), method


class Steps(Net):
    """Does something to the picture that is no number somewhere."""

    def __init__(self, step) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.step(x))


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.log(),
        lambda x: (x - 0.2).sqrt(),
        lambda x: x / x.norm(dim=(2, 3), keepdim=True),
        lambda x: x / x.amax(dim=(1, 2, 3), keepdim=True),
        lambda x: torch.pow(x - 0.2, 0.5),
        lambda x: 1 / x - 1 / x.flip(1),
    ],
)
def test_what_becomes_of_a_covered_picture_is_what_the_network_says(step):
    network, given = Steps(step), images()
    given[0, :, 4:12, 4:12] = 0
    given[1] = 0
    truth = copy.deepcopy(network).double().eval()(given.double())
    found = forward(classifier(network), given)
    torch.testing.assert_close(found.double(), truth, atol=1e-4, rtol=1e-4, equal_nan=True)
    assert truth.isnan().any()


def test_occlusion_of_a_network_that_takes_a_logarithm():
    found = attribute(classifier(Steps(lambda x: x.log())), images() + 0.1, 1, "occlusion:window=8,stride=8")
    assert found.maps.isnan().all()
    assert all(found.problems)


@pytest.mark.parametrize(
    ("step", "may"),
    [
        (lambda x: x.log(), True),
        (lambda x: torch.sqrt(x), True),
        (lambda x: x / x.sum(), True),
        (lambda x: x.arccos(), True),
        (lambda x: x.clone().reciprocal_(), True),
        (lambda x: x**-1, True),
        (lambda x: x**2, False),
        (lambda x: x / 2, False),
        (lambda x: (x - torch.ones(1)) / torch.ones(1), False),
        (lambda x: x * 2 + 1, False),
    ],
)
def test_what_may_be_no_number_is_read_off_the_graph(step, may):
    assert _may_make_nan(fx.symbolic_trace(Steps(step))) is may


class RuledOut(Net):
    """Two classes are no part of the task."""

    def __init__(self, low: float | None) -> None:
        super().__init__()
        self.low = low

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        out = torch.tensor([False, False, False, True, True])
        return scores[:, :3] if self.low is None else scores.masked_fill(out, self.low)


@pytest.mark.parametrize("method", ["finer_cam", "finer_cam:classes=4", "grad_cam", "occlusion:window=8,stride=8"])
def test_classes_that_are_ruled_out_change_nothing(method):
    maps, notes = {}, {}
    for low in (None, -1e9, -torch.inf):
        found = attribute(classifier(RuledOut(low)), images(), 1, method)
        maps[low], notes[low] = found.maps, found.notes
    torch.testing.assert_close(maps[-torch.inf], maps[-1e9])
    torch.testing.assert_close(maps[-torch.inf], maps[None])
    assert notes[-torch.inf] == notes[None]


class OneLayoutAlone(RuledOut):
    """Right for maps that are laid out plainly, and for no others."""

    def forward(self, x: Tensor) -> Tensor:
        x = self[2](self[1](self[0](x)))
        rows, columns = x.shape[2:]
        x = torch.as_strided(x, x.shape, (x[0].numel(), rows * columns, columns, 1))
        scores = self[7]((x * torch.linspace(-1, 1, columns).to(x)).mean(dim=(2, 3)))
        return scores.masked_fill(torch.tensor([False, False, False, True, True]), -torch.inf)


def test_infinity_among_the_scores_hides_no_difference_of_layouts():
    network, given = OneLayoutAlone(None).eval(), images()[:1]
    torch.testing.assert_close(forward(classifier(network), given), network(given))
    assert prepare(classifier(network)).name == "OneLayoutAlone"


def test_comparisons_see_what_is_finite_and_where_the_rest_is():
    expected = torch.tensor([1.0, -torch.inf, torch.nan])
    assert near(torch.tensor([1.0, -torch.inf, torch.nan]), expected, 1e-6)
    assert not near(torch.tensor([1.1, -torch.inf, torch.nan]), expected, 1e-2)
    assert not finite_pairs(torch.tensor([1.0, torch.inf, torch.nan]), expected)[0]
    assert not near(torch.tensor([torch.nan, -torch.inf, torch.nan]), expected, 1.0)
