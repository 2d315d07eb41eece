"""What changes after the first call is seen at the next one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from phosphene.classifier import Classifier, Labels, Preprocess
from phosphene.runtime import forward, input_gradient, prepare
from phosphene.targets import Target
from tests.robustness.networks import assert_right, error, ordinary, pictures


class Scaled(nn.Module):
    """Numbers and tensors of many kinds that a forward uses."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ordinary()
        self.scale, self.factors, self.named = 1.0, [1.0, 2.0], {"a": 1.5}
        self.tensor, self.tensors = torch.ones(1), [torch.ones(1)]
        self.function: Callable[[Tensor], Tensor] = torch.tanh
        self.hidden = _Holder(torch.ones(1))
        self.extra: list[float] = []
        self.marks: set[str] = set()

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(x) * self.scale * self.factors[1] * self.named["a"] * self.hidden.tensor.to(x)
        x = x * sum(self.extra, 1.0) * (0.5 if "half" in self.marks else 1)
        return self.inner(x) * self.tensor.to(x) * self.tensors[0].to(x)


class _Holder:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _no_grad(change: Callable[[nn.Module], object]) -> Callable[[nn.Module], None]:
    def run(network: nn.Module) -> None:
        with torch.no_grad():
            change(network)

    return run


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "weight in place": _no_grad(lambda net: net[0].weight.mul_(2)),
    "weight through .data": lambda net: net[0].weight.data.mul_(2),
    "weight through .data of another layer": lambda net: net[10].bias.data.add_(1),
    "new .data": lambda net: setattr(net[0].weight, "data", 3 * net[0].weight.data),
    "new parameter": lambda net: setattr(net[6], "weight", nn.Parameter(2 * net[6].weight.detach())),
    "through numpy": lambda net: net[0].weight.detach().numpy().__imul__(2),
    "load_state_dict": lambda net: net.load_state_dict({key: 1.1 * value for key, value in net.state_dict().items()}),
    "assigned by load_state_dict": lambda net: net.load_state_dict(
        {key: 1.1 * value for key, value in net.state_dict().items()}, assign=True
    ),
    "double": lambda net: net.double(),
    "half": lambda net: net.half(),
    "channels last": lambda net: net.to(memory_format=torch.channels_last),
    "statistics": lambda net: net[1].running_mean.add_(1),
    "statistics through .data": lambda net: net[1].running_var.data.mul_(2),
    "a module exchanged": lambda net: net.__setitem__(2, nn.GELU()),
    "a module added": lambda net: net.append(nn.Tanh()),
    "a module removed": lambda net: net.__delitem__(2),
    "a module exchanged for an equal one": lambda net: net.__setitem__(6, nn.Conv2d(16, 24, 1)),
    "stride": lambda net: setattr(net[0], "stride", (2, 2)),
    "padding": lambda net: setattr(net[0], "padding", (0, 0)),
    "dilation": lambda net: setattr(net[3], "dilation", (2, 2)),
    "epsilon": lambda net: setattr(net[1], "eps", 0.5),
    "output size of pooling": lambda net: (setattr(net[8], "output_size", 2), net.__setitem__(10, nn.Linear(96, 5))),
    "forward": lambda net: setattr(net[2], "forward", torch.abs),
    "forward hook": lambda net: net[2].register_forward_hook(lambda module, given, output: 0.5 * output),
    "pre-hook": lambda net: net.register_forward_pre_hook(lambda module, given: (given[0] + 0.1,)),
}


def _changed(change: Callable[[nn.Module], object], network: nn.Module) -> nn.Module:
    torch.manual_seed(9)
    change(network)
    return network


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_network_is_noticed(name: str) -> None:
    change, network = CHANGES[name], ordinary()
    classifier = Classifier(network)
    before = forward(classifier, pictures()), input_gradient(classifier, pictures(), Target.of(1))
    _changed(change, network)
    assert_right(lambda: _changed(change, ordinary()).float(), classifier, most=1e-3 if name == "half" else 1e-5)
    if name not in ("double", "half", "channels last"):
        assert not torch.equal(forward(classifier, pictures()), before[0])


ATTRIBUTES: dict[str, Callable[[Scaled], object]] = {
    "float": lambda net: setattr(net, "scale", 2.0),
    "list of numbers": lambda net: net.factors.__setitem__(1, 3.0),
    "dict of numbers": lambda net: net.named.update(a=0.5),
    "tensor": lambda net: net.tensor.mul_(2),
    "tensor through .data": lambda net: net.tensor.data.mul_(2),
    "tensor in a list": lambda net: net.tensors[0].data.mul_(2),
    "another tensor in a list": lambda net: net.tensors.__setitem__(0, torch.full((1,), 3.0)),
    "list that was empty": lambda net: net.extra.append(2.0),
    "set that was empty": lambda net: net.marks.add("half"),
    "function": lambda net: setattr(net, "function", torch.sigmoid),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_changed_attribute_is_noticed(name: str) -> None:
    network = Scaled().eval()
    classifier = Classifier(network)
    forward(classifier, pictures())
    ATTRIBUTES[name](network)

    def made() -> nn.Module:
        other = Scaled().eval()
        ATTRIBUTES[name](other)
        return other

    assert_right(made, classifier)


def test_what_no_check_can_see_is_seen_after_refresh() -> None:
    network = Scaled().eval()
    classifier = Classifier(network)
    before = forward(classifier, pictures())
    network.hidden.tensor.data.mul_(2)
    classifier.refresh()
    after = forward(classifier, pictures())
    assert not torch.equal(before, after)
    assert error(after, network.double()(pictures().double())) <= 1e-5


def test_a_hook_that_is_gone_is_gone() -> None:
    network = ordinary()
    classifier, handle = Classifier(network), network[2].register_forward_hook(lambda module, given, output: 3 * output)
    tripled = forward(classifier, pictures())
    handle.remove()
    assert not torch.equal(forward(classifier, pictures()), tripled)
    assert_right(ordinary, classifier)


def test_fields_of_the_classifier_may_be_set() -> None:
    classifier, images = Classifier(ordinary()), pictures()
    forward(classifier, images)
    classifier.preprocess = Preprocess(None, None, (0.2, 0.3, 0.4), (0.5, 0.5, 0.5))
    wanted = ordinary()((images - torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)) / 0.5)
    assert torch.allclose(forward(classifier, images), wanted, atol=1e-5)
    classifier.head = "sigmoid"
    assert prepare(classifier).head == "sigmoid"
    classifier.labels = Labels(("a", "b", "c", "d", "e"))
    assert prepare(classifier).labels[1] == "b"
    classifier.module = nn.Sequential(ordinary(), nn.Tanh())
    assert torch.allclose(forward(classifier, images), wanted.tanh(), atol=1e-5)


def test_a_prepared_form_that_somebody_holds_notices_too() -> None:
    network = ordinary()
    for precision in ("exact", "fast"):
        prepared = prepare(Classifier(network), precision=precision)  # type: ignore[arg-type]
        before = forward(prepared, pictures())
        network[10].bias.data.add_(5)
        after = forward(prepared, pictures())
        assert prepare(prepared).precision == precision
        assert torch.allclose(after, before + 5, atol=0.1)


def test_nothing_is_made_anew_while_nothing_changes() -> None:
    classifier = Classifier(Scaled().eval())
    prepared = prepare(classifier)
    for _ in range(3):
        input_gradient(classifier, pictures(), Target.of(1))
        assert prepare(classifier) is prepared
        assert prepare(prepared) is prepared
        fast = prepare(classifier, precision="fast")
        assert prepare(fast, precision="exact").network is fast.network is prepared.network
