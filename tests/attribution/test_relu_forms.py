"""ReLUs written by hand: the rules of deconvnet and guided back-propagation reach them, or refuse the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import phosphene
from phosphene.errors import ModelError


class _Net(nn.Module):
    def __init__(self, activation) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.activation(self.second(self.activation(self.first(x)))).mean((2, 3)))


def _assigned(x: Tensor) -> Tensor:
    y = x.clone()
    y[y < 0] = 0
    return y


CAUGHT = {
    "product": lambda x: x * (x > 0),
    "product of floats": lambda x: (x > 0).float() * x,
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where of zeros": lambda x: torch.where(x >= 0, x, torch.zeros_like(x)),
    "method": lambda x: x.where(x > 0, 0.0),
    "masked": lambda x: x.masked_fill(x < 0, 0),
    "masked in place": lambda x: x.clone().masked_fill_(x < 0, 0.0),
    "assigned": _assigned,
    "fmax": lambda x: torch.fmax(x, torch.zeros_like(x)),
    "where of what is below": lambda x: torch.where(x <= 0, 0.0, x),
    "where of what is below, by name": lambda x: torch.where(input=torch.zeros_like(x), condition=x < 0, other=x),
    "product in place": lambda x: x.clone().multiply_((x > 0).float()),
}
REFUSED = {
    "magnitude": lambda x: (x + x.abs()) / 2,
    "what is below taken off": lambda x: x - x.clamp(max=0),
    "minimum": lambda x: -torch.minimum(-x, torch.zeros_like(x)),
    "leaky, as the larger": lambda x: torch.maximum(x, 0.1 * x),
    "leaky, by its sign": lambda x: torch.where(x > 0, x, 0.1 * x),
    "elu by hand": lambda x: torch.where(x > 0, x, torch.exp(x.clamp(max=0)) - 1),
    "leaky, by its other sign": lambda x: torch.where(x < 0, 0.1 * x, x),
    "what is below alone": lambda x: torch.where(x > 0, 0.0, x),
    "leaky, in two": lambda x: torch.relu(x) + torch.where(x > 0, torch.zeros_like(x), 0.2 * x),
    "thresholds of the channels": lambda x: torch.max(x, torch.linspace(-0.1, 0.2, x.shape[1]).view(-1, 1, 1)),
    "thresholds by keyword": lambda x: torch.maximum(input=x, other=torch.full_like(x[:1], 0.1)),
    "sine": torch.sin,
}


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("form", CAUGHT)
def test_a_relu_by_hand_is_one(form, method):
    images = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    expected = phosphene.attribute(_Net(torch.relu).eval(), images, 1, method)
    plain = phosphene.attribute(_Net(torch.relu).eval(), images, 1, "input_x_gradient")
    found = phosphene.attribute(_Net(CAUGHT[form]).eval(), images, 1, method)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.score, plain.score)


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_relu_is_refused(form):
    with pytest.raises(ModelError, match="ReLU rule"):
        phosphene.attribute(_Net(REFUSED[form]).eval(), torch.randn(1, 3, 12, 12), 1, "guided_backprop")


def test_a_number_that_keeps_values_safe_is_no_activation():
    def safe(x: Tensor) -> Tensor:
        return torch.maximum(torch.relu(x), torch.tensor(1e-6))

    found = phosphene.attribute(_Net(safe).eval(), torch.randn(1, 3, 12, 12), 1, "guided_backprop")
    assert found.maps.isfinite().all()


def test_a_mask_of_ones_is_no_relu():
    images = torch.rand(1, 3, 12, 12)

    def masked(x: Tensor) -> Tensor:
        return torch.relu(x) * torch.ones_like(x)

    expected = phosphene.attribute(_Net(torch.relu).eval(), images, 1, "guided_backprop")
    found = phosphene.attribute(_Net(masked).eval(), images, 1, "guided_backprop")
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("form", ["product", "where", "masked", "where of what is below"])
def test_where_all_values_are_positive_it_is_still_a_relu(form):
    def lifted(activation):
        return lambda x: activation(x.abs() + 1)

    images = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    expected = phosphene.attribute(_Net(lifted(torch.relu)).eval(), images, 1, "guided_backprop")
    found = phosphene.attribute(_Net(lifted(CAUGHT[form])).eval(), images, 1, "guided_backprop")
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: torch.cat([torch.max(*x.chunk(2, dim=1))] * 2, dim=1),  # as of LightCNN
        lambda x: torch.cat([torch.maximum(*x.split(4, dim=1))] * 2, dim=1),
        lambda x: torch.cat([x[:, :4] + x[:, 4:].abs()] * 2, dim=1),
    ],
)
def test_two_parts_of_a_value_are_no_relu(form):
    network, images = _Net(form).eval(), torch.randn(1, 3, 12, 12)
    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(leaf)[0, 1], leaf)
    found = phosphene.attribute(network, images, 1, "guided_backprop")
    torch.testing.assert_close(found.maps, expected.sum(dim=1), rtol=1e-4, atol=1e-7)


def test_a_mask_of_a_wider_type_widens_what_comes_out():
    images = torch.randn(1, 3, 12, 12)
    network = _Net(lambda x: (x * (x > 0).double()).float()).eval()
    plain = phosphene.attribute(network, images, 1, "input_x_gradient")
    torch.testing.assert_close(phosphene.attribute(network, images, 1, "guided_backprop").score, plain.score)


class _Rows(nn.Module):
    """A recurrent layer over the rows of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.LSTM(24, 4, batch_first=True), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.transpose(1, 2).flatten(2))[0][:, -1])


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
def test_what_a_recurrent_layer_rectifies_inside_is_refused(method):
    with pytest.raises(ModelError, match="no ReLU rule"):
        phosphene.attribute(_Rows(), torch.rand(1, 3, 8, 8), 1, method)


def _added_and_rectified(x: Tensor) -> Tensor:
    return torch.relu(2 * x + 1) * 0.5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_function_is_refused_however_often_it_ran():
    net, image = _Net(torch.jit.script(_added_and_rectified)), torch.rand(1, 3, 8, 8)
    for _ in range(4):  # (from the second on PyTorch runs it as one operation)
        with pytest.raises(ModelError, match="scripted"):
            phosphene.attribute(net, image, 1, "guided_backprop")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_function_of_a_magnitude_is_refused():
    scripted = torch.jit.script(_added_and_rectified)
    net, image = _Net(lambda x: scripted(x.abs())), torch.rand(1, 3, 8, 8)
    for _ in range(4):
        with pytest.raises(ModelError, match="scripted"):
            phosphene.attribute(net, image, 1, "guided_backprop")
