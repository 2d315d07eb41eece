"""Options declared once: presets, checks, and errors that name what was wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from phosphene.errors import OptionError
from phosphene.options import Option, Options, option


@dataclass(frozen=True)
class Every(Options):
    steps: int = option("number of steps", best=300, paper=400, at_least=1)
    noise: float = option("noise of the start", 0.1)
    kind: Literal["one", "two"] = option("one or two", best="two", paper="one")
    smooth: bool = option("whether it is smooth", False)
    scale: tuple[float, float] = option("low and high", (0.9, 1.1))
    limit: int | None = option("none for no limit", None)


def test_presets_and_given_values() -> None:
    assert Every() == Every.of("best") == Every.of()
    assert Every.of("paper", noise=1) == Every(steps=400, noise=1, kind="one")
    assert Every.declared()["steps"] == Option("steps", int, 300, "number of steps", {"best": 300, "paper": 400})
    assert list(Every.declared()) == ["preset", "steps", "noise", "kind", "smooth", "scale", "limit"]
    assert Every.declared()["noise"].default_of("paper") == 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps=0; give at least 1"),
        ({"steps": 1.5}, "steps=1.5 is not a whole number"),
        ({"steps": True}, "steps=True is not a whole number"),
        ({"noise": "much"}, "noise='much' is not a number"),
        ({"noise": float("nan")}, "noise=nan is not a number"),
        ({"kind": "three"}, "kind='three' is not one of one, two"),
        ({"smooth": 1}, "smooth=1 is not true or false"),
        ({"scale": (1.0,)}, "scale"),
        ({"limit": "none"}, "limit"),
        ({"preset": "worst"}, "preset 'worst' is unknown; choose best or paper"),
        ({"stepz": 3}, "no option 'stepz'"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Every.of(**given)


def test_an_option_has_one_default_or_a_value_for_each_preset() -> None:
    with pytest.raises(OptionError, match="one default, or a value for each preset"):
        option("no value at all")
    with pytest.raises(OptionError, match="one default, or a value for each preset"):
        option("both", 1, best=2)

    @dataclass(frozen=True)
    class Gaps(Options):
        steps: int = option("number of steps", best=3, paper=4)
        rate: float = option("size of a step", best=0.1)

    with pytest.raises(OptionError, match="Gaps: rate has values for best"):
        Gaps.declared()
