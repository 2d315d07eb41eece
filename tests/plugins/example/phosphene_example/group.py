"""A kind of target: several classes at once, whichever of them it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from phosphene import Target
from phosphene.labels import Labels
from phosphene.targets import CommandOption, Named, Outputs, class_target
from phosphene.types import Score


@dataclass(frozen=True)
class Group(Target, kind="group", option=CommandOption("CLASS+CLASS", "Whichever of several classes it is.")):
    """The logarithm of the summed exponentials of several classes' scores."""

    members: tuple[str | int, ...]

    @classmethod
    def parse(cls, text: str) -> Group:
        return cls(tuple(text.split("+")))

    def found_in(self, network: Named) -> Group:
        return replace(self, members=class_target(self.members, network.labels).classes)

    def scores(self, outputs: Outputs, default: Score = "logit") -> Tensor:
        return outputs.logits[:, list(self.members)].logsumexp(dim=1)

    def label(self, labels: Labels) -> str:
        return " or ".join(labels[int(member)] for member in self.members)

    def __str__(self) -> str:
        return "+".join(map(str, self.members))
