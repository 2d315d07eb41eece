"""Settings in objects with slots, lists of a class of their own, deep inside: a change is seen at the next call."""

from __future__ import annotations

import signal
from array import array
from collections import UserDict
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from phosphene.attribution.saliency import saliency
from phosphene.runtime import forward
from phosphene.runtime.comparable import attributes, comparable, is_settings
from tests.comparing import map_error
from tests.networks import MEAN, STD, classifier_of
from tests.oracles.plain_autograd import Eager
from tests.robustness.strange import SIZE, Body
from tests.robustness.test_as_written import INDICES, TARGET, pictures
from tests.robustness.test_never_stale_further import made

MOST = 1e-4


@dataclass(slots=True)
class Config:
    temperature: float = 1.0
    scales: list = field(default_factory=lambda: [1.0, 1.0])


class More(Config):
    """With a dictionary beside the slots."""

    def __init__(self) -> None:
        super().__init__()
        self.extra = 1.0


class Scales(list):
    gain = 1.0


class Sign(Enum):
    PLUS, MINUS = 1.0, -1.0


class Settings(Body):
    def __init__(self) -> None:
        super().__init__()
        self.config, self.more, self.scales = Config(), More(), Scales([1.0])
        self.scales.shift = 0.0
        inner = SimpleNamespace(cosine=SimpleNamespace(scale=1.0))
        self.tree = SimpleNamespace(model=SimpleNamespace(head=SimpleNamespace(inner=inner)))
        self.bytes, self.array = bytearray([1]), array("d", [1.0])
        self.table = np.array([(1.0, 2)], dtype=[("scale", "f8"), ("count", "i4")])
        self.sign = Sign.PLUS
        self.held, self.user, self.chosen = SimpleNamespace(gain=torch.ones(1)), UserDict(a=1.0), {torch.ones(1)}

    def below(self, x: Tensor) -> Tensor:
        config, more = self.config, self.more
        scale = config.temperature * config.scales[1] * more.temperature * more.extra * self.scales[0]
        scale *= self.tree.model.head.inner.cosine.scale * self.bytes[0] * self.array[0] * float(self.table["scale"][0])
        (chosen,) = self.chosen
        scale *= self.sign.value
        return super().below(x) * scale * self.held.gain * self.user["a"] * chosen + self.scales.shift


CHANGES = {
    "a slot": lambda net: setattr(net.config, "temperature", 0.5),
    "a list in a slot": lambda net: net.config.scales.__setitem__(1, 3.0),
    "an inherited slot": lambda net: setattr(net.more, "temperature", 2.0),
    "beside the slots": lambda net: setattr(net.more, "extra", -2.0),
    "a list of its own class": lambda net: net.scales.__setitem__(0, 3.0),
    "the attribute of a list": lambda net: setattr(net.scales, "shift", 1.0),
    "five objects deep": lambda net: setattr(net.tree.model.head.inner.cosine, "scale", 3.0),
    "bytes": lambda net: net.bytes.__setitem__(0, 2),
    "numbers in an array of Python's": lambda net: net.array.__setitem__(0, 2.5),
    "a field of a table": lambda net: net.table["scale"].__setitem__(0, -1.5),
    "a tensor in a namespace": lambda net: net.held.gain.data.mul_(-2),
    "an item of a UserDict": lambda net: net.user.__setitem__("a", 4.0),
    "a member of an enumeration": lambda net: setattr(net, "sign", Sign.MINUS),
    "a tensor in a set": lambda net: next(iter(net.chosen)).data.mul_(3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_in_objects_are_seen(change):
    network = made(Settings)
    classifier, truth, images = classifier_of(network, SIZE), Eager(network, MEAN, STD), pictures()
    before = forward(classifier, images)
    CHANGES[change](network)
    after = forward(classifier, images)
    assert map_error(after, truth.logits(images)) <= MOST
    assert map_error(saliency(classifier, images, TARGET).maps, truth.saliency(images, INDICES)) <= MOST
    assert map_error(after, before) > 1e-3


def test_objects_that_hold_each_other_and_many_of_them_come_to_an_end():
    one, other = SimpleNamespace(scale=1.0), SimpleNamespace(scale=2.0)
    one.other, other.other = other, one
    assert comparable(one) == comparable(one)
    wide = SimpleNamespace(children=[SimpleNamespace(number=index) for index in range(60)])
    for child in wide.children:
        child.parts = [SimpleNamespace(owner=wide, number=index) for index in range(60)]
    assert len(str(comparable(wide))) < 100_000


def test_of_an_enumeration_the_member_alone_is_looked_at():
    """Its attributes lead to its class, and that to all the others: 13 ms of each call for a signal's number."""
    assert len(str(comparable(signal.SIGSEGV))) < 100
    assert comparable(SimpleNamespace(sign=Sign.PLUS)) != comparable(SimpleNamespace(sign=Sign.MINUS))


def test_of_many_objects_of_a_class_what_it_holds_is_looked_at_once():
    kind = type("Scaled", (), {"scales": [1.0] * 50})
    many = [kind() for _ in range(60)]
    before = comparable(many)
    assert str(before).count("scales") == 1
    many[40].__class__ = type("Other", (), {"scales": [2.0]})
    assert comparable(many) != before
    many[40].__class__ = kind
    assert comparable(many) == before
    kind.scales[3] = 2.0
    assert comparable(many) != before


class Plus:
    gain = 1.0


class Minus:
    gain = -1.0


class Table(Enum):
    FIRST = [1.0, 2.0]  # noqa: RUF012
    SECOND = Config()


class Extended(Enum):
    ONE = "one"

    def __init__(self, _name: str) -> None:
        self.gain = 1.0


IN_ENUMERATIONS = {
    "an object of a class that was seen": ([Plus(), Minus(), Plus()], lambda held: held.__setitem__(2, Minus())),
    "a list that is a member": (Table.FIRST, lambda held: held.value.__setitem__(0, 5.0)),
    "an object that is a member": (Table, lambda held: setattr(held.SECOND.value, "temperature", 5.0)),
    "an attribute of a member": (Extended.ONE, lambda held: setattr(held, "gain", 5.0)),
}


@pytest.mark.parametrize("what", IN_ENUMERATIONS)
def test_what_objects_and_enumerations_hold_is_compared(what):
    held, change = IN_ENUMERATIONS[what]
    before = comparable(held)
    assert comparable(held) == before
    change(held)
    assert comparable(held) != before


def test_what_is_written_in_c_has_no_slots_of_settings():
    assert attributes(slice(1, 2)) == {}
    assert not is_settings(torch.Generator())
    assert attributes(Config(2.0)) == {"temperature": 2.0, "scales": [1.0, 1.0]}
