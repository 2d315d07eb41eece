"""Which module alone reads what another one returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import fx, nn


@dataclass(frozen=True)
class Successor:
    """A module that is the only reader of the module before it.

    Args:
        name: of the module.
        boundaries: names of the modules whose input or output lies between the two: both of them, and the containers
            that one of them lies in and the other does not. A hook on one of these sees what lies between.
    """

    name: str
    boundaries: tuple[str, ...]


def successors(traced: fx.GraphModule) -> dict[str, list[Successor]]:
    """Per module those that follow it one after the other, each run once and the only reader of the one before it.

    Example:
        >>> from phosphene.graph import trace
        >>> net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.ReLU())
        >>> [(found.name, found.boundaries) for found in successors(trace(net))["0.0"]]
        [('0.1', ('0.0', '0.1')), ('1', ('0', '0.1', '1'))]
    """
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    found = {}
    for node in traced.graph.nodes:
        if node.op != "call_module" or calls[str(node.target)] != 1:
            continue
        behind: list[Successor] = []
        path, last = [str(node.target)], node
        while len(last.users) == 1:
            (user,) = last.users
            if user.op != "call_module" or calls[str(user.target)] != 1 or user.args != (last,) or user.kwargs:
                break
            path, last = [*path, str(user.target)], user
            # What hands on what it was given is no more than another boundary.
            if type(traced.get_submodule(str(user.target))) is not nn.Identity:
                behind.append(Successor(path[-1], _boundaries(path)))
                path = path[-1:]
        found[str(node.target)] = behind
    return found


def _boundaries(path: Sequence[str]) -> tuple[str, ...]:
    crossed = set(path).union(*(_containers(a) ^ _containers(b) for a, b in pairwise(path)))
    return tuple(sorted(crossed))


def _containers(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:depth]) for depth in range(1, len(parts))}
